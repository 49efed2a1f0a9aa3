"""What others load has our features, a card that says where it comes from, and errors of one line."""

import json
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from dinov2lab.cli import main
from dinov2lab.data.views import MEAN
from dinov2lab.export.formats import export
from dinov2lab.model.vit import Backbone
from dinov2lab.spec.model import ModelSpec
from dinov2lab.spec.run import RunSpec, ViewsSpec
from dinov2lab.store import atomic
from dinov2lab.store.folders import Workspace
from dinov2lab.store.manifest import Manifest, ManifestFolder
from dinov2lab.store.result import Cost, RunFolder, RunResult

RUN = "0123456789ab"
PICO = ModelSpec(size="pico", patch=8, layer_scale=0.5)
KINDS = [PICO, *(PICO.model_copy(update=change) for change in ({"ffn": "swiglu"}, {"registers": 3}))]


def finished(workspace: Workspace, model: ModelSpec = PICO, run: str = RUN) -> tuple[RunFolder, Backbone]:
    """A run's folder as `execute` leaves it, its weights all random."""
    folder, spec = workspace.run(run), RunSpec(model=model, views=ViewsSpec(global_px=32, local_px=16))
    net, generator = Backbone(model, 32), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=0.1, generator=generator)
    atomic.write_text(folder.spec, spec.model_dump_json())
    torch.save(net.state_dict(), folder.backbone)
    manifest = ManifestFolder(workspace.cache / "manifests" / "m")
    record = Manifest(id="feedbeef0123", parent=None, stage="read", parameters={}, rows=1234, dropped={})
    atomic.write_text(manifest.record, record.model_dump_json())
    atomic.write_json(folder.provenance, {"manifest_folder": "cache/manifests/m", "weights": None})
    folder.write_outcome(
        RunResult(
            run=run,
            status="finished",
            metrics={"test/knn": 0.4321, "pixels/test/knn": 0.3, "loss/total": 5.0},
            cost=Cost(images=10, flops=2 * 10**15, seconds=60.0, peak_memory_mb=100.0),
            manifest="feedbeef0123",
            sources={"toyweb:pool": "fp-77"},
            code="c0de",
            commit="abcdef012345",
            environment={"torch": "2.99"},
            finished_at=0.0,
        )
    )
    return folder, net.eval()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "lab")


def images(count: int, px: int = 32) -> Tensor:
    return torch.randn(count, 3, px, px, generator=torch.Generator().manual_seed(1))


def same(ours: nn.Module, batch: Tensor, cls: Tensor, patches: Tensor) -> None:
    with torch.inference_mode():
        (expected,) = ours([batch])
    torch.testing.assert_close(cls, expected.cls, rtol=0, atol=1e-4)
    torch.testing.assert_close(patches, expected.patches, rtol=0, atol=1e-4)


@pytest.mark.parametrize("model", KINDS)
def test_timm_creates_the_model_from_the_folder(model: ModelSpec, workspace: Workspace, tmp_path: Path) -> None:
    folder, ours = finished(workspace, model)
    done = export(folder, "timm", tmp_path / "out")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    with torch.inference_mode():
        tokens = theirs.forward_features(images(5))
        assert torch.equal(theirs(images(5)), tokens[:, 0])
    same(ours, images(5), tokens[:, 0], tokens[:, 1 + model.registers :])
    assert 0 <= done.difference < 1e-4
    assert theirs.pretrained_cfg["mean"] == pytest.approx(MEAN.flatten().tolist())
    assert list(theirs.pretrained_cfg["input_size"]) == [3, 32, 32]


@pytest.mark.parametrize("model", KINDS)
def test_transformers_loads_the_folder(model: ModelSpec, workspace: Workspace, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra `test` brings it")
    folder, ours = finished(workspace, model)
    export(folder, "hf", tmp_path / "out")
    kind = transformers.Dinov2WithRegistersModel if model.registers else transformers.Dinov2Model
    theirs, said = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(said[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.inference_mode():
        tokens = theirs.eval()(images(5)).last_hidden_state
    same(ours, images(5), tokens[:, 0], tokens[:, 1 + model.registers :])
    torch.testing.assert_close(theirs.embeddings.mask_token, ours.mask_token)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    grey = torch.full((3, 50, 70), 128, dtype=torch.uint8)
    (pixels,) = processor(grey, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (3, 32, 32)
    assert float(pixels[0, 0, 0]) == pytest.approx((128 / 255 - 0.485) / 0.229, rel=1e-3)


@pytest.mark.parametrize("model", [*(pytest.param(each, marks=pytest.mark.system) for each in KINDS[:2]), KINDS[2]])
def test_onnx_runs_with_any_number_of_images(model: ModelSpec, workspace: Workspace, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `test` brings it")
    folder, ours = finished(workspace, model)
    export(folder, "onnx", tmp_path / "out")
    session = onnxruntime.InferenceSession(tmp_path / "out/model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 2, 7):
        cls, patches = session.run(["cls", "patches"], {"images": images(count).numpy()})
        same(ours, images(count), torch.from_numpy(cls), torch.from_numpy(patches))


def test_the_card_tells_what_is_known_of_the_run(workspace: Workspace, tmp_path: Path) -> None:
    folder, _ = finished(workspace)
    done = export(folder, "timm", tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text()
    for fact in (
        RUN,
        "ViT pico, patches of 8 px",
        "weights drawn at random",
        "1,234 of them after curation",
        "| test/knn | 0.4321 |",
        "| pixels/test/knn | 0.3000 |",
        "| FLOPs that the method requires | 2.00e+15 |",
        "| source toyweb:pool | fp-77 |",
        "| commit | abcdef012345 |",
        "| manifest | feedbeef0123 |",
        f"the largest difference is {done.difference:.1e}",
        "local-dir:",
    ):
        assert fact in text
    assert "loss/total" not in text
    recipe = text.split("```json\n")[1].split("\n```")[0]
    assert RunSpec.model_validate_json(recipe) == folder.read_spec()


def test_features_that_would_differ_are_not_written(workspace: Workspace, tmp_path: Path) -> None:
    """A weight that timm's architecture would leave out of account: here, one that is not a number."""
    folder, net = finished(workspace)
    with torch.no_grad():
        net.vit.norm.bias[0] = torch.nan
    torch.save(net.state_dict(), folder.backbone)
    with pytest.raises(ValueError, match="differ by nan, nothing was written"):
        export(folder, "timm", tmp_path / "out")
    assert list(tmp_path.iterdir()) == [tmp_path / "lab"]


# The command


def called(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return int(end.value.code or 0)


def test_the_command_writes_the_folder(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(workspace)
    assert called("export", RUN[:4], tmp_path / "out", "--to", "timm", "--workspace", workspace.path) == 0
    assert json.loads((tmp_path / "out/config.json").read_text())["num_features"] == 64
    assert "the largest difference between features is" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("0123456789aa", "did you mean 0123456789ab?"),
        ("zzz", "no run in"),
        ("fedcba98", "run fedcba987654 has not finished"),
        ("aaaa", "run aaaa00000000 failed: the loss is nan"),
        ("0123456789ab", "exists already"),
    ],
)
def test_mistakes_are_one_line(
    run: str, words: str, workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(workspace)
    for other in ("fedcba987654", "aaaa00000000"):
        atomic.write_text(workspace.run(other).spec, RunSpec().model_dump_json())
    failed = RunResult(
        run="aaaa00000000", status="failed", code="c0de", error="the loss is nan at step 3", finished_at=0.0
    )
    workspace.run("aaaa00000000").write_outcome(failed)
    (tmp_path / "out").mkdir()
    assert called("export", run, tmp_path / "out", "--to", "timm", "--workspace", workspace.path) == 2
    said = capsys.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 1


def test_in_an_empty_workspace_there_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert called("export", "abc", tmp_path / "out", "--to", "timm", "--workspace", tmp_path) == 2
    assert "there is none" in capsys.readouterr().err
