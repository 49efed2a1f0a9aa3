"""toyweb: a small uncurated web drawn by code, with ground truth. The embedded default data.

A concept is a shape with a texture in a palette: what survives crops, mirroring and changes of light. Where it stands, how
large, how turned and how lit it is, which of its two inks comes first, and the ground behind it, are nuisances: a ground is
a field of grey blotches, so that two crops of one image see different parts of it and no colour of the ground gives it away.
Raw pixels do badly because place and ground outweigh the object, an average colour because palettes share their means.

    queries      labelled images, every concept equally often: what curation starts from, and the kNN memory
    test         labelled images, for evaluation only; both with a mask of where the concept shows. With `shift=noise`
                 (blur, contrast, grey, pixelate, turn) the same images after that
    pool         unlabelled: concepts with a long tail, off-domain pictures, exact and near duplicates, leaked test images,
                 junk and files that are no images
    scenes       several concepts, the nearer ones in front, with masks and depths; scenes_test others, for evaluation only
    copies       edited copies of `queries` of that size and seed, as many as images of the same kind that are none

Beside each part lies PART.truth.parquet: path, origin (concept, distractor, junk, corrupt), concept, duplicate_of (a path of
the pool), leak_of (a path of `test` with the same seed and its default size), defect: of copies exact, jpeg, crop, mirror or
bright; of what is no image empty, truncated or text.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from dinov2lab.data import drawing, shifts
from dinov2lab.data.drawing import CONCEPTS, GROUND, PX, Concepts, Pictures
from dinov2lab.store import atomic

SIZES = {"pool": 6000, "queries": 1600, "test": 1600, "scenes": 800, "scenes_test": 400, "copies": 1600}
SHARES = {
    "concept": 0.45,
    "distractor": 0.35,
    "junk": 0.08,
    "leak": 0.02,
    "corrupt": 0.01,
}  # of the pool; the rest: copies
LONG_TAIL = 1.0  # exponent of Zipf's law over concepts in the pool
EDITS = ("jpeg", "crop", "mirror", "bright")
SHIFTED = ("queries", "test")  # parts that may be shifted


@dataclass(frozen=True)
class Row:
    """One image of a part and what is true of it."""

    image: bytes
    origin: str
    concept: int | None = None
    copied: int | None = None  # the position, before shuffling, of the row that this one copies
    leak_of: str | None = None
    defect: str | None = None


def materialise(part: str, cache: Path) -> Path:
    """The Parquet file of `PART[?images=N&seed=S]`, drawn into `cache` where it is not there yet.

    Raises ValueError for an unknown part or option.
    """
    asked = _parsed(part)
    folder = cache / "toyweb" / f"{asked.images}-{asked.seed}{f'-{asked.shift}' if asked.shift else ''}-{version()}"
    file = folder / f"{asked.name}.parquet"
    if file.exists():  # also where nothing may be written any more
        return file
    with atomic.locked(folder / f"{asked.name}.lock"):
        if not file.exists():
            table, truth = _drawn(asked)
            atomic.write(folder / f"{asked.name}.truth.parquet", lambda path: pq.write_table(truth, path))
            atomic.write(file, lambda path: pq.write_table(table, path, row_group_size=1000))
    return file


class Part(NamedTuple):
    name: str
    images: int
    seed: int
    shift: str  # none: as they were drawn


def _parsed(part: str) -> Part:
    name, mark, query = part.partition("?")
    if name not in SIZES:
        raise ValueError(f"toyweb:{part}: no such part {name!r}; there are {', '.join(SIZES)}")
    try:
        pairs = parse_qsl(query, strict_parsing=bool(mark), keep_blank_values=True)
    except ValueError:
        raise ValueError(f"toyweb:{part}: options are written toyweb:{name}?images=N&seed=S") from None
    options, known = dict(pairs), ("images", "seed", *(["shift"] if name in SHIFTED else []))
    if unknown := set(options) - set(known):
        raise ValueError(f"toyweb:{part}: unknown option {min(unknown)!r}; there are {' and '.join(known)}")
    if twice := [option for option, times in Counter(option for option, _ in pairs).items() if times > 1]:
        raise ValueError(f"toyweb:{part}: {twice[0]} is given twice")
    try:
        images, seed = int(options.get("images", SIZES[name])), int(options.get("seed", 0))
    except ValueError:
        raise ValueError(f"toyweb:{part}: images and seed are integers") from None
    if images < CONCEPTS or seed < 0:
        raise ValueError(f"toyweb:{part}: at least {CONCEPTS} images, and a seed of 0 or more")
    if "shift" in options and options["shift"] not in shifts.SHIFTS:
        raise ValueError(f"toyweb:{part}: no such shift; there are {', '.join(shifts.SHIFTS)}")
    return Part(name, images, seed, options.get("shift", ""))


def version() -> str:
    """Of the code that draws: another drawing is another data set."""
    code = b"".join(Path(file).read_bytes() for file in (__file__, str(drawing.__file__), str(shifts.__file__)))
    return hashlib.sha256(code).hexdigest()[:8]


def _generator(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, *name.encode()])


def _drawn(part: Part) -> tuple[pa.Table, pa.Table]:
    """(what a source reads, the truth beside it)."""
    name, images, seed, _ = part
    generator = _generator(name, seed)
    match name:
        case "pool":
            rows = _pool(images, seed, generator)
            return _tables(name, rows, generator.permutation(len(rows)))
        case "scenes" | "scenes_test":
            return _scenes(name, images, generator)
        case "copies":
            return _copies(images, seed, generator)
        case _:
            return _labelled(part)


def _labelled(part: Part) -> tuple[pa.Table, pa.Table]:
    """The mask of an image that was turned is not turned with it, and is left out."""
    drawn = _balanced(part.name, part.images, part.seed)
    pictures = drawn.pictures
    if part.shift:
        pictures = shifts.shifted(pictures, part.shift, _generator(part.shift, part.seed))
    rows = [Row(_png(pixels), "concept", i % CONCEPTS) for i, pixels in enumerate(pictures)]
    table, truth = _tables(part.name, rows, np.arange(part.images))
    table = table.append_column("label", pa.array([row.concept for row in rows], pa.int64()))
    return (table if part.shift == "turn" else _with_pictures(table, "mask", drawn.masks)), truth


def _scenes(name: str, images: int, generator: np.random.Generator) -> tuple[pa.Table, pa.Table]:
    drawn = drawing.scenes(images, generator)
    table, truth = _tables(name, [Row(_png(pixels), "scene") for pixels in drawn.pictures], np.arange(images))
    depths = np.rint(drawn.depths / GROUND * 255).astype(np.uint8)  # a depth of 1 is that of the ground
    return _with_pictures(_with_pictures(table, "mask", drawn.masks), "depth", depths), truth


def _copies(images: int, seed: int, generator: np.random.Generator) -> tuple[pa.Table, pa.Table]:
    """Copies and others in turn."""
    originals = _balanced("queries", images, seed).pictures
    others = drawing.concepts(np.arange(images) % CONCEPTS, generator).pictures
    edits = (*EDITS, "noise", "blur", "contrast")
    rows, paths = list[Row](), list[str | None]()
    for i, number in enumerate(generator.permutation(images).tolist()):
        edit = edits[generator.integers(len(edits))] if i % 2 == 0 else None
        pixels = originals[number] if edit else others[number]
        if edit in EDITS:
            image = _edited(pixels, edit, generator)
        else:
            image = _png(shifts.shifted(pixels[None], edit, generator)[0] if edit else pixels)
        rows.append(Row(image, "concept", number % CONCEPTS, defect=edit))
        paths.append(f"queries/{number:05d}.png" if edit else None)
    table, truth = _tables("copies", rows, np.arange(images))
    return table.append_column("copy_of", pa.array(paths, pa.string())), truth


def _with_pictures(table: pa.Table, column: str, pictures: Pictures) -> pa.Table:
    return table.append_column(column, pa.array([_png(pixels) for pixels in pictures], pa.binary()))


def _balanced(name: str, images: int, seed: int) -> Concepts:
    """Every concept equally often, in turn."""
    return drawing.concepts(np.arange(images) % CONCEPTS, _generator(name, seed))


def _tables(name: str, rows: Sequence[Row], order: NDArray[np.int64]) -> tuple[pa.Table, pa.Table]:
    """Both with the rows in `order`, whose positions name the paths."""
    path = {int(position): f"{name}/{place:05d}.png" for place, position in enumerate(order)}
    shuffled = [rows[position] for position in path]
    truth = {
        "path": list(path.values()),
        "origin": [row.origin for row in shuffled],
        "concept": [None if row.concept is None else str(row.concept) for row in shuffled],
        "duplicate_of": [None if row.copied is None else path[row.copied] for row in shuffled],
        "leak_of": [row.leak_of for row in shuffled],
        "defect": [row.defect for row in shuffled],
    }
    table = pa.table({"path": truth["path"], "image": pa.array([row.image for row in shuffled], pa.binary())})
    return table, pa.table({column: pa.array(values, pa.string()) for column, values in truth.items()})


def _pool(images: int, seed: int, generator: np.random.Generator) -> list[Row]:
    count = {origin: int(images * share) for origin, share in SHARES.items()}
    tail = 1 / np.arange(1, CONCEPTS + 1) ** LONG_TAIL
    numbers = generator.choice(generator.permutation(CONCEPTS), count["concept"], p=tail / tail.sum())
    shown = [drawing.concepts(numbers, generator).pictures, drawing.distractors(count["distractor"], generator)]
    pictures = np.concatenate(shown)
    rows = [Row(_png(pixels), "concept", int(number)) for number, pixels in zip(numbers, shown[0], strict=True)]
    rows += [Row(_png(pixels), "distractor") for pixels in shown[1]]
    junk = [Row(_png(pixels), "junk") for pixels in drawing.junk(count["junk"], generator)]
    copies = images - len(rows) - sum(count[origin] for origin in ("junk", "leak", "corrupt"))
    copied = generator.choice(len(rows), copies)
    return [
        *rows,
        *junk,
        *[_copy(rows[i], pictures[i], generator, copied=int(i)) for i in copied],
        *_leaks(count["leak"], seed, generator),
        *[_corrupt(rows[generator.integers(len(rows))].image, generator) for _ in range(count["corrupt"])],
    ]


def _leaks(count: int, seed: int, generator: np.random.Generator) -> list[Row]:
    """Copies of `count` images of `test`, or of all where it has no more."""
    test = _balanced("test", SIZES["test"], seed).pictures
    rows = []
    for i in generator.choice(len(test), min(count, len(test)), replace=False):
        original = Row(_png(test[i]), "concept", int(i % CONCEPTS))
        rows.append(_copy(original, test[i], generator, leak_of=f"test/{i:05d}.png"))
    return rows


def _copy(
    row: Row, pixels: Pictures, generator: np.random.Generator, copied: int | None = None, leak_of: str | None = None
) -> Row:
    """An exact or a near copy, in halves."""
    exact = generator.random() < 0.5
    defect = "exact" if exact else EDITS[generator.integers(len(EDITS))]
    image = row.image if exact else _edited(pixels, defect, generator)
    return Row(image, row.origin, row.concept, copied, leak_of, defect)


def _edited(pixels: Pictures, edit: str, generator: np.random.Generator) -> bytes:
    """A near duplicate: saved as JPEG, cropped by a pixel on each side, mirrored or made brighter."""
    image = Image.fromarray(pixels)
    if edit == "jpeg":
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(generator.integers(60, 85)))
        return buffer.getvalue()
    if edit == "crop":
        image = image.resize(image.size, box=(1, 1, PX - 1, PX - 1))
    elif edit == "mirror":
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    else:
        image = image.point(lambda value: min(255, int(value * 1.15)))
    return _png(np.asarray(image))


def _corrupt(image: bytes, generator: np.random.Generator) -> Row:
    """A file that is no image, or no longer one."""
    defect = ("empty", "truncated", "text")[generator.integers(3)]
    files = {"empty": b"", "truncated": image[: len(image) // 2], "text": b"<html>404 Not Found</html>"}
    return Row(files[defect], "corrupt", defect=defect)


def _png(pixels: Pictures) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
