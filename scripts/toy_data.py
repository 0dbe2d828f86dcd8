"""Draw a small data set for demos and tests: class folders of images, and a VOCdevkit.

    python scripts/toy_data.py --out DIR [--seed 0]

writes JPEG and XML files that the readers for the real data read unchanged:

    DIR/imagenet/{train,val}/<class>/<number>.jpg     one object per image
    DIR/VOCdevkit/classes.txt                         one class name per line
    DIR/VOCdevkit/VOC2007/{Annotations,ImageSets/Main,JPEGImages}   sets "trainval" and "test"

The classes are shapes; colour, size, rotation, stretch and background vary at random, so only the
shape tells the class. Every image is a function of (seed, split, number), whatever the counts.
"""

import argparse
import hashlib
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]

MANIFEST = "toy_data.json"
OVERSAMPLING = 4  # masks are drawn this much larger, then averaged: smooth edges
TINY_RATE = 0.03  # share of the detection objects that are too small to count
MAX_TURN = math.radians(25)  # of an object from upright
HARDLY_VISIBLE = 0.55  # an object with less than this share in sight is "difficult"
HIDDEN = 0.4  # a new object must leave every other at least this share in sight


@dataclass(frozen=True)
class Sizes:
    """How many images, and how large; sides in pixels."""

    train_per_class: int = 400
    val_per_class: int = 40
    image_side: int = 64
    trainval: int = 600
    test: int = 150
    scene_side: int = 128


@dataclass(frozen=True)
class DrawnObject:
    """One object of a scene; ``box`` is xmin, ymin, xmax, ymax in 1-based inclusive pixels."""

    name: str
    box: tuple[int, int, int, int]
    difficult: bool


# ---- shapes: outlines in a plane where the object has radius 1 ----------------------------------


def _around(radii: list[float], first: float = -math.pi / 2) -> Floats:
    """Return corners at equal angles around the origin, one for each radius, the first on top."""
    angles = first + np.arange(len(radii)) * (2 * math.pi / len(radii))
    unit_circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    corners: Floats = unit_circle * np.array(radii)[:, None]
    return corners


def _cross(rng: np.random.Generator) -> list[Floats]:
    arm = rng.uniform(0.27, 0.36)
    corners = [(1.0, -arm), (1.0, arm), (arm, arm)]  # of one quarter; the others are it, turned
    outline = []
    for _ in range(4):
        outline += corners
        corners = [(-y, x) for x, y in corners]
    return [np.array(outline)]


SHAPES: dict[str, Callable[[np.random.Generator], list[Floats]]] = {
    "cross": _cross,
    "disc": lambda rng: [_around([1.0] * 64)],
    "ring": lambda rng: [_around([1.0] * 64), _around([rng.uniform(0.5, 0.62)] * 64)],
    "square": lambda rng: [_around([1.0] * 4, math.pi / 4)],
    "star": lambda rng: [_around([1.0, rng.uniform(0.4, 0.48)] * 5)],
    "triangle": lambda rng: [_around([1.0] * 3)],
}
CLASSES = tuple(SHAPES)


def _mask(outlines: list[Floats], side: int) -> Floats:
    """Draw outlines in pixels as coverage in [0, 1], (side, side); the second is a hole."""
    canvas = np.zeros((side * OVERSAMPLING,) * 2, np.uint8)
    for outline, value in zip(outlines, (255, 0), strict=False):
        fixed_point = np.round(outline * OVERSAMPLING * 16).astype(np.int32)
        cv2.fillPoly(canvas, [fixed_point], value, lineType=cv2.LINE_AA, shift=4)
    small = cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32) / 255


def object_mask(
    name: str, size: float, centre: tuple[float, float], side: int, rng: np.random.Generator
) -> Floats:
    """Draw the coverage of one object, turned and stretched, about ``size`` pixels long."""
    angle = rng.uniform(-MAX_TURN, MAX_TURN)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    stretch = math.sqrt(rng.uniform(0.8, 1.25))
    outlines = [o @ turn.T * (stretch, 1 / stretch) for o in SHAPES[name](rng)]
    low, high = outlines[0].min(axis=0), outlines[0].max(axis=0)
    scale = size / (high - low).max()
    middle = (low + high) / 2
    return _mask([(outline - middle) * scale + centre for outline in outlines], side)


# ---- painting -----------------------------------------------------------------------------------


def _colour(rng: np.random.Generator, away_from: Floats, distance: float) -> Floats:
    """Choose a colour at least ``distance`` from another, in 8-bit units of RGB space."""
    while True:
        colour = rng.uniform(20, 235, 3)
        if np.linalg.norm(colour - away_from) >= distance:
            return colour


def _smooth_noise(side: int, cells: int, channels: int, rng: np.random.Generator) -> Floats:
    """Draw noise in [-1, 1], (side, side, channels), that varies over about side / cells pixels."""
    coarse = rng.uniform(-1, 1, (cells, cells, channels)).astype(np.float32)
    fine = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.asarray(fine, np.float32).reshape(side, side, channels)


def _blend(image: Floats, mask: Floats, paint: Floats) -> Floats:
    return image + mask[:, :, None] * (paint - image)


def _background(side: int, rng: np.random.Generator) -> Floats:
    """Draw a muted textured ground with stripes, lines and shapeless blobs, none an object."""
    base = rng.uniform(70, 185) + rng.uniform(-25, 25, 3)
    image: Floats = base + 12 * _smooth_noise(side, int(rng.integers(2, 5)), 3, rng)
    image += rng.uniform(3, 9) * _smooth_noise(side, int(rng.integers(8, 24)), 1, rng)
    if rng.random() < 0.35:
        y, x = np.mgrid[:side, :side].astype(np.float32)
        angle, period = rng.uniform(0, math.pi), rng.uniform(5, 14)
        phase = (x * math.cos(angle) + y * math.sin(angle)) * (2 * math.pi / period)
        image += rng.uniform(4, 10) * np.sin(phase)[:, :, None]
    for _ in range(rng.integers(1, 4)):
        # Waves of two frequencies on the radius: a blob with dents, never a clean shape.
        angles = np.arange(40) * (2 * math.pi / 40)
        radius = 1 + 0.35 * np.sin(2 * angles + rng.uniform(0, 6.3))
        radius += 0.22 * np.sin(5 * angles + rng.uniform(0, 6.3))
        outline = _around(radius.tolist()) * rng.uniform(0.06, 0.16) * side
        mask = _mask([outline + rng.uniform(0, side, 2)], side)
        mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.6, 2.5))
        image = _blend(image, mask, image.mean(axis=(0, 1)) + rng.uniform(-32, 32, 3))
    for _ in range(rng.integers(1, 5)):
        ends = rng.integers(-side // 4, side + side // 4, (2, 2)).tolist()
        lines = np.zeros((side, side), np.uint8)
        cv2.line(lines, ends[0], ends[1], 255, int(rng.integers(1, 3)), cv2.LINE_AA)
        image = _blend(image, lines / np.float32(255), base + rng.uniform(-40, 40, 3))
    return image


def _paint(image: Floats, mask: Floats, rng: np.random.Generator) -> Floats:
    """Paint an object in a colour that stands out, with a soft shade and sometimes a rim."""
    side = image.shape[0]
    weight = mask / mask.sum()
    ground = (image * weight[:, :, None]).sum(axis=(0, 1))
    colour = _colour(rng, ground, 125)
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    angle = rng.uniform(0, 2 * math.pi)
    shade = (x - 0.5) * math.cos(angle) + (y - 0.5) * math.sin(angle)
    paint = colour + 30 * shade[:, :, None] + 6 * _smooth_noise(side, 12, 1, rng)
    if rng.random() < 0.5:
        inner = cv2.erode(mask, np.ones((3, 3), np.uint8))
        rim = np.clip(mask - inner, 0, 1)
        paint = _blend(paint, rim, paint * np.float32(rng.choice([0.6, 1.3])))
    return _blend(image, mask, paint)


def _finish(image: Floats, rng: np.random.Generator) -> Image:
    grain = rng.normal(0, rng.uniform(1, 5), image.shape[:2])[:, :, None]
    return np.clip(np.round(image + grain), 0, 255).astype(np.uint8)


# ---- images -------------------------------------------------------------------------------------


def draw_single(name: str, side: int, rng: np.random.Generator) -> Image:
    """Draw an image (side, side, 3) RGB of one object, roughly in the middle."""
    size = rng.uniform(0.5, 0.88) * side
    slack = (side - size) / 2 * 0.7
    x, y = side / 2 + rng.uniform(-slack, slack, 2)
    image = _background(side, rng)
    return _finish(_paint(image, object_mask(name, size, (x, y), side, rng), rng), rng)


def _visible_box(visible: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    ys, xs = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    return int(xs[0]) + 1, int(ys[0]) + 1, int(xs[-1]) + 1, int(ys[-1]) + 1


def draw_scene(side: int, rng: np.random.Generator) -> tuple[Image, list[DrawnObject]]:
    """Draw an image (side, side, 3) RGB of one to four objects, the later in front; return both.

    A box holds the part in sight. Difficult are the tiny and the mostly covered.
    """
    image = _background(side, rng)
    visible: list[tuple[str, bool, float, NDArray[np.bool_]]] = []  # name, tiny, area, pixels
    wanted = int(rng.choice([1, 2, 3, 4], p=[0.2, 0.35, 0.3, 0.15]))
    for _ in range(20 * wanted):  # a crowded draw may end with fewer than wanted, never with none
        if len(visible) == wanted:
            break
        name = str(rng.choice(CLASSES))
        tiny = bool(visible) and rng.random() < TINY_RATE
        size = (rng.uniform(0.07, 0.11) if tiny else rng.uniform(0.19, 0.56)) * side
        x, y = rng.uniform(size / 2 + 1, side - size / 2 - 1, 2)
        mask = object_mask(name, size, (x, y), side, rng)
        covered = mask >= 0.5
        touches = any((pixels & covered).any() for *_, pixels in visible)
        leaves = all((px & ~covered).sum() >= HIDDEN * area for *_, area, px in visible)
        if not covered.any() or not leaves or (touches and (tiny or rng.random() < 0.9)):
            continue
        visible = [(n, t, area, pixels & ~covered) for n, t, area, pixels in visible]
        visible.append((name, tiny, float(covered.sum()), covered))
        image = _paint(image, mask, rng)
    objects = [
        DrawnObject(n, _visible_box(pixels), t or bool(pixels.sum() < HARDLY_VISIBLE * area))
        for n, t, area, pixels in visible
    ]
    return _finish(image, rng), objects


# ---- files --------------------------------------------------------------------------------------


def _write_jpeg(path: Path, image: Image) -> None:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 92])
    path.write_bytes(encoded.tobytes())


def _xml(image_id: str, side: int, objects: list[DrawnObject]) -> str:
    lines = [
        "<annotation>",
        f"\t<filename>{image_id}.jpg</filename>",
        "\t<source><database>drawn shapes</database></source>",
        f"\t<size><width>{side}</width><height>{side}</height><depth>3</depth></size>",
    ]
    for item in objects:
        corners = zip(("xmin", "ymin", "xmax", "ymax"), item.box, strict=True)
        box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners)
        lines += [
            "\t<object>",
            f"\t\t<name>{item.name}</name>",
            f"\t\t<difficult>{int(item.difficult)}</difficult>",
            f"\t\t<bndbox>{box}</bndbox>",
            "\t</object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def _write_class_folders(root: Path, seed: int, sizes: Sizes) -> None:
    counts = {"train": sizes.train_per_class, "val": sizes.val_per_class}
    for split, (split_name, count) in enumerate(counts.items()):
        for label, name in enumerate(CLASSES):
            folder = root / split_name / name
            folder.mkdir(parents=True)
            for number in range(count):
                rng = np.random.default_rng([seed, split, label, number])
                _write_jpeg(folder / f"{number:04d}.jpg", draw_single(name, sizes.image_side, rng))


def _write_devkit(devkit: Path, seed: int, sizes: Sizes) -> None:
    year = devkit / "VOC2007"
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (year / folder).mkdir(parents=True)
    (devkit / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    for split, (name, count) in enumerate({"trainval": sizes.trainval, "test": sizes.test}.items()):
        ids = [f"{split}{number:05d}" for number in range(count)]
        for number, image_id in enumerate(ids):
            rng = np.random.default_rng([seed, 2 + split, number])
            image, objects = draw_scene(sizes.scene_side, rng)
            _write_jpeg(year / "JPEGImages" / f"{image_id}.jpg", image)
            xml = _xml(image_id, sizes.scene_side, objects)
            (year / "Annotations" / f"{image_id}.xml").write_text(xml)
        (year / "ImageSets/Main" / f"{name}.txt").write_text("\n".join(ids) + "\n")


def _count_files(folders: list[Path]) -> int:
    return sum(path.is_file() for folder in folders for path in folder.rglob("*"))


def make_toy_data(out: Path, seed: int = 0, sizes: Sizes | None = None) -> bool:
    """Write the toy data set below ``out``.

    Args:
        out: The folder for ``imagenet`` and ``VOCdevkit``; made if missing.
        seed: The same seed gives the same files, byte for byte.
        sizes: How many images and how large.

    Returns:
        False if the folder already holds this very set, complete; True if it was written.

    Raises:
        FileExistsError: ``out`` holds an ``imagenet`` or ``VOCdevkit`` folder of other origin.
    """
    sizes = sizes or Sizes()
    folders = [out / "imagenet", out / "VOCdevkit"]
    manifest = out / MANIFEST
    script = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    wanted: dict[str, Any] = {"script": script, "seed": seed, **asdict(sizes)}
    if manifest.is_file():
        found = json.loads(manifest.read_text() or "{}")
        if found == wanted | {"files": _count_files(folders)}:
            return False
    else:
        for folder in folders:
            if folder.exists():
                raise FileExistsError(
                    f"{folder} was not made by this script and is left alone; choose another --out"
                )
    out.mkdir(parents=True, exist_ok=True)
    manifest.write_text("{}")  # marks the folders as ours; filled in when they are complete
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    _write_class_folders(folders[0], seed, sizes)
    _write_devkit(folders[1], seed, sizes)
    content = wanted | {"files": _count_files(folders)}
    manifest.write_text(json.dumps(content, indent=2) + "\n")
    return True


def main() -> None:
    """Read the command line and write the data."""
    summary = "Draw a small data set: class folders of images, and a VOCdevkit."
    parser = argparse.ArgumentParser(
        description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0, help="a number from 0 up")
    for name, default in asdict(Sizes()).items():
        unit = "pixels" if name.endswith("side") else "images"
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=unit)
    arguments = vars(parser.parse_args())
    out, seed = arguments.pop("out"), arguments.pop("seed")
    sizes = Sizes(**arguments)
    for name, value in {"seed": seed + 1, **asdict(sizes)}.items():
        least = 32 if name.endswith("side") else 1
        if value < least:
            parser.error(f"--{name.replace('_', '-')} is too small")
    try:
        written = make_toy_data(out, seed, sizes)
    except OSError as error:
        parser.error(str(error))
    single = (sizes.train_per_class + sizes.val_per_class) * len(CLASSES)
    print(
        f"{'Made' if written else 'Reused'} in {out}: imagenet ({single} images of "
        f"{len(CLASSES)} classes) and VOCdevkit ({sizes.trainval} trainval, {sizes.test} test)."
    )


if __name__ == "__main__":
    main()
