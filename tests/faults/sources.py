"""Makers of valid and invalid sources to import in the current directory."""

import io
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

X, Y = np.arange(96, dtype=np.uint8).reshape(6, 4, 4), np.array([0, 1, 2, 0, 1, 2])
# A function that makes sources and returns them, and a part of the message.
Case = tuple[Callable[[], list[str]], str]


def file(name: str, content: bytes | str) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


def made(*names_and_contents: tuple[str, bytes | str]) -> Callable[[], list[str]]:
    return lambda: [file(name, content) for name, content in names_and_contents]


def folder(**contents: bytes | str) -> Callable[[], list[str]]:
    """Returns a maker of a folder "images" of these files; "__" is a slash, "_" a dot."""

    def make() -> list[str]:
        Path("images").mkdir()
        for name, content in contents.items():
            file("images/" + name.replace("__", "/").replace("_", "."), content)
        return ["images"]

    return make


def png(height: int = 4, width: int = 4, **options: Any) -> bytes:
    output = io.BytesIO()
    Image.fromarray(np.zeros((height, width), np.uint8)).save(output, "PNG", **options)
    return output.getvalue()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, content in members.items():
            archive.writestr(name.removesuffix("*"), content)
    return output.getvalue()


def npy(values: Any) -> bytes:
    output = io.BytesIO()
    np.save(output, values, allow_pickle=True)
    return output.getvalue()


def header(text: str, version: bytes = b"\1\0", length: int | None = None) -> bytes:
    """Makes the beginning of an .npy file, valid or not."""
    size = struct.pack("<H" if version[0] == 1 else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + version + size + text.encode()


def npz(**members: Any) -> Callable[[], list[str]]:
    """Returns a maker of x.npz with a valid x and y, except the given members."""
    arrays = {f"{k}.npy": v for k, v in ({"x": X, "y": Y} | members).items() if v is not None}
    contents = {k: v if isinstance(v, bytes) else npy(v) for k, v in arrays.items()}
    return made(("x.npz", zipped(contents)))


def idx(values: np.ndarray, shape: tuple[int, ...] | None = None, kind: int = 8) -> bytes:
    shape = values.shape if shape is None else shape
    begin = struct.pack(f">HBB{len(shape)}I", 0, kind, len(shape), *shape)
    return begin + values.astype(np.uint8).tobytes()


def idx_pair(images: bytes, labels: bytes | None = None) -> Callable[[], list[str]]:
    return made(("images", images), ("labels", idx(Y) if labels is None else labels))


def row(label: object, *pixels: object) -> str:
    return ",".join(map(str, [label, *pixels])) + "\n"


def table(*rows: str) -> Callable[[], list[str]]:
    return made(("x.csv", "".join(rows)))


def damaged(content: bytes, position: int) -> bytes:
    changed = bytearray(content)
    changed[position] ^= 1
    return bytes(changed)


GOOD_CSV = row("a", 0, 1, 2, 3) + row("b", 0, 1, 2, 3)
WHOLE = zipped({"x.npy": npy(X), "y.npy": npy(Y)}, zipfile.ZIP_DEFLATED)
