"""Reading back what was written here: a damaged file is one line that names it, and says what makes it anew."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

AGAIN = "delete it, and the same command makes it anew"
FOLDER = "delete the folder that it lies in, and the next `dinov2lab run` computes that again"


def read(file: Path, parse: Callable[[bytes], T], remedy: str = AGAIN) -> T:
    """What `parse` makes of the file. Raises ValueError where it is damaged, FileNotFoundError where it is not there."""
    content = file.read_bytes()
    try:
        return parse(content)
    except (ValueError, TypeError, KeyError) as error:  # pydantic's and pyarrow's are ValueErrors
        raise damaged(file, error, remedy) from error


def read_json(file: Path, remedy: str = AGAIN) -> Any:
    return read(file, json.loads, remedy)


def damaged(file: Path, error: Exception, remedy: str = AGAIN) -> ValueError:
    """pydantic says what it found in the lines after its first."""
    lines = [line.strip().partition(" [type=")[0] for line in str(error).splitlines()]
    return ValueError(f"{file}: damaged ({(lines[1:] or lines or [type(error).__name__])[0]}); {remedy}")
