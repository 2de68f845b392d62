"""Tests networks on MNIST in other files, sizes, frames and colours, read as in `predict`.

    python benchmarks/pictures.py --workdir runs/default runs/handwriting

Prints fractions of right answers, of pictures with no answer or a problem, and of wrong answers
with more than 90 % probability and no problem.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from mnist_jax import load_network
from mnist_jax.datasets import load_splits
from mnist_jax.datasets.image_files import read_image
from mnist_jax.handwriting.files import prepare
from mnist_jax.workdir.trained import trained_config

Change = Callable[[np.ndarray], np.ndarray]  # of a light digit on black, uint8 [h, w]
Make = Callable[[np.ndarray], bytes]
FILTERS = {"nearest": 0, "bilinear": 2, "bicubic": 3}  # Pillow's numbers


def save(picture: np.ndarray | Image.Image, kind: str = "PNG", **options) -> bytes:
    """Converts a picture to a file."""
    file = io.BytesIO()
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    picture.save(file, kind, **options)
    return file.getvalue()


def cut(digit: np.ndarray, margin: int = 0) -> np.ndarray:
    """Crops a digit, leaving a margin."""
    rows, columns = np.nonzero(digit)
    box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return np.pad(digit[box], margin)


def scale(digit: np.ndarray, factor: float, kind: str = "bicubic") -> np.ndarray:
    """Resizes a digit; averages to reduce it."""
    size = round(digit.shape[1] * factor), round(digit.shape[0] * factor)
    kind_number = Image.Resampling(FILTERS[kind] if factor > 1 else 4)
    return np.asarray(Image.fromarray(digit).resize(size, kind_number))


def fit(digit: np.ndarray, side: int) -> np.ndarray:
    """Scales a digit to this longer side, in pixels."""
    return scale(digit, side / max(digit.shape))


def put(digit: np.ndarray, height: int, width: int, down: float, right: float) -> np.ndarray:
    """Puts a digit on a sheet, at a position from 0 to 1 along each side."""
    sheet = np.zeros((height, width), np.uint8)
    top, left = int(down * (height - len(digit))), int(right * (width - digit.shape[1]))
    sheet[top : top + len(digit), left : left + digit.shape[1]] = digit
    return sheet


def drawn(digit: np.ndarray) -> np.ndarray:
    """Draws a digit ten times as large, with a sharp outline."""
    return np.clip((scale(digit, 10) - 110.0) * 2 + 128, 0, 255).astype(np.uint8)


def tint(digit: np.ndarray, paper: tuple[int, ...], ink: tuple[int, ...]) -> np.ndarray:
    """Draws a digit in two colours or greys."""
    cover = digit[..., None] / 255
    return np.round(np.array(paper) * (1 - cover) + np.array(ink) * cover).astype(np.uint8)


def grainy(digit: np.ndarray, deviation: float) -> np.ndarray:
    """Adds noise, the same for the same digit."""
    noise = np.random.default_rng(int(digit.sum())).normal(0, deviation, digit.shape)
    return (digit * 0.8 + 20 + noise).clip(0, 255).astype(np.uint8)


def transparent(cover: np.ndarray) -> Image.Image:
    """Draws black on a transparent ground."""
    return Image.merge("LA", [Image.new("L", cover.shape[::-1]), Image.fromarray(cover)])


def file_conditions() -> dict[str, Make]:
    """Returns functions from a digit, uint8 [28, 28], to a file with the same pixels, by name."""

    def mode(name: str, kind: str = "PNG", **options) -> Make:
        return lambda digit: save(Image.fromarray(digit).convert(name), kind, **options)

    return {
        "grey PNG": save,
        **{f"{name} PNG": mode(name) for name in ("RGB", "RGBA", "LA")},
        "palette PNG": mode("P"),
        "16-bit PNG": lambda digit: save(digit.astype(np.uint16) * 257),
        "BMP": mode("L", "BMP"),
        "GIF": mode("L", "GIF"),
        "TIFF": mode("RGB", "TIFF"),
        "WebP, lossless": mode("RGB", "WEBP", lossless=True),
        "dark on light": lambda digit: save(255 - digit),
        "dark on light, RGB": lambda digit: save(Image.fromarray(255 - digit).convert("RGB")),
        "black on transparent": lambda digit: save(transparent(digit)),
    }


def conditions() -> dict[str, Make]:
    """Returns functions from a digit, uint8 [28, 28], to a file with other pixels, by name."""
    changes: dict[str, Change] = {
        f"cut out, margin {margin}": partial(cut, margin=margin) for margin in (0, 1, 2, 4, 10)
    }
    for kind in FILTERS:
        for factor in (2, 5, 10):
            changes[f"x{factor}, {kind}"] = partial(scale, factor=factor, kind=kind)
        changes[f"cut out, x5, {kind}"] = lambda d, k=kind: scale(cut(d), 5, k)
    for side in (12, 14, 16, 20):
        changes[f"reduced to {side}x{side}"] = partial(fit, side=side)
        changes[f"cut out, longer side {side}"] = lambda d, s=side: fit(cut(d), s)
    framed = partial(np.pad, pad_width=1, constant_values=255)
    changes |= {
        "on 32x32": partial(np.pad, pad_width=2),
        "on 64x64, aside": lambda d: put(d, 64, 64, 0.9, 0.2),
        "on 280x280, aside": lambda d: put(d, 280, 280, 0.8, 0.3),
        "in a corner of 60x100": lambda d: put(cut(d), 60, 100, 0, 1),
        "in a corner of 28x28": lambda d: put(cut(d), 28, 28, 0, 1),
        "smaller in 28x28": lambda d: put(scale(cut(d), 0.7), 28, 28, 0.9, 0.1),
        "fills 28x28": lambda d: fit(put(cut(d), *[max(cut(d).shape)] * 2, 0.5, 0.5), 28),
        "drawn on 280x280": drawn,
        "drawn on 700x1000, aside": lambda d: put(drawn(d), 700, 1000, 0.9, 0.1),
        "frame of 1 pixel": framed,
        "cut out, frame of 1 pixel": lambda d: framed(cut(d)),
        "frame, x5": lambda d: scale(framed(d), 5),
        "on a card in 80x60": lambda d: put(255 - np.pad(d, 2), 60, 80, 0.5, 0.3),
        "noise": partial(grainy, deviation=5),
        "x5, noise": lambda d: grainy(scale(d, 5), 5),
        "cut out, x5, noise": lambda d: grainy(scale(cut(d), 5), 5),
    }
    files: dict[str, Make] = {}
    for name, change in changes.items():
        files[f"{name}, light"] = lambda d, c=change: save(c(d))
        files[f"{name}, dark"] = lambda d, c=change: save(255 - c(d))
    for quality in (95, 75, 50):
        files[f"JPEG {quality}, light"] = partial(save, kind="JPEG", quality=quality)
        files[f"JPEG {quality}, dark"] = lambda d, q=quality: save(255 - d, "JPEG", quality=q)
    blue, yellow, red, green = (20, 40, 160), (255, 230, 90), (200, 60, 60), (40, 150, 60)
    return files | {
        "JPEG 75, RGB": lambda d: save(Image.fromarray(d).convert("RGB"), "JPEG"),
        "JPEG 75, cut out, dark": lambda d: save(255 - cut(d), "JPEG"),
        "drawn, JPEG 75, dark": lambda d: save(255 - drawn(d), "JPEG"),
        "drawn, black on transparent": lambda d: save(transparent(drawn(d))),
        "blue on yellow": lambda d: save(tint(d, yellow, blue)),
        "red on green, x5": lambda d: save(tint(scale(d, 5), green, red)),
        "blue on yellow, cut out": lambda d: save(tint(cut(d), yellow, blue)),
        "60 on 200": lambda d: save(tint(d, (200,) * 3, (60,) * 3)),
        "150 on 120, cut out": lambda d: save(tint(cut(d), (120,) * 3, (150,) * 3)),
        "two levels, x3, dark": lambda d: save(
            Image.fromarray(255 - scale(d, 3)).convert("1", dither=0)
        ),
    }


def main() -> None:
    """Prints a row per condition."""
    from machine import headline

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, nargs="+", default=[Path("runs/default")])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    args = parser.parse_args()
    networks = [load_network(workdir) for workdir in args.workdir]
    data = trained_config(args.workdir[0]).data
    images, labels = load_splits(**vars(data))[0][args.split]
    chosen = np.random.default_rng(0).permutation(len(images))[: args.count]
    images, labels = images[chosen], labels[chosen]
    names = [f"{path.name}: right, % | wrong above 90 %, %" for path in args.workdir]
    print(f"| {len(images)} {args.split} images | no answer, % | ms | {' | '.join(names)} |")
    print("|---|---|---|" + "---|---|" * len(networks))
    for name, make in (file_conditions() | conditions()).items():
        drawings, seconds = [], 0.0
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "picture")
            for image in images[..., 0]:
                path.write_bytes(make(image))
                start = time.perf_counter()
                drawings.append(prepare(read_image(path), networks[0].info))
                seconds += time.perf_counter() - start
        stated = np.array([bool(drawing.problem) for drawing in drawings])
        values = [f"{stated.mean():.1%}", f"{1000 * seconds / len(images):.1f}"]
        for network in networks:
            found = network.predict(np.stack([drawing.pixels for drawing in drawings]))
            is_right = found.classes == labels
            is_sure = found.probabilities.max(axis=1) > 0.9
            values += [f"{(~stated & is_right).mean():.1%}"]
            values += [f"{(~stated & ~is_right & is_sure).mean():.1%}"]
        print(f"| {name} | {' | '.join(values)} |".replace("%", ""), flush=True)
    print(f"\n{headline()}")


if __name__ == "__main__":
    main()
