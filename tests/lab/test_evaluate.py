"""Evaluations after the end: of a run, a checkpoint and a model of timm's; from the cache; apart from the run's result."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import EMBEDDER, RECIPE, STUDY

from dinov2lab.cli import main
from dinov2lab.data.loader import Pictures
from dinov2lab.data.parquet import ParquetSource
from dinov2lab.data.source import Roots, open_source
from dinov2lab.evaluation.revisited import revisited_maps
from dinov2lab.export.formats import export
from dinov2lab.lab.evaluate import Asked, evaluate
from dinov2lab.lab.exam import Places, evaluation_data
from dinov2lab.lab.judging import finals
from dinov2lab.lab.seeing import Cache, eyes, remembered
from dinov2lab.lab.subject import Subject, of_file, of_run, of_timm
from dinov2lab.model.vit import Backbone
from dinov2lab.spec.identity import run_id
from dinov2lab.spec.load import load_recipe, load_study
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.study import expand
from dinov2lab.store import atomic
from dinov2lab.store.evaluation import METRICS
from dinov2lab.store.folders import Workspace
from dinov2lab.store.result import RunFolder, RunResult

MEMORY, TEST = "toyweb:queries?images=96", "toyweb:test?images=96"
DENSE = Asked("toyweb:scenes?images=48", ("toyweb:scenes_test?images=48",), ())


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    file = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    file.write_text(RECIPE)
    return load_recipe(file)


def backbone(spec: RunSpec, seed: int = 0) -> Backbone:
    """Weights that nobody trained."""
    net, generator = Backbone(spec.model, spec.views.global_px), torch.Generator().manual_seed(seed)
    net.initialise(generator)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return net


def finished(spec: RunSpec, workspace: Workspace, seed: int = 0) -> RunFolder:
    """A run as it is left in the end, as far as an evaluation looks."""
    folder = workspace.run(run_id(spec))
    atomic.write_text(folder.spec, spec.model_dump_json())
    atomic.write_json(folder.provenance, {"manifest_folder": "cache/manifests/m", "weights": None})
    torch.save(backbone(spec, seed).state_dict(), folder.backbone)
    folder.write_outcome(RunResult(run=folder.path.name, status="finished", code="c0de", finished_at=1.0))
    return folder


@pytest.fixture
def places(tmp_path: Path) -> Places:
    workspace = Workspace(tmp_path / "lab")
    return Places(workspace, Roots(tmp_path, workspace.cache))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images that anybody asks for: from a source, or decoded, from wherever."""
    asked: list[str] = []
    for kind, name in ((ParquetSource, "read"), (Pictures, "pixels")):
        real: Callable[..., object] = getattr(kind, name)

        def noting(self: object, index: int, real: Callable[..., object] = real) -> object:
            asked.append(f"{self}/{index}")
            return real(self, index)

        monkeypatch.setattr(kind, name, noting)
    return asked


def run_evaluation(subject: Subject, places: Places, *metrics: str, on: tuple[str, ...] = (TEST,)) -> dict[str, float]:
    return evaluate(subject, Asked(MEMORY, on, metrics), places).values[on[0]]


# What is measured


def test_a_run_has_the_values_that_its_own_end_would_have_written(spec: RunSpec, places: Places) -> None:
    folder = finished(spec, places.workspace)
    result = folder.result.read_bytes()
    found = evaluate(of_run(folder), Asked(MEMORY, (TEST,), ()), places)
    sources = {uri: open_source(uri, places.roots) for uri in (MEMORY, TEST)}
    data = evaluation_data(spec.evaluation, 32, sources, Pictures(sources[MEMORY], range(9)), places)
    assert found.values[TEST] == finals(eyes(backbone(spec), 32), data, spec.evaluation)
    assert {"test/knn", "test/linear", "test/retrieval", "test/segmentation"} <= found.values[TEST].keys()
    assert folder.result.read_bytes() == result
    assert [file.suffix for file in folder.evaluations.iterdir()] == [".json"]


def test_every_evaluation_has_its_images_in_toyweb(spec: RunSpec, places: Places) -> None:
    subject = of_run(finished(spec, places.workspace))
    shifted = f"{TEST}&shift=contrast"
    found = evaluate(
        subject, Asked(MEMORY, (TEST, shifted), ("few_shot", "linear_grid", "logistic", "pictures")), places
    )
    for uri in (TEST, shifted):
        assert {"test/knn_1_shot", "test/linear", "test/logistic"} <= found.values[uri].keys()
        assert "test/knn" not in found.values[uri]
    copies = evaluate(subject, Asked(MEMORY, ("toyweb:copies?images=96",), ()), places).values[
        "toyweb:copies?images=96"
    ]
    assert 0 < copies["test/copies"] < 1
    dense = evaluate(subject, DENSE, places).values[DENSE.on[0]]
    assert {"test/segmentation", "test/depth", "test/depth_order", "health/rankme"} == {
        name for name in dense if name.startswith("test/") or name == "health/rankme"
    }
    assert dense["test/depth_order"] > 0.5
    assert len(list(subject.folder.glob("*.png"))) == 2


def test_each_is_usable_alone_and_measures_nothing_else(spec: RunSpec, places: Places) -> None:
    scenes, copies = DENSE.on[0], "toyweb:copies?images=96"
    alone = {
        "knn": (MEMORY, TEST, {"knn"}),
        "few_shot": (MEMORY, TEST, {"knn_1_shot", "knn_5_shot", "knn_10_shot"}),
        "linear": (MEMORY, TEST, {"linear"}),
        "linear_grid": (MEMORY, TEST, {"linear"}),
        "logistic": (MEMORY, TEST, {"logistic"}),
        "retrieval": (MEMORY, TEST, {"retrieval"}),
        "segmentation": (DENSE.memory, scenes, {"segmentation"}),
        "depth": (DENSE.memory, scenes, {"depth", "depth_order"}),
        "copies": (MEMORY, copies, {"copies", "copies_recall"}),
        "health": (MEMORY, TEST, set()),
        "pictures": (MEMORY, TEST, set()),
    }
    assert alone.keys() | {"revisited"} == set(METRICS), "that one, on images of its own, below"
    subject = of_run(finished(spec, places.workspace))
    for metric, (memory, on, names) in alone.items():
        found = evaluate(subject, Asked(memory, (on,), (metric,)), places)
        tested = {name for name in found.values[on] if name.startswith("test/")}
        assert tested == {f"test/{name}" for name in names}, metric
        assert ("health/rankme" in found.values[on]) == (metric == "health")
        assert not found.skipped


def test_the_untold_is_told(spec: RunSpec, places: Places) -> None:
    """What is not there, and what the images do not carry, by name."""
    subject = of_run(finished(spec, places.workspace))
    found = evaluate(subject, Asked(MEMORY, ("folder:nowhere", TEST), ("knn", "depth")), places)
    assert found.values.keys() == {TEST}
    assert "there is no" in found.skipped["folder:nowhere"]
    assert found.skipped[f"depth on {TEST}"] == "no depths"
    again = evaluate(subject, Asked(MEMORY, ("parquet:gone", TEST), ("knn", "depth")), places)
    assert again.values == found.values
    assert "parquet:gone" in again.skipped
    with pytest.raises(ValueError, match=r"nothing to evaluate on: folder:nowhere: there is no \S+nowhere"):
        evaluate(subject, Asked(MEMORY, ("folder:nowhere",), ()), places)


def test_a_set_of_other_classes_is_skipped_and_the_rest_goes_on(spec: RunSpec, places: Places) -> None:
    folder = places.roots.data / "pets"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        source = open_source(TEST, places.roots)
        (folder / name / "a.png").write_bytes(source.read(0))
    found = evaluate(of_run(finished(spec, places.workspace)), Asked(MEMORY, ("folder:pets", TEST), ("knn",)), places)
    assert "class 'cat' is none of" in found.skipped["folder:pets"]
    assert found.values.keys() == {TEST}


def test_instances_are_looked_for_by_the_revisited_protocol_and_in_any_gallery(spec: RunSpec, places: Places) -> None:
    source, root = open_source(TEST, places.roots), places.roots.data
    names = ["z", "b", "q1", "m", "a", "q2"]  # read in another order than they are named in
    record = {"imlist": names[:2] + names[3:5], "qimlist": ["q1", "q2"]}
    record |= {"gnd": [{"easy": [1], "hard": [2], "junk": [0], "bbx": None}, {"easy": [], "hard": [0, 3], "junk": []}]}
    (root / "r/jpg").mkdir(parents=True)
    (root / "r/gnd.json").write_text(json.dumps(record))
    for row, name in enumerate(names):
        (root / f"r/jpg/{name}.jpg").write_bytes(source.read(row))
        for side, own in (("gallery", row % 2), ("query", row % 2)):
            (root / f"{side}/instance{own}").mkdir(parents=True, exist_ok=True)
            (root / f"{side}/instance{own}/{name}.png").write_bytes(source.read(row))
    subject = of_run(finished(spec, places.workspace))
    values = evaluate(subject, Asked(MEMORY, ("revisited:r",), ()), places).values["revisited:r"]
    seen = eyes(backbone(spec), 32).image(Pictures(source, range(6)))
    truths = open_source("revisited:r", places.roots).truth  # type: ignore[attr-defined]
    wanted = revisited_maps(seen[[0, 1, 3, 4]], seen[[2, 5]], truths)
    assert {name: values[f"test/revisited_{name}"] for name in ("easy", "medium", "hard")} == pytest.approx(wanted)
    found = evaluate(subject, Asked("folder:gallery", ("folder:query",), ("retrieval",)), places)
    assert 0.5 < found.values["folder:query"]["test/retrieval"] <= 1, "each image is in the gallery too"


# The cache


def test_a_second_evaluation_reads_no_image(spec: RunSpec, places: Places, reads: list[str]) -> None:
    subject = of_run(finished(spec, places.workspace))
    first = run_evaluation(subject, places, "knn", "segmentation")
    assert reads
    reads.clear()
    second = run_evaluation(subject, places, "knn", "logistic", "segmentation", "retrieval")
    assert not reads
    assert {name: second[name] for name in first} == first
    assert run_evaluation(subject, places, "knn", "segmentation") == first
    assert len(list(subject.folder.glob("*.json"))) == 2


def test_features_are_of_the_weights_the_images_and_their_size(tmp_path: Path) -> None:
    class Named(list[int]):
        images = "some"

    def see(kind: str, px: int, weights: str, images: str, value: float) -> float:
        pictures = Named([0])
        pictures.images = images
        look = remembered(lambda _: torch.tensor([[value]]), kind, px, Cache(tmp_path, weights))
        return float(look(pictures))  # type: ignore[arg-type]

    assert see("image", 32, "w", "some", 1.0) == 1.0
    assert see("image", 32, "w", "some", 2.0) == 1.0
    for number, other in enumerate(
        [("blocks", 32, "w", "some"), ("image", 16, "w", "some"), ("image", 32, "v", "some")]
    ):
        assert see(*other, 3.0 + number) == 3.0 + number
    assert see("image", 32, "w", "others", 9.0) == 9.0
    assert see("image", 32, "w", "", 8.0) == 8.0  # of unknown images nothing is remembered
    assert see("image", 32, "w", "", 7.0) == 7.0
    for file in tmp_path.glob("*.npy"):
        file.write_bytes(file.read_bytes()[:50])
    assert see("image", 32, "w", "some", 6.0) == 6.0


def test_other_weights_in_the_same_place_are_another_network(spec: RunSpec, places: Places) -> None:
    first = run_evaluation(of_run(finished(spec, places.workspace)), places, "health")
    second = run_evaluation(of_run(finished(spec, places.workspace, seed=1)), places, "health")
    assert first["health/rankme"] != second["health/rankme"]


def test_batches_and_threads_decide_nothing(spec: RunSpec, places: Places) -> None:
    sources = {uri: open_source(uri, places.roots) for uri in (MEMORY, TEST)}
    data = evaluation_data(spec.evaluation, 32, sources, Pictures(sources[MEMORY], range(9)), places)
    found, threads = [], torch.get_num_threads()
    for batch, count in ((256, 1), (7, 1), (64, 2)):
        torch.set_num_threads(count)
        found.append(finals(eyes(backbone(spec), 32, batch=batch), data, spec.evaluation))
    torch.set_num_threads(threads)
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for name, value in found[0].items():
            assert other[name] == (value if "knn" in name or "linear" in name else pytest.approx(value, rel=1e-4)), name


# Subjects


def test_a_checkpoint_and_a_model_of_timm_are_the_run_that_they_are_of(
    spec: RunSpec, places: Places, tmp_path: Path
) -> None:
    folder = finished(spec, places.workspace)
    ours = run_evaluation(of_run(folder), places, "knn", "linear_grid", "segmentation")
    teacher = {f"backbone.{key}": value for key, value in backbone(spec).state_dict().items()}
    torch.save({"step": 3, "teacher": teacher | {"dino.mlp.0.weight": torch.zeros(1)}}, folder.checkpoint)
    subject = of_file(folder.checkpoint)
    assert subject.weights == of_run(folder).weights
    assert run_evaluation(subject, places, "knn", "linear_grid", "segmentation") == ours
    export(folder, "timm", tmp_path / "timm")
    theirs = of_timm(f"local-dir:{tmp_path / 'timm'}", None, places.workspace)
    theirs = theirs._replace(spec=spec.evaluation)
    found = run_evaluation(theirs, places, "knn", "linear_grid", "segmentation")
    assert theirs.px == 32
    assert found == pytest.approx(ours, abs=1e-3)
    assert list((places.workspace.path / "evaluations").glob("*.json"))


def test_a_network_without_patch_tokens_is_asked_for_whole_images_alone(spec: RunSpec, places: Places) -> None:
    subject = of_run(finished(spec, places.workspace))

    class Pooled(torch.nn.Module):
        network = None

    blind = subject._replace(network=Pooled())
    assert not blind.tokens
    with pytest.raises(ValueError, match="nothing to evaluate on"):
        evaluate(blind, Asked(MEMORY, ("folder:nowhere",), ("linear_grid", "depth")), places)


def test_a_file_that_says_nothing_of_its_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no spec\.json beside it"):
        of_file(tmp_path / "w.pt")


# The command


def say(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["evaluate", *words])
    return int(end.value.code or 0), *capfd.readouterr()


def test_the_command_prints_a_table_or_json(spec: RunSpec, places: Places, capfd: pytest.CaptureFixture[str]) -> None:
    run = finished(spec, places.workspace).path.name
    where = ("--workspace", str(places.workspace.path), "--device", "cpu")
    code, out, err = say(capfd, run[:6], *where, "--metrics", "knn,health", "--on", TEST, "--on", "folder:nowhere")
    assert code == 0, err
    assert "test/knn" in out
    assert "skipped folder:nowhere: there is no" in out
    code, out, _ = say(capfd, run, *where, "--metrics", "knn", "--metrics", "health", "--on", TEST, "--json")
    [record] = json.loads(out)
    assert record["of"] == run
    assert record["values"][TEST].keys() >= {"test/knn", "val/knn", "health/rankme"}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("RUN", "--metrics", "knnn"), "--metrics knnn: no such evaluation; did you mean knn?"),
        (("RUN", "--memory", "toyweb:querys"), "no such part 'querys'"),
        (("RUN", "--on", "folder:nowhere"), "nothing to evaluate on: folder:nowhere: there is no"),
        (("RUN", "--px", "64"), "--px: is for a model of timm's"),
        (("nosuchrun",), "no run in"),
        (("gone.pt",), "gone.pt: no such file"),
        (("timm:vit_small_patch14_dinov3",), "timm model 'vit_small_patch14_dinov3'"),
    ],
)
def test_a_mistake_is_a_line(
    words: tuple[str, ...], complaint: str, spec: RunSpec, places: Places, capfd: pytest.CaptureFixture[str]
) -> None:
    run = finished(spec, places.workspace).path.name
    words = tuple(run if word == "RUN" else word for word in words)
    code, out, err = say(capfd, *words, "--workspace", str(places.workspace.path), "--device", "cpu")
    assert (code, out) == (2, "")
    assert complaint in err
    assert len(err.strip().splitlines()) <= 2
    assert "Traceback" not in err


# The guide


ROOT = Path(__file__).parent.parent.parent
LARGE = "vit_small_patch14_dinov2.lvd142m"


def test_the_commands_of_the_guide_do_what_they_say(
    spec: RunSpec, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each line of docs/evaluations.md that begins with dinov2lab, in a folder where the names it uses mean something."""
    monkeypatch.chdir(tmp_path)
    for file, text in {"experiments/tiny": RECIPE, "experiments/embedder": EMBEDDER, "ablations/path": STUDY}.items():
        Path(file).parent.mkdir(exist_ok=True)
        Path(f"{file}.yaml").write_text(text)
    finished(expand(load_study("ablations/path.yaml"))[0].spec, places.workspace)
    folder = finished(spec, places.workspace)
    teacher = {f"backbone.{key}": value for key, value in backbone(spec).state_dict().items()}
    torch.save({"teacher": teacher}, folder.checkpoint)
    torch.save(backbone(spec).state_dict(), folder.best)
    export(folder, "timm", tmp_path / "timm")
    source = open_source(MEMORY, places.roots)
    for part, rows in (("train", range(64)), ("test", range(64, 96))):
        for row in rows:
            file = tmp_path / part / f"{row % 16}" / f"{row}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(source.read(row))
    text = (ROOT / "docs/evaluations.md").read_text()
    commands = re.findall(r"^    dinov2lab evaluate (.+?)(?:  +#.*)?$", text, re.MULTILINE)
    assert len(commands) >= 8
    for command in commands:
        for name, here in (("STUDY", "path"), ("RUN", folder.path.name), (LARGE, "local-dir:timm")):
            command = command.replace(name, here)
        words = [re.sub(r"(toyweb:\w+)\??", r"\1?images=48&", word).rstrip("&") for word in shlex.split(command)]
        code, out, err = say(capfd, *words, "--device", "cpu")
        assert code == 0, (words, err)
        assert "skipped" not in out.replace('"skipped": {}', ""), (words, out)


def test_the_recipe_of_the_guide_is_one(tmp_path: Path) -> None:
    [text] = re.findall(r"```yaml\n(.+?)```", (ROOT / "docs/evaluations.md").read_text(), re.DOTALL)
    (tmp_path / "recipe.yaml").write_text("description: As in the guide.\n" + text)
    evaluation = load_recipe(tmp_path / "recipe.yaml").evaluation
    assert None not in (evaluation.looks, evaluation.depth, evaluation.logistic)
    assert set(evaluation.sources()) >= {"toyweb:copies", "toyweb:scenes", "toyweb:test?shift=noise"}
