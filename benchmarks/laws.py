"""How often the intervals of a power law with an offset hold the truth, and how often a forecast is refused for no reason.

    python benchmarks/laws.py [--studies N]

One JSON line for each design: sizes, seeds, the true exponent, the deviations of a run and of what a seed does to all sizes.
"""

import argparse
import json

import numpy as np

from dinov2lab.report.scaling import MISFIT, fit

LIMIT, GAIN, ALPHA = 0.8, -0.4, 0.05
DESIGNS = (
    (4, 3, 0.5, 0.01, 0.01),
    (4, 3, 0.3, 0.005, 0.02),
    (5, 3, 1.0, 0.01, 0.0),
    (6, 5, 0.5, 0.01, 0.01),
    (4, 3, 0.2, 0.02, 0.01),
)

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--studies", type=int, default=1500)
studies = parser.parse_args().studies
generator = np.random.default_rng(0)
for sizes, seeds, exponent, own, shared in DESIGNS:
    x = 100.0 * 4 ** np.arange(sizes)
    mean = LIMIT + GAIN * (x / 100) ** -exponent
    laws = []
    for _ in range(studies):
        noise = shared * generator.normal(size=(1, seeds)) + own * generator.normal(size=(sizes, seeds))
        laws.append(fit(x, mean[:, None] + noise, ALPHA))
    limits = [law.limit_interval for law in laws]
    true = [LIMIT + GAIN * (law.ahead / 100) ** -exponent for law in laws]
    held = {
        "exponent": [law.exponent_interval.low <= exponent <= law.exponent_interval.high for law in laws],
        "limit": [each is None or each.low <= LIMIT <= each.high for each in limits],
        "limit_open": [each is None for each in limits],
        "forecast": [
            law.forecast_interval.low <= y <= law.forecast_interval.high for law, y in zip(laws, true, strict=True)
        ],
        "misfit": [law.misfit < MISFIT for law in laws],
        "refused": [bool(law.refusal) for law in laws],
    }
    design = {"sizes": sizes, "seeds": seeds, "exponent": exponent, "own": own, "shared": shared}
    print(
        json.dumps({"design": design, **{name: round(float(np.mean(each)), 4) for name, each in held.items()}}),
        flush=True,
    )
