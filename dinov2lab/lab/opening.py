"""Whether sources can be opened, asked in a process of its own: drawing the embedded web takes memory that is not given back.

The process is `python -m dinov2lab.lab.opening DATA CACHE URI...`; it says on stderr what is wrong, in one line.
"""

import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from dinov2lab.data.source import Roots, open_source
from dinov2lab.spec.study import Cell

MISTAKE = 2  # exit code


def check(cells: Iterable[Cell], roots: Roots) -> None:
    """Raise ValueError where a source of `cells` cannot be opened: said once, and before anything starts."""
    uris = sorted({uri for cell in cells for uri in cell.spec.sources()})
    command = [sys.executable, "-m", "dinov2lab.lab.opening", str(roots.data), str(roots.cache), *uris]
    answer = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if answer.returncode == MISTAKE:
        raise ValueError(answer.stderr.strip().splitlines()[-1])
    if answer.returncode != 0:
        raise ValueError(f"the sources cannot be opened: {answer.stderr.strip() or answer.returncode}")


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal reaches all; the parent decides
    data, cache, *uris = sys.argv[1:]
    for uri in uris:
        try:
            open_source(uri, Roots(Path(data), Path(cache)))
        except ValueError as error:
            raise SystemExit(_said(str(error))) from None
        except OSError as error:
            raise SystemExit(_said(f"{error.filename or uri}: {error.strerror or error}")) from None


def _said(line: str) -> int:
    sys.stderr.write(line + "\n")
    return MISTAKE


if __name__ == "__main__":
    main()
