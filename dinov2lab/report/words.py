"""Numbers and names for readers: accuracies in per cent, differences in points, and no folder of this machine."""

import math
import re

from dinov2lab.report.statistics import Interval

REFERENCES = {"pixels": "raw pixels", "untrained": "the same network untrained", "initial": "the weights it began with"}

# Quoted paths first, since only there may a folder's name hold a space. A URL's double slash is no path.
_QUOTED = re.compile(r"""(['"])(?:file://)?(?:/|~/|[A-Za-z]:\\)[^'"\n]*?([^/\\'"\n]*)\1""")
_BARE = re.compile(r"""(?:file://|(?<![\w./…&<]))(?:~?/(?=[\w.])|[A-Za-z]:\\)(?:[^\s/\\'"<>]+[/\\])*""")


def without_folders(text: str) -> str:
    """`text` with each absolute path cut down to its last name: a report travels, the machine's folders do not."""
    return _BARE.sub("…/", _QUOTED.sub(r"\1…/\2\1", text))


def is_accuracy(metric: str) -> bool:
    """Whether a metric is measured with labels, as a fraction from 0 to 1."""
    return any(part in ("val", "test") for part in metric.split("/")[:-1])


def higher_is_better(metric: str) -> bool:
    return not metric.startswith("loss/")


TITLES = {
    "loss/total": "Total loss",
    "loss/dino_global": "DINO loss, global crops",
    "loss/dino_local": "DINO loss, local crops",
    "loss/ibot": "iBOT loss",
    "loss/koleo": "KoLeo loss",
    "health/feature_std": "Feature standard deviation",
    "health/rankme": "RankMe",
    "teacher/entropy": "Entropy of the teacher's output",
    "student/entropy": "Entropy of the student's output",
    "gradient/norm": "Gradient norm",
}


def title(metric: str) -> str:
    """`test/knn` as `test kNN`."""
    group, _, name = metric.rpartition("/")
    plain = {"knn": "kNN", "linear": "linear probe"}.get(name, name.replace("_", " "))
    return TITLES.get(metric) or f"{group.replace('_', ' ')} {plain}".strip()


def heading(metric: str) -> str:
    """`test kNN, %`: a title with the unit that `value` gives."""
    return title(metric) + (", %" if is_accuracy(metric) else "")


def scale(metric: str) -> float:
    """What a value is multiplied by to be in the unit of `heading`."""
    return 100.0 if is_accuracy(metric) else 1.0


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def count(number: int) -> str:
    """Thousands apart by a thin space."""
    return f"{number:,}".replace(",", "\u202f")


def number(value: float | None, digits: int = 3) -> str:
    """Some significant digits, thousands apart, a true minus."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if abs(value) >= 1000:
        return count(round(value)).replace("-", "−")
    if value and abs(value) < 1e-3:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    return f"{value:#.{digits}g}".rstrip(".").replace("-", "−") if value else "0"


def tick(value: float) -> str:
    """A round number, without the zeros that say nothing."""
    return f"{value:g}".replace("-", "−") if 1e-4 <= abs(value) < 1000 else number(value)


def value(metric: str, amount: float | None) -> str:
    """`61.2` for an accuracy, in per cent; three significant digits else."""
    if amount is None or not math.isfinite(amount) or not is_accuracy(metric):
        return number(amount)
    return f"{100 * amount:.1f}".replace("-", "−")


def signed(metric: str, amount: float | None) -> str:
    """A difference: `+5.3`, in points for an accuracy. What rounds to zero has no sign."""
    text = value(metric, amount)
    if amount is None or not math.isfinite(amount):
        return text
    if not text.strip("−0."):
        return text.lstrip("−")
    return text if text.startswith("−") else f"+{text}"


def points(metric: str, amount: float | None) -> str:
    """The size of a difference, with its unit."""
    return value(metric, amount) + (" points" if is_accuracy(metric) else "")


def signed_points(metric: str, amount: float | None) -> str:
    return signed(metric, amount) + (" points" if is_accuracy(metric) else "")


def level(alpha: float) -> str:
    return f"{100 * (1 - alpha):g} %"


def resolvable(metric: str, amount: float | None) -> str:
    """A smallest resolvable difference: what no accuracy could ever show is said as such."""
    return "over 100" if amount is not None and is_accuracy(metric) and amount > 1 else value(metric, amount)


def resolvable_points(metric: str, amount: float | None) -> str:
    return resolvable(metric, amount) + (" points" if is_accuracy(metric) else "")


def published(amount: float | None) -> str:
    """A number as a paper prints it."""
    return "–" if amount is None else f"{amount:g}".replace("-", "−")


def span(metric: str, interval: Interval | None) -> str:
    return f"{value(metric, interval.low)} to {value(metric, interval.high)}" if interval else "–"


def signed_span(metric: str, interval: Interval | None) -> str:
    return f"{signed(metric, interval.low)} to {signed(metric, interval.high)}" if interval else "–"


def effect(amount: float | None) -> str:
    """A difference in standard deviations, signed."""
    text = number(amount, 2)
    return text if amount is None or text.startswith("−") or text == "0" else f"+{text}"


def effect_span(interval: Interval) -> str:
    return f"{effect(interval.low)} to {effect(interval.high)}"


def listed(names: list[str] | tuple[str, ...]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def seeds(numbers: list[int] | tuple[int, ...]) -> str:
    return f"seed{'' if len(numbers) == 1 else 's'} {listed([str(number) for number in numbers])}"


def plural(number: int, noun: str) -> str:
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def amount(count: float) -> str:
    """`1.2 T`, `38 k`: for FLOPs and images, where the order matters."""
    for size, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= size:
            return f"{count / size:.3g}\u202f{letter}"
    return f"{count:g}"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
