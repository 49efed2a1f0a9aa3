"""Points of a Gaussian process, from a process of their own: Optuna's needs torch, and what asks and tells stays small.

The process (`python -m dinov2lab.lab.gaussian`) reads pickled questions from its standard input, answers each with a pickled
point on its standard output, and leaves when the input ends. It sees no storage: a question holds the trials that there are.
"""

import pickle
import signal
import subprocess
import sys
import warnings
from contextlib import suppress
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution
from optuna.search_space import intersection_search_space
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from dinov2lab.lab.workers import cause

Space = dict[str, BaseDistribution]


class Question(NamedTuple):
    seed: int
    directions: list[StudyDirection]
    trials: list[FrozenTrial]  # all that there are, in their order
    number: int  # of the one that wants a point
    space: Space


class Gaussian:
    """The asking end. The process starts with the first question, and is kept for the next ones."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def answer(self, question: Question) -> dict[str, Any]:
        """The point, by Optuna's names and values. Raises ValueError where the process dies twice."""
        for _ in range(2):  # a process that was killed gets a successor
            process = self._running()
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(BrokenPipeError, EOFError, pickle.UnpicklingError):
                pickle.dump(question, process.stdin)
                process.stdin.flush()
                point: dict[str, Any] = pickle.load(process.stdout)
                return point
            code = process.wait()
        raise ValueError(f"what proposes points (sampler gp) died twice, of {cause(code)}; see above")

    def dismiss(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            with suppress(BrokenPipeError):  # it has died
                self._process.stdin.close()
            self._process.wait()
            self._process = None

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-m", "dinov2lab.lab.gaussian"]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self._process


class GaussianSampler(optuna.samplers.BaseSampler):
    """As Optuna's GPSampler, which it asks elsewhere; at random until `startup` trials are complete."""

    def __init__(self, gaussian: Gaussian, seed: int, startup: int) -> None:
        self._gaussian, self._seed, self._startup = gaussian, seed, startup
        self._chance = optuna.samplers.RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Space:
        """The fields that all complete trials have; the others are drawn at random."""
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(complete) < self._startup:
            return {}
        return {name: field for name, field in intersection_search_space(complete).items() if not field.single()}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Space) -> dict[str, Any]:
        if not search_space:
            return {}
        trials = study.get_trials(deepcopy=False)
        return self._gaussian.answer(Question(self._seed, study.directions, trials, trial.number, search_space))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._chance.sample_independent(study, trial, param_name, param_distribution)


def point_for(question: Question) -> dict[str, Any]:
    """What Optuna's sampler proposes, fitted anew to all trials."""
    study = optuna.create_study(directions=question.directions)
    study.add_trials(question.trials)
    sampler = optuna.samplers.GPSampler(seed=question.seed, n_startup_trials=1)  # whoever asks has had them
    return sampler.sample_relative(study, study.get_trials(deepcopy=False)[question.number], question.space)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal reaches all; the parent decides
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    with suppress(EOFError, BrokenPipeError):  # nobody asks any more, or hears the answer
        while True:
            answer = point_for(pickle.load(sys.stdin.buffer))
            sys.stdout.buffer.write(pickle.dumps(answer))
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
