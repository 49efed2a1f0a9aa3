"""The shipped recipes and studies: the released ones have the released numbers, and what each says of itself is so."""

import itertools
import re
from pathlib import Path

import pytest
import torch

from dinov2lab.model.vit import Backbone
from dinov2lab.spec.cost import flops_of_run
from dinov2lab.spec.load import headline, kind_of, load_recipe, load_study
from dinov2lab.spec.run import RunSpec
from dinov2lab.spec.study import expand

ROOT = Path(__file__).parent.parent.parent
RECIPES = [file for file in sorted((ROOT / "experiments").glob("*.yaml")) if kind_of(file) == "recipe"]
STUDIES = sorted((ROOT / "ablations").glob("*.yaml"))
EPOCH = 1250  # steps, whatever the data

# facebookresearch/dinov2, dinov2/configs/train/*.yaml and ssl_default_config.yaml, in their terms: base lr for 1,024 images,
# durations in epochs, images per GPU times GPUs.
RELEASED = {
    "vitl16_short": {
        "architecture": (1024, 24, 16, 16, "mlp"),
        "data": (100, 64, 32),
        "head": (65536, 256, None),
        "centering": "ema",
        "base_lr": (4e-3, 10),
        "decay": (0.4, 0.3, 0.992),
        "layers": (0.9, 96),
    },
    "vitl14": {
        "architecture": (1024, 24, 16, 14, "swiglu"),
        "data": (500, 32, 96),
        "head": (131072, 384, 256),
        "centering": "sinkhorn",
        "base_lr": (2e-4, 80),
        "decay": (0.2, 0.4, 0.994),
        "layers": (1.0, 98),
    },
    "vitg14": {
        "architecture": (1536, 40, 24, 14, "swiglu"),
        "data": (500, 12, 256),
        "head": (131072, 384, 256),
        "centering": "sinkhorn",
        "base_lr": (2e-4, 80),
        "decay": (0.2, 0.4, 0.994),
        "layers": (1.0, 98),
    },
}


def recipe(name: str) -> RunSpec:
    return load_recipe(ROOT / "experiments" / f"{name}.yaml")


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_recipe_has_the_released_numbers(name: str) -> None:
    spec, numbers = recipe(name), RELEASED[name]
    model, objective, optim, views = spec.model, spec.objective, spec.optim, spec.views
    assert (*model.architecture, model.patch, model.ffn) == numbers["architecture"]
    epochs, per_gpu, gpus = numbers["data"]
    assert (optim.steps, optim.batch, objective.koleo.group) == (epochs * EPOCH, per_gpu * gpus, per_gpu)
    prototypes, bottleneck, patch_bottleneck = numbers["head"]
    assert (objective.dino.head.prototypes, objective.dino.head.bottleneck) == (prototypes, bottleneck)
    assert objective.dino.head.hidden == objective.patch_head.hidden == 2048
    assert objective.patch_head.prototypes == prototypes
    assert (objective.ibot.head and objective.ibot.head.bottleneck) == patch_bottleneck
    assert objective.teacher.centering == numbers["centering"]
    base_lr, warmup = numbers["base_lr"]
    assert optim.lr == pytest.approx(base_lr * (optim.batch / 1024) ** 0.5, rel=1e-6)
    assert optim.warmup_steps == warmup * EPOCH
    assert (optim.weight_decay_end, model.drop_path, objective.teacher.momentum) == numbers["decay"]
    assert (optim.layer_decay, views.local_px) == numbers["layers"]


@pytest.mark.parametrize("name", RELEASED)
def test_what_all_released_recipes_share(name: str) -> None:
    spec = recipe(name)
    model, objective, optim, views = spec.model, spec.objective, spec.optim, spec.views
    assert (model.registers, model.layer_scale, model.weights) == (0, 1e-5, None)
    assert (views.global_px, views.local_crops, views.blur) == (224, 8, "reference")
    assert (views.global_scale, views.local_scale) == ((0.32, 1.0), (0.05, 0.32))
    weights = (objective.dino.weight, objective.ibot.weight, objective.koleo.weight)
    assert (weights, objective.student_temperature) == ((1.0, 1.0, 0.1), 0.1)
    assert objective.ibot.masks.model_dump() == {"probability": 0.5, "ratio": (0.1, 0.5)}
    teacher = objective.teacher
    assert (teacher.temperature_start, teacher.temperature, teacher.momentum_end) == (0.04, 0.07, 1.0)
    assert (teacher.temperature_warmup_steps, optim.freeze_last_layer_steps) == (30 * EPOCH, EPOCH)
    assert (optim.lr_end, optim.weight_decay, optim.betas, optim.clip) == (1e-6, 0.04, (0.9, 0.999), 3.0)
    assert (optim.patch_embed_lr, optim.warmup, optim.freeze_backbone_steps) == (0.2, "linear", 0)


@pytest.mark.parametrize(("name", "dim"), [("vits14", 384), ("vitb14", 768), ("vitl14", 1024)])
def test_distilled_recipes_have_the_papers_numbers(name: str, dim: int) -> None:
    spec = recipe(f"{name}_distilled")
    assert (spec.model.architecture.dim, spec.model.ffn, spec.model.drop_path) == (dim, "mlp", 0.0)
    assert (spec.optim.lr, spec.optim.batch) == (1e-3, 2048)
    assert (spec.objective.ibot.tokens, spec.objective.ibot.masks.probability) == ("all", 0.0)
    assert spec.objective.distill is not None
    assert spec.objective.distill.run == recipe("vitg14")


def test_the_high_resolution_phase_is_the_end_of_vitg14_compressed() -> None:
    spec, whole = recipe("vitg14_518px"), recipe("vitg14")
    assert (spec.views.global_px, spec.optim.steps) == (518, 10_000)
    assert spec.phases() == (whole, spec)
    assert spec.optim.lr < whole.optim.lr
    for ours, theirs in (
        (spec.optim.warmup_steps, whole.optim.warmup_steps),
        (spec.objective.teacher.temperature_warmup_steps, whole.objective.teacher.temperature_warmup_steps),
        (spec.optim.freeze_last_layer_steps, whole.optim.freeze_last_layer_steps),
    ):
        assert ours == round(theirs * 10_000 / whole.optim.steps)


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_loads_and_says_in_a_line_what_it_is(file: Path) -> None:
    load_recipe(file)
    assert 10 < len(headline(file)) <= 120


STATED = re.compile(r"([\d,]+) million\s+parameters, ([\d.e]+)\s+FLOPs")


@pytest.mark.parametrize("file", [file for file in RECIPES if "not trained here" in file.read_text().lower()])
def test_parameters_and_flops_are_as_stated(file: Path) -> None:
    stated = STATED.search(file.read_text())
    assert stated, f"{file.name} states neither"
    spec = load_recipe(file)
    with torch.device("meta"):
        backbone = Backbone(spec.model, spec.views.global_px)
    assert round(sum(each.numel() for each in backbone.parameters()) / 1e6) == int(stated[1].replace(",", ""))
    assert float(f"{flops_of_run(spec):.2g}") == float(stated[2])


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_a_study_loads_and_its_arms_are_runs_of_their_own(file: Path) -> None:
    study = load_study(file)
    assert len(expand(study)) == len(study.arms) * len(study.seeds)
    assert study.question.endswith("?")


def test_phases_share_the_seed_of_their_arm_and_count_as_steps() -> None:
    cells = [cell for cell in expand(load_study(ROOT / "ablations/resolution.yaml")) if cell.arm == "low_then_high"]
    assert [[phase.seed for phase in cell.spec.phases()] for cell in cells] == [[3, 3], [4, 4], [5, 5]]
    assert sum(phase.optim.steps for phase in cells[0].spec.phases()) == recipe("toyweb").optim.steps


def test_the_rows_of_table_1_add_up() -> None:
    """Each arm of training_recipe keeps all that the one before it changed, and changes something more."""
    arms = [_flat(arm.spec.model_dump()) for arm in load_study(ROOT / "ablations/training_recipe.yaml").arms]
    scaled_with_the_batch = {"optim.steps", "optim.lr", "optim.freeze_last_layer_steps", "optim.warmup_steps"}
    for before, after in itertools.pairwise(arms):
        new = {name for name in after if before.get(name) != after[name]}
        assert new
        reverted = {name for name in new if before.get(name) != arms[0].get(name)}
        assert reverted <= scaled_with_the_batch
    assert len(arms) == 11


def _flat(tree: dict[str, object], above: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in tree.items():
        found |= _flat(value, f"{above}{name}.") if isinstance(value, dict) else {f"{above}{name}": value}
    return found
