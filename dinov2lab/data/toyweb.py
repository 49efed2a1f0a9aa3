"""toyweb: a small uncurated web drawn by code, with ground truth. The embedded default data.

A concept is a shape with a texture in a palette: what survives crops, mirroring and colour jitter. Where it stands, how large,
how turned and how lit it is, and the ground behind it, are nuisances: a ground is a field of grey blotches, so that two crops
of one image see different parts of it and no colour of the ground gives the image away.

    queries   labelled images, every concept equally often: what curation starts from, and the kNN memory
    test      labelled images, for evaluation only
    pool      unlabelled: concepts with a long tail, off-domain pictures, exact and near duplicates, leaked test images, junk
              and files that are no images

Beside each part lies PART.truth.parquet: path, origin, concept, duplicate_of, leak_of, defect.
"""

import hashlib
import io
import itertools
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from dinov2lab.store import atomic

Floats = NDArray[np.float64]

PX = 32
SHAPES = ("disc", "square", "triangle")
TEXTURES = ("stripes", "checks", "dots", "rings", "halves")
INKS: tuple[tuple[float, float, float], ...] = (
    (0.90, 0.12, 0.10),  # red
    (0.98, 0.85, 0.10),  # yellow
    (0.10, 0.65, 0.20),  # green
    (0.15, 0.30, 0.95),  # blue
    (0.97, 0.97, 0.97),  # white
    (0.05, 0.05, 0.05),  # black
)
PALETTES = tuple(itertools.combinations(range(len(INKS)), 2))  # 15 pairs
CONCEPTS = len(SHAPES) * len(TEXTURES)  # the palette follows from both, so that any two attributes name a concept
SIZES = {"pool": 8000, "queries": 1600, "test": 1600}
_LONG_TAIL = 1.0  # exponent of Zipf's law over concepts in the pool


def materialise(part: str, cache: Path) -> Path:
    """The Parquet file of `PART[?images=N&seed=S]`, drawn into `cache` where it is not there yet.

    Raises ValueError for an unknown part or option.
    """
    name, _, query = part.partition("?")
    options = dict(parse_qsl(query, strict_parsing=bool(query)))
    if name not in SIZES:
        raise ValueError(f"toyweb:{part}: no such part {name!r}; there are {', '.join(SIZES)}")
    if unknown := set(options) - {"images", "seed"}:
        raise ValueError(f"toyweb:{part}: unknown option {min(unknown)!r}; there are images and seed")
    try:
        images, seed = int(options.get("images", SIZES[name])), int(options.get("seed", 0))
    except ValueError:
        raise ValueError(f"toyweb:{part}: images and seed are integers") from None
    if images < CONCEPTS or seed < 0:
        raise ValueError(f"toyweb:{part}: at least {CONCEPTS} images, and a seed of 0 or more")
    folder = cache / "toyweb" / f"{images}-{seed}-{_version()}"
    file = folder / f"{name}.parquet"
    with atomic.locked(folder / f"{name}.lock"):
        if not file.exists():
            table, truth = _draw(name, images, seed)
            atomic.write(folder / f"{name}.truth.parquet", lambda path: pq.write_table(truth, path))
            atomic.write(file, lambda path: pq.write_table(table, path, row_group_size=1000))
    return file


def _version() -> str:
    """Of this file: another drawing is another data set."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]


def _generator(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, *name.encode()])


def _draw(name: str, images: int, seed: int) -> tuple[pa.Table, pa.Table]:
    generator = _generator(name, seed)
    if name != "pool":
        concepts = np.arange(images) % CONCEPTS
        pixels = draw_concepts(concepts, generator)
        rows = [_row(name, "concept", int(c), _png(p)) for c, p in zip(concepts, pixels, strict=True)]
        return _tables(rows, name, [row["concept"] for row in rows])
    rows = _pool_rows(images, seed, generator)
    order = generator.permutation(len(rows))
    return _tables([rows[i] for i in order], name, None)


def _row(name: str, origin: str, concept: int | None, data: bytes, **truth: object) -> dict[str, object]:
    return {"origin": origin, "concept": concept, "image": data, "part": name, "key": None, "of": None, **truth}


def _tables(rows: list[dict[str, object]], name: str, labels: list[object] | None) -> tuple[pa.Table, pa.Table]:
    for index, row in enumerate(rows):
        row["path"] = f"{name}/{index:05d}.png"
    by_key = {row["key"]: row["path"] for row in rows if row["key"] is not None}
    columns: dict[str, object] = {"path": [row["path"] for row in rows], "image": [row["image"] for row in rows]}
    if labels is not None:
        columns["label"] = pa.array(labels, pa.int64())
    truth = {
        "path": columns["path"],
        "origin": [row["origin"] for row in rows],
        "concept": [None if row["concept"] is None else str(row["concept"]) for row in rows],
        "duplicate_of": [by_key.get(row["of"]) for row in rows],
        "leak_of": [row.get("leak_of") for row in rows],
        "defect": [row.get("defect") for row in rows],
    }
    return pa.table(columns), pa.table({k: pa.array(v, pa.string()) for k, v in truth.items()})


def _pool_rows(images: int, seed: int, generator: np.random.Generator) -> list[dict[str, object]]:
    """45 % concepts, 35 % off-domain, 8 % junk, 9 % duplicates, 2 % leaks, 1 % no images."""
    count = {
        "concept": int(images * 0.45),
        "distractor": int(images * 0.35),
        "junk": int(images * 0.08),
        "leak": int(images * 0.02),
        "corrupt": int(images * 0.01),
    }
    tail = 1 / np.arange(1, CONCEPTS + 1) ** _LONG_TAIL
    concepts = generator.choice(generator.permutation(CONCEPTS), count["concept"], p=tail / tail.sum())
    drawn = draw_concepts(concepts, generator)
    rows = [
        _row("pool", "concept", int(c), _png(p), key=i, pixels=p)
        for i, (c, p) in enumerate(zip(concepts, drawn, strict=True))
    ]
    for i, pixels in enumerate(draw_distractors(count["distractor"], generator)):
        rows.append(_row("pool", "distractor", None, _png(pixels), key=len(concepts) + i, pixels=pixels))
    rows += [_row("pool", "junk", None, _png(pixels)) for pixels in draw_junk(count["junk"], generator)]
    originals = [row for row in rows if row["key"] is not None]
    for row in generator.choice(np.array(originals, dtype=object), images - len(rows) - count["leak"] - count["corrupt"]):
        edit = ("exact", "near")[generator.integers(2)]
        data = row["image"] if edit == "exact" else _edited(row["pixels"], generator)
        rows.append(_row("pool", row["origin"], row["concept"], data, of=row["key"], defect=edit))
    test = _generator("test", seed)
    leaked = draw_concepts(np.arange(SIZES["test"]) % CONCEPTS, test)
    for i in generator.choice(len(leaked), min(count["leak"], len(leaked)), replace=False):
        data = _png(leaked[i]) if generator.random() < 0.5 else _edited(leaked[i], generator)
        rows.append(_row("pool", "concept", int(i % CONCEPTS), data, leak_of=f"test/{i:05d}.png"))
    rows += [_corrupt_row(generator, originals) for _ in range(count["corrupt"])]
    return rows


def _corrupt_row(generator: np.random.Generator, originals: list[dict[str, object]]) -> dict[str, object]:
    defect = ("empty", "truncated", "text")[generator.integers(3)]
    image = originals[generator.integers(len(originals))]["image"]
    assert isinstance(image, bytes)
    data = {"empty": b"", "truncated": image[: len(image) // 2], "text": b"<html>404 Not Found</html>"}[defect]
    return _row("pool", "corrupt", None, data, defect=defect)


def _edited(pixels: object, generator: np.random.Generator) -> bytes:
    """A near duplicate: saved as JPEG, lightly cropped, mirrored or made brighter."""
    image = Image.fromarray(np.asarray(pixels))
    match generator.integers(4):
        case 0:
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=int(generator.integers(60, 85)))
            return buffer.getvalue()
        case 1:
            image = image.resize(image.size, box=(1, 1, PX - 1, PX - 1))
        case 2:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        case _:
            image = image.point(lambda value: min(255, int(value * 1.15)))
    return _png(np.asarray(image))


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


# Drawing: all images of a call at once. B images, y and x in [-1, 1].


def _grid() -> tuple[Floats, Floats]:
    axis = (np.arange(PX) + 0.5) / PX * 2 - 1
    return axis[None, :, None], axis[None, None, :]  # y (1, P, 1), x (1, 1, P)


def _column(generator: np.random.Generator, low: float, high: float, count: int) -> Floats:
    return generator.uniform(low, high, (count, 1, 1))


def draw_concepts(concepts: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.uint8]:
    """(B, P, P, 3) pictures of the concepts, everything else at random."""
    count = len(concepts)
    shapes, textures = concepts // len(TEXTURES), concepts % len(TEXTURES)
    v, u = _object_frame(count, generator, turn=0.4)
    inside = _choose(shapes, [shape(u, v) for shape in (_disc, _square, _triangle)])
    drawn = [texture(u, v) for texture in (_stripes, _checks, _dots, _rings, _halves)]
    texture = _choose(textures, drawn)[..., None]  # (B, P, P, 1) in [0, 1]
    dark, light = np.array(INKS)[np.array(PALETTES)[concepts]].swapaxes(0, 1)[:, :, None, None, :]
    coloured = dark * (1 - texture) + light * texture
    ground = _blotches(count, generator)[..., None]
    alpha = inside[..., None]
    return _lit(ground * (1 - alpha) + coloured * alpha, generator)


def _object_frame(count: int, generator: np.random.Generator, turn: float) -> tuple[Floats, Floats]:
    """Coordinates (v, u) of each image in a frame that stands, turned and scaled, where the object is."""
    y, x = _grid()
    angle = _column(generator, -turn, turn, count)
    size = _column(generator, 0.45, 0.75, count)
    y, x = y - _column(generator, -0.5, 0.5, count), x - _column(generator, -0.5, 0.5, count)
    return (np.cos(angle) * y + np.sin(angle) * x) / size, (np.cos(angle) * x - np.sin(angle) * y) / size


def _choose(which: NDArray[np.int64], options: list[Floats]) -> Floats:
    return np.stack(options)[which, np.arange(len(which))]


def _edge(distance: Floats) -> Floats:
    """1 inside, 0 outside, soft over about a pixel."""
    return np.clip(0.5 - distance * PX / 3, 0, 1)


def _disc(u: Floats, v: Floats) -> Floats:
    return _edge(np.hypot(u, v) - 1)


def _square(u: Floats, v: Floats) -> Floats:
    return _edge(np.maximum(abs(u), abs(v)) - 0.9)


def _triangle(u: Floats, v: Floats) -> Floats:
    return _edge(np.maximum(abs(u) * 0.866 + v * 0.5, -v) - 0.62)


def _wave(phase: Floats) -> Floats:
    return np.clip(0.5 + 1.5 * np.sin(phase), 0, 1)


def _stripes(u: Floats, v: Floats) -> Floats:
    return _wave(9.0 * u + 0 * v)


def _checks(u: Floats, v: Floats) -> Floats:
    return np.clip(0.5 + 2 * np.sin(6.5 * u) * np.sin(6.5 * v), 0, 1)


def _dots(u: Floats, v: Floats) -> Floats:
    return np.clip(3.0 * (np.cos(9.0 * u) + np.cos(9.0 * v)) - 1.5, 0, 1)


def _rings(u: Floats, v: Floats) -> Floats:
    return _wave(9.0 * np.hypot(u, v))


def _halves(u: Floats, v: Floats) -> Floats:
    return _edge(0.3 * u + v)


def _blotches(count: int, generator: np.random.Generator) -> Floats:
    """(B, P, P) grey fields with blotches of a few pixels, coarse and fine ones mixed."""
    field = np.zeros((count, PX, PX))
    for cells in (4, 8, 16):
        coarse = generator.uniform(0, 1, (count, cells, cells))
        field += np.kron(coarse, np.ones((PX // cells, PX // cells)))
    return field / 3


def _lit(images: Floats, generator: np.random.Generator) -> NDArray[np.uint8]:
    """(B, P, P, 3) bytes under a light of random strength and direction, with a little noise."""
    count = len(images)
    y, x = _grid()
    slope = _column(generator, -0.25, 0.25, count) * y + _column(generator, -0.25, 0.25, count) * x
    light = _column(generator, 0.6, 1.1, count) + slope
    noisy = images * light[..., None] + generator.normal(0, 0.03, images.shape)
    return (np.clip(noisy, 0, 1) * 255).astype(np.uint8)


def draw_distractors(count: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """(B, P, P, 3) off-domain pictures: sceneries, drawn lines and coloured gradients, of no concept."""
    kinds: tuple[Callable[[int, np.random.Generator], Floats], ...] = (_sceneries, _lines, _gradients)
    parts = [kind(len(range(start, count, len(kinds))), generator) for start, kind in enumerate(kinds)]
    return _lit(np.concatenate(parts), generator)


def _colours(count: int, generator: np.random.Generator) -> Floats:
    return generator.uniform(0.1, 0.9, (count, 1, 1, 3))


def _sceneries(count: int, generator: np.random.Generator) -> Floats:
    y, x = _grid()
    waves = _column(generator, 0.05, 0.3, count) * np.sin(x * _column(generator, 2, 7, count) + _column(generator, 0, 6, count))
    land = _edge(_column(generator, -0.4, 0.4, count) + waves - y)[..., None]
    sky = _colours(count, generator) * (0.8 + 0.2 * y[..., None])
    return land * _colours(count, generator) * (0.5 + _blotches(count, generator)[..., None]) + (1 - land) * sky


def _lines(count: int, generator: np.random.Generator) -> Floats:
    y, x = _grid()
    ink = np.zeros((count, PX, PX))
    for _ in range(4):
        angle = _column(generator, 0, np.pi, count)
        distance = abs(np.cos(angle) * x + np.sin(angle) * y - _column(generator, -0.8, 0.8, count))
        ink = np.maximum(ink, _edge(distance - 0.07))
    return 0.92 - ink[..., None] * (0.92 - 0.5 * _colours(count, generator))


def _gradients(count: int, generator: np.random.Generator) -> Floats:
    y, x = _grid()
    angle = _column(generator, 0, 2 * np.pi, count)
    mix = np.clip(0.5 + 0.5 * (np.cos(angle) * x + np.sin(angle) * y), 0, 1)[..., None]
    return _colours(count, generator) * mix + _colours(count, generator) * (1 - mix)


def draw_junk(count: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """(B, P, P, 3) blank pictures and pure noise, in halves."""
    noise = generator.integers(0, 256, (count // 2, PX, PX, 3), dtype=np.uint8)
    blank = np.broadcast_to(generator.integers(0, 256, (count - count // 2, 1, 1, 3), dtype=np.uint8), (count - count // 2, PX, PX, 3))
    return np.concatenate([noise, blank])
