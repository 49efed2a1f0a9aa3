#!/usr/bin/env python3
"""How many edited copies the detector of copies finds, by edit and strength, and how many pairs it calls wrongly.

    benchmarks/copies.py [--images parquet:FILE ...] [--data-root DIR] [--originals N] [--per-edit N] [--seed S]

Originals are drawn at random from the sources named (toyweb by default), copies are made of them by each edit below,
and every image ends, as those of a web pool do, at a side of 32 to 48 pixels in a JPEG of its own. One line a threshold:
copies found, pairs that are neither copies nor originals of one another, and precision; then recall by edit. Images alike in
the sources themselves count as wrong. Other kinds of images: name more sources.
"""

import argparse
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from dinov2lab.curation import copies
from dinov2lab.curation.dedup import Rows, find_pairs
from dinov2lab.data.source import Roots, Unreadable, decode, open_source

Edit = Callable[[Image.Image, np.random.Generator], Image.Image]
PX = 96  # longest side of an original before it is edited
THRESHOLDS = (0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def resized(low: float, high: float) -> Edit:
    def edit(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        shape = [max(8, round(side * rng.uniform(low, high) * 32 / max(image.size))) for side in image.size]
        return image.resize(
            (shape[0], shape[1]), (Image.Resampling.BILINEAR, Image.Resampling.NEAREST)[rng.integers(2)]
        )

    return edit


def cropped(low: float, high: float, aspect: float = 1.0) -> Edit:
    """A part with sides of `low` to `high` of the image's, at random."""

    def edit(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        share, stretch = rng.uniform(low, high), np.exp(rng.uniform(-np.log(aspect), np.log(aspect)) / 2)
        width, height = (side * min(1, share * by) for side, by in zip(image.size, (stretch, 1 / stretch), strict=True))
        left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
        box = (left, top, left + width, top + height)
        return image.resize((max(8, round(width)), max(8, round(height))), Image.Resampling.BICUBIC, box=box)

    return edit


def lit(low: float, high: float) -> Edit:
    """Brightness, or a gamma, of this factor or its inverse."""

    def edit(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        factor = rng.uniform(low, high) ** rng.choice([-1, 1])
        if rng.random() < 0.6:
            return ImageEnhance.Brightness(image).enhance(factor)
        return pixels(255 * (np.asarray(image) / 255) ** factor)

    return edit


def tinted(low: float, high: float) -> Edit:
    """A gain for each channel, or a veil of one colour."""

    def edit(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        strength = rng.uniform(low, high)
        if rng.random() < 0.5:
            return pixels(np.asarray(image) * (1 + rng.uniform(-strength, strength, 3)))
        return pixels(np.asarray(image) * (1 - strength) + rng.integers(0, 256, 3) * strength)

    return edit


def blurred(low: float, high: float) -> Edit:
    """A Gaussian of `low` to `high` pixels of an image of 32."""
    return lambda image, rng: image.filter(ImageFilter.GaussianBlur(rng.uniform(low, high) * image.width / 32))


def framed(low: float, high: float, bars: bool = False) -> Edit:
    """A border of a share of the shorter side, of one width or of four, or bars above and below."""

    def edit(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        widths = (
            rng.uniform(low, high) * min(image.size) * (rng.uniform(0.6, 1.4, 4) if rng.random() < 0.5 else np.ones(4))
        )
        left, top, right, bottom = np.rint(widths * ([0, 1, 0, 1] if bars else 1)).astype(int).tolist()
        ground = ((0, 0, 0), (255, 255, 255), tuple(rng.integers(0, 256, 3).tolist()))[rng.integers(3)]
        return ImageOps.expand(image, (left, top, right, bottom), ground)

    return edit


def turned(low: float, high: float) -> Edit:
    """Its corners black, white, repeated, mirrored, or cut off."""

    def edit(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        degrees, (width, height) = rng.uniform(low, high) * rng.choice([-1, 1]), image.size
        mode = ("constant", "edge", "reflect", "cut")[rng.integers(4)]
        if mode == "constant":
            return image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=((0,) * 3, (255,) * 3)[rng.integers(2)])
        margins = ((height // 4,) * 2, (width // 4,) * 2, (0, 0))
        wide = Image.fromarray(np.pad(np.asarray(image), margins, mode="edge" if mode == "edge" else "reflect"))
        wide = wide.rotate(degrees, Image.Resampling.BICUBIC)
        share = 1 / (np.cos(np.radians(abs(degrees))) + np.sin(np.radians(abs(degrees)))) if mode == "cut" else 1
        x, y = (wide.width - width * share) / 2, (wide.height - height * share) / 2
        return wide.crop((round(x), round(y), round(wide.width - x), round(wide.height - y)))

    return edit


def noisy(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return pixels(np.asarray(image) + rng.normal(0, rng.uniform(4, 12), (image.height, image.width, 3)))


def pixels(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


EDITS: dict[str, Edit] = {
    "JPEG 45-80": lambda image, rng: jpeg(image, int(rng.integers(45, 80))),
    "JPEG 25-45": lambda image, rng: jpeg(image, int(rng.integers(25, 45))),
    "resize to 19-29 px": resized(0.6, 0.9),
    "resize to 14-19 px": resized(0.45, 0.6),
    "crop to 85-97 % a side": cropped(0.85, 0.97),
    "crop to 70-85 %": cropped(0.7, 0.85, 1.1),
    "crop to 55-70 %": cropped(0.55, 0.7, 1.15),
    "crop to 48-55 %": cropped(0.48, 0.55),
    "light x 1.1-1.4": lit(1.1, 1.4),
    "light x 1.4-1.8": lit(1.4, 1.8),
    "mirror": lambda image, rng: ImageOps.mirror(image),
    "blur 0.4-0.9 px": blurred(0.4, 0.9),
    "blur 0.9-1.6 px": blurred(0.9, 1.6),
    "border 3-9 %": framed(0.03, 0.09),
    "border 9-20 %": framed(0.09, 0.2),
    "bars 8-20 %": framed(0.08, 0.2, bars=True),
    "turn 1-5 degrees": turned(1, 5),
    "turn 5-10 degrees": turned(5, 10),
    "tint 8-20 %": tinted(0.08, 0.2),
    "tint 20-40 %": tinted(0.2, 0.4),
    "grey": lambda image, rng: image.convert("L").convert("RGB"),
    "noise 4-12 levels": noisy,
}


def two(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Two of the milder edits, one after the other."""
    milder = ["JPEG 45-80", "crop to 85-97 % a side", "light x 1.1-1.4", "mirror", "blur 0.4-0.9 px", "border 3-9 %"]
    first, second = rng.choice([*milder, "turn 1-5 degrees", "tint 8-20 %"], 2, replace=False)
    return EDITS[second](EDITS[first](image, rng), rng)


def put_on_the_web(image: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """As the detector sees it, after a size and a JPEG of its own."""
    side = int(rng.integers(32, 49))
    image = jpeg(image.resize((side, side), Image.Resampling.BICUBIC), int(rng.integers(85, 97)))
    return np.asarray(image.resize((copies.PX, copies.PX), Image.Resampling.BILINEAR))


def originals(uris: Sequence[str], root: Path, count: int, rng: np.random.Generator) -> list[Image.Image]:
    """As many of each source."""
    found = []
    for uri in uris:
        source = open_source(uri, Roots(root, Path("/tmp/dinov2lab-benchmarks")))
        for row in rng.permutation(len(source.paths))[: count // len(uris)].tolist():
            try:
                image = Image.fromarray(decode(source.read(row)))
            except Unreadable:
                continue
            image.thumbnail((PX, PX))
            found.append(image)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="+", default=["toyweb:queries"])
    parser.add_argument("--data-root", type=Path, default=Path())
    parser.add_argument("--originals", type=int, default=3000)
    parser.add_argument("--per-edit", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(options.seed)
    first = originals(options.images, options.data_root, options.originals, rng)
    shown, of, names = [put_on_the_web(image, rng) for image in first], list(range(len(first))), [""] * len(first)
    for name, edit in (EDITS | {"two of them": two}).items():
        for number in rng.choice(len(first), options.per_edit).tolist():
            shown.append(put_on_the_web(edit(first[number], rng), rng))
            of.append(number)
            names.append(name)
    start = time.process_time()
    keys = np.array([f"{number}" for number in range(len(shown))])
    pictures = np.stack(shown)
    pairs = find_pairs(Rows(pictures, pictures, keys, pictures=True), THRESHOLDS[0], 64)
    print(f"{len(shown)} images, {time.process_time() - start:.0f} s of processor time")
    report(np.array(of), np.array(names), pairs.a, pairs.b, pairs.score)


def report(of: np.ndarray, names: np.ndarray, a: np.ndarray, b: np.ndarray, score: np.ndarray) -> None:
    right = of[a] == of[b]
    link = np.zeros(len(of))  # of each copy, its score with its original
    direct = right & (a == of[b])
    link[b[direct]] = score[direct]
    copied = names != ""
    for threshold in THRESHOLDS:
        called, good = (score >= threshold).sum(), (right & (score >= threshold)).sum()
        recall = (link[copied] >= threshold).mean()
        print(f"threshold {threshold:.2f}: recall {recall:.3f}, {called - good} wrong, precision {good / called:.3f}")
    print("edit".ljust(24), *(f"{threshold:5.2f}" for threshold in THRESHOLDS))
    for name in dict.fromkeys(names[copied]):
        found = link[names == name]
        print(name.ljust(24), *(f"{(found >= threshold).mean():5.2f}" for threshold in THRESHOLDS))


if __name__ == "__main__":
    main()
