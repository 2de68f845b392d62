"""Synthetic photographs of handwritten digits.

    python tests/handwriting/photographs.py --workdir runs/default --count 10000

prints a trained network's accuracy on them and on their digits in the dataset.
"""

import argparse
import io
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage as scipy_ndimage

from mnist_jax import load_network
from mnist_jax.datasets import load_splits
from mnist_jax.datasets.image_files import decode_image
from mnist_jax.handwriting.drawing import Drawing, prepare_drawing
from mnist_jax.workdir.trained import trained_config

ndimage: Any = scipy_ndimage  # it has no types
DENSITY = 6  # points of an outline for each pixel of the dataset


class Scene(NamedTuple):
    """A scene to photograph; lengths are fractions of the picture's shorter side."""

    width: int = 600  # pixels
    height: int = 600
    size: float = 0.4  # of the digit's longer side
    right: float = 0.5  # place of the digit, 0 to 1 of the range in which it fits
    down: float = 0.5
    turn: float = 0.0  # degrees
    pen: float = 0.0  # width as a fraction of the digit's size; 0: as in the dataset
    paper: tuple[float, float, float] = (0.9, 0.9, 0.9)  # 0 to 1
    ink: tuple[float, float, float] = (0.15, 0.15, 0.2)
    grain: float = 0.01  # deviation of the paper's brightness
    ruled: str = "no"  # or lines, squares
    slope: float = 0.0  # degrees, of the lines
    pressure: float = 0.0  # variation of the ink's density
    uneven: float = 0.0  # darkening of the far end of the picture
    vignette: float = 0.0  # darkening of its corners
    shadow: float = 0.0  # darkening by a shadow
    softness: float = 0.1  # of its edge
    glare: float = 0.0
    blur: float = 0.5  # pixels
    noise: float = 2.0  # levels of 255
    quality: int = 85  # of the JPEG file
    grey: bool = False
    kind: str = "jpeg"  # or transparent
    orientation: int = 1  # EXIF


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draws a random scene that a user might photograph."""

    def chance(probability: float) -> bool:
        return rng.random() < probability

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    side = int(math.exp(between(math.log(150), math.log(1200))))
    long = int(side * (1, 4 / 3, 3 / 2)[rng.integers(3)])
    width, height = (long, side) if chance(0.5) else (side, long)
    size = between(0.15, 0.8)
    tint = rng.uniform(-0.08, 0.08, 3) * chance(0.6)
    paper, ink = between(0.6, 0.97), between(0.03, 0.35)
    if chance(0.15):  # pencil, or a pale pen
        ink = paper - between(0.2, 0.35)
    if chance(0.2):  # a blackboard
        paper, ink = between(0.05, 0.3), between(0.65, 0.97)
    papers = np.clip(paper + tint, 0.03, 0.98)
    inks = np.clip(ink + rng.uniform(-0.15, 0.3, 3) * chance(0.4), 0.02, 0.98)
    kind = "transparent" if chance(0.08) else "jpeg"
    return Scene(
        width=width,
        height=height,
        size=size,
        right=between(0, 1),
        down=between(0, 1),
        turn=between(-10, 10),
        pen=0.0 if chance(0.3) else max(between(0.02, 0.16), 1.5 / (size * side)),
        paper=tuple(papers),
        ink=tuple(inks),
        grain=between(0, 0.03),
        ruled=("lines", "squares")[rng.integers(2)] if chance(0.15) and kind == "jpeg" else "no",
        slope=between(-5, 5),
        pressure=between(0.1, 0.4) if chance(0.5) else 0.0,
        uneven=between(0, 0.4),
        vignette=between(0, 0.4) * chance(0.5),
        shadow=between(0.15, 0.5) * chance(0.4),
        softness=math.exp(between(math.log(0.005), math.log(0.3))),
        glare=between(0.2, 0.8) * chance(0.15),
        blur=between(0.2, 1.0 + side / 600),
        noise=between(0.5, 7),
        quality=int(rng.integers(40, 96)),
        grey=chance(0.3),
        kind=kind,
        orientation=int(rng.integers(1, 9)) if chance(0.2) else 1,
    )


def conditions(scene: Scene) -> list[str]:
    """Lists the difficulties of a scene that benchmarks/README.md names."""
    contrast = abs(np.mean(scene.paper) - np.mean(scene.ink))
    plain = contrast >= 0.35 and not scene.glare and scene.ruled == "no"
    found = {
        "no glare, lines or low contrast": plain,
        "thin pen (< 5 %)": 0 < scene.pen < 0.05,
        "marker (> 13 %)": scene.pen > 0.13,
        "small digit (< 25 %)": scene.size < 0.25,
        "rotation (> 5 degrees)": abs(scene.turn) > 5,
        "light ink on dark": np.mean(scene.paper) < np.mean(scene.ink),
        "hard shadow": scene.shadow > 0 and scene.softness < 0.05,
        "soft shadow": scene.shadow > 0 and scene.softness >= 0.05,
        "low contrast (< 0.35)": contrast < 0.35,
        "ruled paper": scene.ruled == "lines",
        "squared paper": scene.ruled == "squares",
    }
    return [name for name, is_so in found.items() if is_so]


def photograph(digit: np.ndarray, scene: Scene, rng: np.random.Generator) -> bytes:
    """Returns a JPEG or PNG file of the scene with a digit, or blank paper for zeros."""
    cover = _strokes(digit, scene)
    if scene.pressure:
        cover *= 1 - scene.pressure * _clouds(rng, cover.shape, 0.03)
    paper, ink = np.array(scene.paper, np.float32), np.array(scene.ink, np.float32)
    if scene.kind == "transparent":
        pixels = np.empty((*cover.shape, 4), np.uint8)
        pixels[..., :3] = np.round(255 * ink)
        pixels[..., 3] = np.round(255 * cover)
        return _encode(Image.fromarray(pixels), scene)
    grain = rng.standard_normal(cover.shape, np.float32) * scene.grain
    grain = grain + scene.grain * 2 * (_clouds(rng, cover.shape, 0.02) - 0.5)
    light = _light(scene, rng)
    lines = _lines(scene)
    pale = 0.35 * np.mean(paper - ink)
    if scene.blur:
        cover = ndimage.gaussian_filter(cover, scene.blur)
    channels = []
    for channel in range(1 if scene.grey else 3):
        line = lines * pale * (1.4 if channel == 0 else 0.8)
        ground = (paper[channel] - line) * (1 + grain)
        channel = (ground + cover * (ink[channel] - ground)) * light
        noise = rng.standard_normal(cover.shape, np.float32) * (scene.noise / 255)
        channels.append((255 * (channel + noise)).clip(0, 255).round().astype(np.uint8))
    return _encode(Image.fromarray(np.stack(channels, -1).squeeze()), scene)


def _encode(picture: Image.Image, scene: Scene) -> bytes:
    """Encodes the file, with the orientation in EXIF."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # of Pillow's transpositions
    if scene.orientation in undo:
        picture = picture.transpose(Image.Transpose(undo[scene.orientation]))
    exif = Image.Exif()
    exif[0x0112] = scene.orientation
    file = io.BytesIO()
    kind = "PNG" if scene.kind == "transparent" else "JPEG"
    picture.save(file, kind, quality=scene.quality, exif=exif)  # PNG ignores the quality
    return file.getvalue()


def _strokes(digit: np.ndarray, scene: Scene) -> np.ndarray:
    """Draws each pixel's fraction of ink: float32 [height, width] in [0, 1]."""
    cover = np.zeros((scene.height, scene.width), np.float32)
    if not digit.any():
        return cover
    outline = _signed_distance(digit, scene.pen)  # in points, positive inside
    rows, columns = np.nonzero(outline > 0)
    extent = max(np.ptp(rows), np.ptp(columns)) + 1
    scale = scene.size * min(cover.shape) / extent  # pixels a point
    angle = math.radians(scene.turn)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    points = np.stack([rows, columns], 1) @ turn.T * scale
    low, high = points.min(0) - 1, points.max(0) + 2
    shape = np.minimum(np.ceil(high - low).astype(int), cover.shape)
    inside = ndimage.affine_transform(
        outline, turn.T / scale, turn.T @ low / scale, tuple(shape), order=1, cval=outline.min()
    )
    room = np.array(cover.shape) - shape
    top, left = (room * [scene.down, scene.right]).astype(int)
    cover[top : top + shape[0], left : left + shape[1]] = (inside * scale + 0.5).clip(0, 1)
    return cover


def _signed_distance(digit: np.ndarray, pen: float) -> np.ndarray:
    """Measures the distance to the outline of strokes, drawn with a round pen unless it is 0."""
    padded = np.pad(digit, 4).astype(np.float32)
    fine = ndimage.zoom(padded, DENSITY, order=3, grid_mode=True, mode="nearest")
    inside = ndimage.gaussian_filter(fine, DENSITY / 3) > 110
    if pen:
        middle = _thinned(inside)
        extent = np.ptp(np.argwhere(middle), axis=0).max()
        width = extent * pen / (1 - pen)  # a fraction of the whole digit, pen included
        distance = width / 2 - ndimage.distance_transform_edt(~middle)
    else:
        distance = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    return ndimage.gaussian_filter(distance, 1).astype(np.float32)


def _thinned(mask: np.ndarray) -> np.ndarray:
    """Finds the middle lines of strokes by T. Zhang and C. Suen's thinning (1984)."""
    mask = np.pad(mask, 1)
    turns = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]
    while True:
        before = mask.sum()
        for first, second in (((0, 2, 4), (2, 4, 6)), ((0, 2, 6), (0, 4, 6))):
            near = [np.roll(mask, (-dy, -dx), (0, 1)) for dy, dx in turns]
            count = np.sum(near, axis=0)
            rises = np.sum(~np.array(near) & np.roll(near, -1, axis=0), axis=0)
            goes = mask & (count >= 2) & (count <= 6) & (rises == 1)
            for i, j, k in (first, second):
                goes &= ~(near[i] & near[j] & near[k])
            mask = mask & ~goes
        if mask.sum() == before:
            return mask[1:-1, 1:-1]


def _clouds(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> np.ndarray:
    """Draws smooth noise in [0, 1] that varies over `scale` of the shorter side."""
    step = max(2.0, scale * min(shape))
    coarse = rng.random([math.ceil(n / step) + 3 for n in shape], np.float32)
    box = 1, 1, 1 + shape[1] / step, 1 + shape[0] / step
    size = shape[1], shape[0]
    picture = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC, box)
    return np.asarray(picture).clip(0, 1)


def _light(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Draws the light on the paper: float32 [height, width], about 1."""
    short = min(scene.width, scene.height)
    y = (np.arange(scene.height, dtype=np.float32)[:, None] - scene.height / 2) / short
    x = (np.arange(scene.width, dtype=np.float32)[None, :] - scene.width / 2) / short
    angle, other = rng.uniform(0, 2 * math.pi, 2)
    far = x * math.cos(angle) + y * math.sin(angle)
    light = 1 - scene.uneven * (far - far.min()) / np.ptp(far)
    square = x**2 + y**2
    light *= 1 - scene.vignette * square / square.max()
    if scene.shadow:
        edge = x * math.cos(other) + y * math.sin(other) - rng.uniform(-0.4, 0.4)
        edge += 0.06 * np.sin(rng.uniform(2, 7) * (x * math.sin(other) - y * math.cos(other)))
        light *= 1 - scene.shadow / (1 + np.exp((-edge / (scene.softness / 4)).clip(-30, 30)))
    if scene.glare:
        right, down = rng.uniform(-0.5, 0.5, 2)
        light += scene.glare * np.exp(-((x - right) ** 2 + (y - down) ** 2) / 0.05)
    return light


def _lines(scene: Scene) -> np.ndarray:
    """Draws the printed lines of the paper: 0 to 1."""
    if scene.ruled == "no":
        return np.zeros((1, 1), np.float32)
    short = min(scene.width, scene.height)
    y, x = np.indices((scene.height, scene.width), np.float32)
    slope = math.tan(math.radians(scene.slope))
    gap = short * max(scene.size * (0.35 if scene.ruled == "squares" else 0.8), 0.05)
    width = max(1.0, short * 0.004)
    lines = [y + slope * x] if scene.ruled == "lines" else [y + slope * x, x - slope * y]
    return np.max([(width - abs(line % gap - gap / 2)).clip(0, 1) for line in lines], axis=0)


def main() -> None:
    """Prints a network's accuracy on photographs, overall and by condition."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/default"))
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    network, rng = load_network(args.workdir), np.random.default_rng(args.seed)
    images, labels = load_splits(**vars(trained_config(args.workdir).data))[0][args.split]
    chosen = rng.permutation(len(images))[: args.count]

    def prepared(digit: np.ndarray, scene: Scene) -> Drawing:
        picture = decode_image(io.BytesIO(photograph(digit, scene, rng)), "a photograph")
        return prepare_drawing(picture, network.info.image_shape, network.info.drawing_box)

    scenes, drawings, blank = [], [], []
    for digit in images[chosen, ..., 0]:
        scenes.append(draw_scene(rng))
        drawings.append(prepared(digit, scenes[-1]))
    for _ in range(args.count // 10):
        scene = draw_scene(rng)._replace(kind="jpeg")
        blank.append(prepared(np.zeros((28, 28), np.uint8), scene).blank)
    pixels = np.stack([drawing.pixels for drawing in drawings])
    right = network.predict(pixels).classes == labels[chosen]
    known = network.predict(images[chosen]).classes == labels[chosen]
    print(f"{right.mean():.2%} of {len(right):,} photographs, {known.mean():.2%} of their digits")
    named = [conditions(scene) for scene in scenes]
    for name in sorted({name for names in named for name in names}):
        of_name = np.array([name in names for names in named])
        print(f"{right[of_name].mean():8.2%} of {of_name.sum():5,}: {name}")
    for what in ("blank", "things"):
        reported = np.mean([what in drawing.problem for drawing in drawings])
        print(f"{reported:.2%} of the digits were reported as {what}")
    print(f"{np.mean(blank):.2%} of {len(blank):,} blank sheets were reported as blank")


if __name__ == "__main__":
    main()
