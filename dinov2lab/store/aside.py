"""What goes on beside the work of a process, for as long as that takes."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def aside(do: Callable[[threading.Event], None]) -> Iterator[None]:
    """While inside, `do` runs in a thread; at the end, however it comes about, its event is set and it is waited for."""
    over = threading.Event()
    thread = threading.Thread(target=do, args=(over,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
