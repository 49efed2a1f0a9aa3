"""What `doctor` says of one thing."""

from typing import Literal, NamedTuple

State = Literal["ok", "lacking", "broken"]  # lacking: runs work without it, at a cost; broken: a run needs it


class Finding(NamedTuple):
    """`cost`: what is not to be had, or had slower; `mend`: the line that mends it, for a shell where that can be."""

    what: str
    state: State
    there: str
    cost: str = ""
    mend: str = ""
