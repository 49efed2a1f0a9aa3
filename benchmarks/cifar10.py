"""CIFAR-10 from nothing on a CPU: this project's recipe, and lightly's documented DINOv2 example, on the same images.

    python benchmarks/cifar10.py ours   --data-root DATA --workspace LAB
    python benchmarks/cifar10.py theirs --data-root DATA --workspace LAB

Both see the same views of the same images in the same order, and are judged by the same memory, val and test; the backbone is
timm's, of the recipe's size. Of lightly's example (examples/pytorch/dinov2.py) are its modules and losses, how they are put
together, and its settings: AdamW at 1e-3 throughout, weight decay 0.04 to 0.4, teacher's momentum 0.992 to 1 and
temperature 0.04 to 0.07 over 30 of 50 epochs, centering by EMA, LayerScale 1e-5, drop path 0.1, KoLeo 0.1, one head for
both tasks. Its head of 65,536 prototypes would take a core most of its time: it has the recipe's sizes here. It computes in
float32, the recipe as it says itself. Prints a line of JSON at each look and at the end.
"""

import argparse
import copy
import json
import time
from pathlib import Path

import torch
from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss
from lightly.models.modules import DINOv2ProjectionHead, MaskedVisionTransformerTIMM
from lightly.models.utils import random_block_mask, update_drop_path_rate, update_momentum
from lightly.utils.scheduler import cosine_schedule, linear_warmup_schedule
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from dinov2lab.data.loader import Order, Pictures, evaluation_batches
from dinov2lab.data.source import Roots, open_source
from dinov2lab.draws import Key
from dinov2lab.evaluation import protocol
from dinov2lab.lab.exam import Places, chosen_pictures, evaluation_data
from dinov2lab.lab.execute import curated, execute
from dinov2lab.spec.load import load_recipe
from dinov2lab.spec.resources import Resources
from dinov2lab.spec.run import RunSpec
from dinov2lab.store.folders import Workspace
from dinov2lab.training.loop import make_batch


def say(**values: object) -> None:
    print(json.dumps(values), flush=True)


class Example(nn.Module):
    """lightly's example with the backbone and the head sizes of a recipe."""

    def __init__(self, spec: RunSpec) -> None:
        super().__init__()
        dim, depth, heads = spec.model.architecture
        vit = VisionTransformer(
            img_size=spec.views.global_px,
            patch_size=spec.model.patch,
            embed_dim=dim,
            depth=depth,
            num_heads=heads,
            num_classes=0,
            init_values=1e-5,
            dynamic_img_size=True,
            pos_embed="learn",
        )
        head = spec.objective.dino.head
        sizes = {"hidden_dim": head.hidden, "bottleneck_dim": head.bottleneck, "output_dim": head.prototypes}
        self.teacher = MaskedVisionTransformerTIMM(vit=vit, antialias=False, pos_embed_initialization="skip")
        self.student = copy.deepcopy(self.teacher)
        update_drop_path_rate(self.student.vit, drop_path_rate=0.1, mode="uniform")
        self.teacher_head = DINOv2ProjectionHead(input_dim=dim, **sizes)
        self.student_head = DINOv2ProjectionHead(input_dim=dim, **sizes)
        for frozen in (self.teacher, self.teacher_head):
            frozen.requires_grad_(False).eval()

    def embed(self, pictures: Pictures, px: int) -> Tensor:
        with torch.inference_mode():
            return torch.cat([self.teacher(batch) for batch in evaluation_batches(pictures, px)])


class Losses(nn.Module):
    def __init__(self, prototypes: int) -> None:
        super().__init__()
        self.dino, self.ibot, self.koleo = DINOLoss(prototypes), IBOTPatchLoss(prototypes), KoLeoLoss()

    def forward(self, model: Example, crops: tuple[Tensor, ...], locals_: int, temperature: float) -> Tensor:
        """`crops`: global ones (2 B, 3, P, P), then local ones, view by view."""
        side = model.teacher.vit.patch_embed.grid_size
        blocks = random_block_mask(
            size=(len(crops[0]), *side), min_num_masks_per_block=1
        )  # 4 do not fit into a tenth of a 4 x 4 grid
        mask = torch.zeros(len(crops[0]), model.teacher.sequence_length, dtype=torch.bool)
        mask[:, 1:] = blocks.flatten(start_dim=1)
        with torch.no_grad():
            seen = model.teacher.encode(crops[0])
            target, patch_target = model.teacher_head(seen[:, 0]), model.teacher_head(seen[mask])
        tokens = model.student.encode(crops[0], mask=mask)
        scores = [model.student_head(tokens[:, 0])]
        scores += [model.student_head(model.student.encode(local)[:, 0]) for local in crops[1:]]
        dino = self.dino(
            teacher_out=target.chunk(2),
            student_out=torch.cat(scores).chunk(2 + locals_),
            teacher_temp=temperature,
        )
        ibot = self.ibot(patch_target, model.student_head(tokens[mask]), mask=blocks, teacher_temp=temperature)
        return dino + ibot + 0.1 * sum(self.koleo(part) for part in tokens[:, 0].chunk(2))


def theirs(spec: RunSpec, workspace: Workspace, roots: Roots, resources: Resources) -> None:
    sources = {uri: open_source(uri, roots) for uri in spec.sources()}
    train = chosen_pictures(sources[spec.data.train], curated(spec, workspace, roots, resources), workspace)
    data = evaluation_data(spec.evaluation, spec.views.global_px, sources, train, Places(workspace, roots))
    torch.manual_seed(spec.seed)
    model, losses = Example(spec), Losses(spec.objective.dino.head.prototypes)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.001)
    embed = lambda pictures: model.embed(pictures, spec.views.global_px)
    key, steps, size = Key(spec.seed, spec.replicate), spec.optim.steps, spec.optim.batch
    order, started, cpu = Order(len(train), key), time.monotonic(), time.process_time()
    say(step=0, **protocol.look(embed, data, spec.evaluation))
    for step in range(steps):
        crops = make_batch(step, train, order, spec, key, torch.device("cpu")).crops
        temperature = linear_warmup_schedule(step, warmup_steps=int(30 / 50 * steps), start_value=0.04, end_value=0.07)
        loss = losses(model, crops, spec.views.local_crops, temperature)
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["weight_decay"] = cosine_schedule(step, steps, start_value=0.04, end_value=0.4)
        optimizer.step()
        momentum = cosine_schedule(step, steps, start_value=0.992, end_value=1.0)
        update_momentum(model.student, model.teacher, m=momentum)
        update_momentum(model.student_head, model.teacher_head, m=momentum)
        seen = (step + 1) * size
        if seen // spec.evaluation.every > (seen - size) // spec.evaluation.every:
            found = protocol.look(embed, data, spec.evaluation)
            say(images=seen, loss=float(loss.detach()), cpu=time.process_time() - cpu, **found)
    seconds = time.monotonic() - started
    say(images=seen, seconds=seconds, cpu=time.process_time() - cpu, **protocol.final(embed, data, spec.evaluation))


def ours(spec: RunSpec, workspace: Workspace, roots: Roots, resources: Resources) -> None:
    cpu = time.process_time()
    result = execute(spec, workspace, roots, resources)
    if result.status == "failed":
        raise SystemExit(result.error)
    for row in workspace.run(result.run).rows():
        if "val/knn" in row:
            say(**{name: row[name] for name in row if name in ("images", "val/knn") or name.startswith("health")})
    seconds = result.cost.seconds if result.cost else None
    say(run=result.run, seconds=seconds, cpu=time.process_time() - cpu, **result.metrics)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=("ours", "theirs"))
    parser.add_argument("--recipe", type=Path, default=Path("experiments/cifar10.yaml"))
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--workspace", type=Path, default=Path("lab"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    spec = load_recipe(asked.recipe, asked.overrides)
    resources = Resources(device="cpu", threads=asked.threads)
    side = ours if asked.side == "ours" else theirs
    side(spec, Workspace(asked.workspace), Roots(asked.data_root, Workspace(asked.workspace).cache), resources)


if __name__ == "__main__":
    main()
