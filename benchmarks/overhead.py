"""What a study costs beyond its training, evaluation and curation, and what its launcher takes of memory.

    python benchmarks/overhead.py [--seeds N] [--steps N]

The demo's study, four arms of each seed and one embedder, twice, one run at a time: once by nothing but the functions that
curate, train and evaluate, in one process; then by `dinov2lab run`. Five seeds of 480 steps are 20 runs of about 30 s. One
JSON line for each figure. CPU seconds are those of all processes; on a machine with other work only they mean something.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
STUDY = "ablations/curation_vs_uncurated.yaml"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=480)
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    words = [f"seeds={list(range(10, 10 + asked.seeds))}", f"optim.steps={asked.steps}"]
    if asked.steps == 480:
        words.pop()  # it changes nothing, and is refused
    if asked.bare:
        bare(asked.bare, words)
        return
    with tempfile.TemporaryDirectory() as folder:
        once = measured([sys.executable, __file__, "--bare", f"{folder}/bare", *sys.argv[1:]])
        places = [f"--workspace={folder}/lab", f"--reports={folder}/reports", "--device=cpu", "--jobs=1"]
        command = [sys.executable, "-m", "dinov2lab.cli", "run", STUDY, *places]
        whole = measured([*command, *(f"--set={word}" for word in words)])
    for kind in ("seconds", "cpu_seconds"):
        tell(f"bare_{kind}", once[kind])
        tell(f"study_{kind}", whole[kind])
        tell(f"overhead_percent_of_{kind}", 100 * (whole[kind] / once[kind] - 1))
    tell("launcher_peak_mb", whole["mb"])


def tell(figure: str, value: float) -> None:
    print(json.dumps({"figure": figure, "value": round(value, 1)}), flush=True)


def measured(command: list[str]) -> dict[str, float]:
    """Of a command with its children: seconds, CPU seconds; the peak memory of its own process."""
    before, began, mb = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic(), 0.0
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    while process.poll() is None:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        mb = int(found[1]) / 1024 if found else mb
        time.sleep(0.05)
    assert process.returncode == 0
    assert process.stdout
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    said = process.stdout.read()
    inner = json.loads(said) if said.startswith("{") else {}
    return {"seconds": seconds, "cpu_seconds": cpu, "mb": mb} | inner


def bare(folder: Path, words: list[str]) -> None:
    """Curation, training and evaluation of each run, in this process; nothing is written but what these write themselves."""
    from dinov2lab.commands import resources_for
    from dinov2lab.data.source import Roots, open_source
    from dinov2lab.evaluation import protocol
    from dinov2lab.lab import execute
    from dinov2lab.lab.exam import Places, chosen_pictures, evaluation_data
    from dinov2lab.lab.judging import finals, looks, references
    from dinov2lab.lab.machine import device_of, tell_torch
    from dinov2lab.lab.seeing import eyes
    from dinov2lab.spec.load import load_study
    from dinov2lab.spec.study import expand
    from dinov2lab.store.folders import Workspace
    from dinov2lab.training import loop

    workspace = Workspace(folder)
    roots, resources = Roots(ROOT, workspace.cache), resources_for(1, "cpu")[1]
    device, began, cpu = device_of(resources), time.monotonic(), time.process_time()
    for cell in expand(load_study(ROOT / STUDY, words)):
        spec, px = cell.spec, cell.spec.views.global_px
        tell_torch(resources, spec, "cpu")
        manifest = execute.curated(spec, workspace, roots, resources)
        sources = {uri: open_source(uri, roots) for uri in spec.sources()}
        train = chosen_pictures(sources[spec.data.train], manifest, workspace)
        unlabelled = train.some(range(min(len(train), protocol.HEALTH_IMAGES)))
        data = evaluation_data(spec.evaluation, px, sources, unlabelled, Places(workspace, roots))
        run = workspace.run(cell.run)
        run.path.mkdir(parents=True)
        look = lambda teacher, student, spec=spec, data=data: looks(teacher, student, spec, data)
        trained = loop.train(spec, train, run, resources, device, look)
        assert trained
        finals(eyes(trained.backbone, px), data, spec.evaluation)
        references(spec, data, device, None)
        execute.certify(manifest, spec, workspace, roots, resources, execute.never)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = time.process_time() - cpu + children.ru_utime + children.ru_stime
    print(json.dumps({"seconds": time.monotonic() - began, "cpu_seconds": spent}))


if __name__ == "__main__":
    main()
