"""What a worker hears from its parent."""

import os
import sys
from typing import TextIO


def from_parent() -> TextIO:
    """Standard input, as an object of its own.

    A thread waits on it, and meanwhile holds its lock. Processes that are forked then (data/ahead.py) begin by closing
    sys.stdin: if that were the object, they would wait for a lock that nobody in them lets go.
    """
    return os.fdopen(os.dup(sys.stdin.fileno()), encoding="utf-8")
