"""Has training collapsed, and how? Told from what every step measures, in logarithms of the K prototypes.

    uniform     whatever the image, every prototype gets the same share: the loss stands at ln K
    constant    whatever the image, the same few prototypes get all: the entropy over the whole batch is near 0

A healthy run begins at ln K too, and its head stands still at first: nothing is said before the warm-up and the freeze of the
last layer are over, and PATIENCE steps more.
"""

import math

from torch import Tensor

from dinov2lab.spec.run import RunSpec
from dinov2lab.store.result import RunFolder
from dinov2lab.training.step import State

PATIENCE = 200  # steps
EVERY, LOOKS = 10, 10  # a look every so many steps; so many in a row must agree
UNIFORM, CONSTANT = 0.998, 0.05  # shares of ln K: of the loss at least, of the entropy over the batch at most
COLLAPSE = "health/collapse"
KINDS = ("healthy", "uniform", "constant")


class Watch:
    """Looks at the steps as they come. A resume goes on from `state.looks` and what metrics.jsonl says up to there."""

    def __init__(self, spec: RunSpec, state: State, folder: RunFolder) -> None:
        self._spec, self._state = spec, state
        self._first = max(spec.optim.warmup_steps, spec.optim.freeze_last_layer_steps) + PATIENCE
        told = [row for row in folder.rows() if COLLAPSE in row and row["step"] <= state.step]
        self._named = [(row["step"], int(row[COLLAPSE])) for row in told]

    def see(self, logged: dict[str, Tensor]) -> dict[str, float]:
        """What to write down about the step that was taken: {COLLAPSE: index of KINDS} where that has changed."""
        state = self._state
        if state.step <= self._first or state.step % EVERY:
            return {}
        now = kind({name: float(value) for name, value in logged.items()}, self._spec)
        state.looks = (*state.looks, now)[-LOOKS:]
        before = self._named[-1][1] if self._named else 0
        if now == before or state.looks != (now,) * LOOKS:
            return {}
        self._named.append((state.step, now))
        return {COLLAPSE: float(now)}

    def verdict(self) -> str:
        """healthy; collapsed (uniform) at step N; recovered at step N from a collapse (uniform)."""
        if not self._named:
            return KINDS[0]
        step, now = self._named[-1]
        if now:
            return f"collapsed ({KINDS[now]}) at step {step}"
        return f"recovered at step {step} from a collapse ({KINDS[self._named[-2][1]]})"


def kind(values: dict[str, float], spec: RunSpec) -> int:
    """Index of KINDS, by one step's values alone."""
    objective = spec.objective
    if not objective.dino.weight:  # the class token's scores mean nothing
        patches = math.log((objective.ibot.head or objective.dino.head).prototypes)
        masked = int(2 * spec.optim.batch * objective.ibot.masks.probability) / (2 * spec.optim.batch)
        masked = 1.0 if objective.ibot.tokens == "all" else masked
        loss = values.get("loss/ibot", 0.0)  # the mean over the crops that are compared, times their share
        return 1 if masked and loss >= UNIFORM * masked * patches else 0
    most = math.log(objective.dino.head.prototypes)
    if values["student/spread"] <= CONSTANT * most:
        return 2
    stuck = values["loss/dino_global"] + values["loss/dino_local"] >= UNIFORM * most
    return 1 if stuck and values["student/entropy"] >= UNIFORM * most else 0
