"""A study from a notebook: its runs, its numbers as a table, and what its networks see. Cells begin at `# %%`.

Run it where ablations/ is, as the command line is run: `python docs/notebook.py`. What has a result is not trained again.
"""

# %% A study, as `dinov2lab run` knows it; load_study(NAME, ["optim.lr=1e-3"]) is another one
import numpy as np

import dinov2lab

study = dinov2lab.load_study("curation_vs_uncurated")
print(study.question)

# %% Train what is missing; the report lies in reports/ afterwards
outcomes = dinov2lab.run(study)
failed = [outcome for outcome in outcomes if outcome.status == "failed"]
print(f"{len(outcomes)} runs, {len(failed)} failed")

# %% Every number of it, one a row: study, arm, seed, run, metric, step, value, cost
frame = dinov2lab.results(study)
final = frame[frame.metric == "test/knn"]
print(final.pivot(index="arm", columns="seed", values="value"))

# %% A curve over cost, in FLOPs: ready for any library that draws tables
curve = frame[frame.metric == "loss/total"].groupby(["arm", "cost"], observed=True).value.mean()
print(curve.groupby("arm", observed=True).tail(1))

# %% What one of the networks sees, of files, PIL pictures, arrays, or a source
best = max(outcomes, key=lambda outcome: outcome.metrics.get("val/knn", 0.0))
seen = dinov2lab.features(best, "toyweb:test?images=96")  # (96, D)
unit = seen / np.linalg.norm(seen, axis=1, keepdims=True)
print("nearest to the first image:", np.argsort(-unit @ unit[0])[1:6])

# %% The network itself, a torch module in eval mode
backbone = dinov2lab.load_backbone(best)
print(f"{sum(parameter.numel() for parameter in backbone.parameters()):,} parameters")
