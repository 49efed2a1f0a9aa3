"""The model card of an exported backbone: what it is, how it was trained, what it scored, and where it comes from."""

from pathlib import Path
from typing import Any

from dinov2lab.spec.run import RunSpec
from dinov2lab.store.manifest import ManifestFolder
from dinov2lab.store.result import RunFolder, RunResult

LIBRARIES = {"timm": "timm", "hf": "transformers", "onnx": "onnx"}
LOADING = {
    "timm": 'timm.create_model("local-dir:THIS_FOLDER", pretrained=True)  # its output is the class token',
    "hf": 'transformers.AutoModel.from_pretrained("THIS_FOLDER")  # last_hidden_state[:, 0] is the class token',
    "onnx": 'onnxruntime.InferenceSession("THIS_FOLDER/model.onnx").run(["cls", "patches"], {"images": images})',
}


def card(folder: RunFolder, kind: str, difference: float) -> str:
    """Markdown, from the run's spec.json, provenance.json and result.json; `difference` is what loading it again gave."""
    spec, result = folder.read_spec(), folder.outcome()
    assert result is not None  # only finished runs are exported
    provenance = folder.read_provenance()
    sections = {
        "Use": _use(spec, kind, difference),
        "Training": _training(spec, result, provenance, folder.path.parent.parent),
        "Evaluation": _table(["metric", "value"], [[name, f"{value:.4f}"] for name, value in _scores(result)]),
        "Origin": _table(["what", "value"], _origin(result, provenance)),
        "Recipe": f"```json\n{spec.model_dump_json(indent=1)}\n```",
    }
    head = f"---\nlibrary_name: {LIBRARIES[kind]}\npipeline_tag: image-feature-extraction\ntags: [dinov2]\n---\n\n"
    title = f"# {_name(spec)}, run {result.run}\n\nTrained without labels by DINOv2 (arXiv 2304.07193) in dinov2lab.\n"
    return head + title + "".join(f"\n## {name}\n\n{text}\n" for name, text in sections.items())


def _name(spec: RunSpec) -> str:
    registers = f", {spec.model.registers} registers" if spec.model.registers else ""
    return f"ViT {spec.model.size}, patches of {spec.model.patch} px, {spec.model.ffn}{registers}"


def _use(spec: RunSpec, kind: str, difference: float) -> str:
    px = spec.views.global_px
    return (
        f"    {LOADING[kind]}\n\n"
        f"RGB images: the shorter side resized to {px} px (bicubic), the central square, values in [0, 1], less the mean of\n"
        f"ImageNet and over its standard deviation. At {px} px the features were compared with those of the training code\n"
        f"when this folder was written: the largest difference is {difference:.1e}. At other sizes libraries resample the\n"
        "position embeddings in ways of their own."
    )


def _training(spec: RunSpec, result: RunResult, provenance: dict[str, Any], workspace: Path) -> str:
    manifest = ManifestFolder(workspace / provenance["manifest_folder"]).read()
    cost = result.cost
    rows = [
        ["images", f"{spec.data.train}{'' if manifest is None else f', {manifest.rows:,} of them after curation'}"],
        ["steps and batch", f"{spec.optim.steps:,} of {spec.optim.batch:,} images"],
        ["began with", _began(spec, provenance)],
    ]
    if cost is not None:
        rows += [
            ["FLOPs that the method requires", f"{cost.flops:.2e}"],
            ["seconds of training", f"{cost.seconds:.0f}"],
        ]
    return _table(["what", "value"], rows)


def _began(spec: RunSpec, provenance: dict[str, Any]) -> str:
    match spec.model.weights:
        case None:
            return "weights drawn at random"
        case weights:
            named = {"timm": "name", "huggingface": "folder"}.get(weights.kind)
            origin = f" {getattr(weights, named)}" if named else ""
            return f"weights of a {weights.kind}{origin}, digest {provenance.get('weights')}"


def _scores(result: RunResult) -> list[tuple[str, float]]:
    """Of this network first, then of what stands beside it; losses are none."""
    names = sorted(result.metrics, key=lambda name: (name.count("/") > 1, name))
    return [(name, result.metrics[name]) for name in names if not name.startswith(("loss/", "choice/"))]


def _origin(result: RunResult, provenance: dict[str, Any]) -> list[list[str]]:
    rows = [
        ["commit", result.commit or "none: not a checkout"],
        ["code", result.code],
        ["manifest", str(result.manifest)],
    ]
    rows += [[f"source {uri}", fingerprint] for uri, fingerprint in result.sources.items()]
    return rows + [[name, version] for name, version in result.environment.items()]


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(" | ".join(["", *row, ""]).strip() for row in [head, ["---"] * len(head), *rows])
