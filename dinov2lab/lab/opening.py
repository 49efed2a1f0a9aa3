"""Whether sources can be opened, asked in a process of its own: drawing the embedded web takes memory that is not given back.

The process is `python -m dinov2lab.lab.opening DATA CACHE URI... -- URI...`. It says what is wrong, and exits with
MISTAKE; else which of the URIs behind the dashes, which are only evaluated on, are not there, a line each.
"""

import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from dinov2lab.data.source import Missing, Roots, open_source
from dinov2lab.lab.workers import cause
from dinov2lab.spec.study import Cell

MISTAKE = 2  # exit code


def check(cells: Iterable[Cell], roots: Roots) -> list[str]:
    """A line for each set that `cells` are only evaluated on and that is not there: it will be skipped.

    Raises ValueError where any other source cannot be opened: said once, and before anything starts.
    """
    specs = [cell.spec for cell in cells]
    needed = {uri for spec in specs for uri in spec.sources() if uri not in spec.only_evaluated_on()}
    beside = {uri for spec in specs for uri in spec.sources()} - needed
    return [f"not evaluated: {line}" for line in refuse_absent(sorted(needed), roots, sorted(beside))]


def refuse_absent(needed: Iterable[str], roots: Roots, beside: Iterable[str] = ()) -> list[str]:
    """A line for each of `beside` that is not there. Raises ValueError where any of `needed` is not, or cannot be opened."""
    command = [sys.executable, "-m", "dinov2lab.lab.opening", str(roots.data), str(roots.cache)]
    answer = subprocess.run([*command, *needed, "--", *beside], capture_output=True, text=True, check=False)
    if answer.returncode == MISTAKE:
        raise ValueError(answer.stdout.strip())
    if answer.returncode != 0:
        raise ValueError(f"the sources cannot be opened: {answer.stderr.strip() or cause(answer.returncode)}")
    return answer.stdout.splitlines()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal reaches all; the parent decides
    data, cache, *uris = sys.argv[1:]
    roots, middle = Roots(Path(data), Path(cache)), uris.index("--")
    try:
        for uri in uris[:middle]:
            open_source(uri, roots)
        said, code = _missing(uris[middle + 1 :], roots), 0
    except ValueError as error:
        said, code = [str(error)], MISTAKE
    except OSError as error:
        said, code = [f"{error.filename or 'file system'}: {error.strerror or error}"], MISTAKE
    sys.stdout.writelines(f"{line}\n" for line in said)
    raise SystemExit(code)


def _missing(uris: Sequence[str], roots: Roots) -> list[str]:
    found = []
    for uri in uris:
        try:
            open_source(uri, roots)
        except Missing as error:
            found.append(str(error).splitlines()[0])
    return found


if __name__ == "__main__":
    main()
