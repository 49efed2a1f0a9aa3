"""What a run saw, and what its curation decided, as pictures: nobody debugs an augmentation by its numbers."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dinov2lab.curation import gallery, groups
from dinov2lab.data.loader import Order, Pictures
from dinov2lab.data.source import Roots, Source, open_source
from dinov2lab.data.views import MEAN, STD, views
from dinov2lab.draws import Key
from dinov2lab.spec.run import RunSpec
from dinov2lab.store import atomic
from dinov2lab.store.manifest import ManifestFolder

_IMAGES = 8
_GAP = 2  # pixels


def draw_views(spec: RunSpec, pictures: Pictures, folder: Path) -> None:
    """views.png: a row for each of the first images of the run, its global and its local crops side by side."""
    file = folder / "views.png"
    if file.exists():
        return
    key = Key(spec.seed, spec.replicate)
    positions = np.arange(min(_IMAGES, spec.optim.batch))
    chosen = [pictures.pixels(index) for index in Order(len(pictures), key)(positions).tolist()]
    crops = views(chosen, positions, key, spec.views)
    rows = [[crop for group in crops for crop in group[image :: len(chosen)]] for image in range(len(chosen))]
    sheet = contact_sheet(rows)
    atomic.write(file, lambda path: sheet.save(path, "PNG"))


def contact_sheet(rows: list[list[Tensor]]) -> Image.Image:
    """Normalised crops (3, H, W) of any sizes, laid out in rows on white."""
    tiles = [[_image(crop) for crop in row] for row in rows]
    width = max(sum(tile.width + _GAP for tile in row) for row in tiles)
    height = sum(max(tile.height for tile in row) + _GAP for row in tiles)
    sheet = Image.new("RGB", (width, height), "white")
    top = 0
    for row in tiles:
        left = 0
        for tile in row:
            sheet.paste(tile, (left, top))
            left += tile.width + _GAP
        top += max(tile.height for tile in row) + _GAP
    return sheet


def _image(crop: Tensor) -> Image.Image:
    pixels = (crop * STD + MEAN).clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def draw_examples(manifest: ManifestFolder, source: Source, roots: Roots) -> None:
    """What a page on the manifest shows, beside it."""
    opened = lambda uri: open_source(uri, roots)
    gallery.write_examples(manifest, source, open=opened)
    groups.write_groups(manifest, gallery.Drawer(manifest, source, opened))
