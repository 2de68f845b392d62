"""Kinds of unexpected files, detected by their content."""

import contextlib
import zipfile
from typing import BinaryIO

HEAD = 512  # bytes that identify a file
CONVERT = "save it as PNG or JPEG"
PACKED = b"PK\3\4 PK\5\6 7z\xbc\xaf Rar! \xfd7zXZ BZh \x28\xb5\x2f\xfd \x1f\x8b".split()
UNPACK = "an archive", "unpack it"
# A file's first bytes, its kind, and a remedy.
KINDS = (
    (b"%PDF-", "a PDF file", "save its pages as images"),
    (b"\x93NUMPY", "a NumPy array (.npy)", ""),
    (b"\x89HDF", "an HDF5 file", "read it with h5py and save its content as .npz"),
    (b"MATLAB 5.0", "a MATLAB file", "read it with scipy.io and save its content as .npz"),
    (b"PAR1", "a Parquet file", "read it with pandas and save its content as .npz"),
    *((bytes([128, i]), "a Python pickle", "save the numbers in it as .npz") for i in range(6)),
    (b"8BPS", "a Photoshop file", CONVERT),
    (b"version https://git-lfs", "a Git LFS pointer", "run: git lfs pull"),
    (b"<!doctype html", "a web page", "the download has failed"),
    (b"<html", "a web page", "the download has failed"),
    (b"<svg", "a vector drawing (SVG)", CONVERT),
    *((head, *UNPACK) for head in PACKED),
)
# Members that identify zip files that are useless when unpacked.
ZIPPED = (
    ("/data.pkl", "a PyTorch file", "load it with torch and save its numbers as .npz"),
    ("model.weights.h5", "a Keras model", "it holds no images"),
    ("[Content_Types].xml", "a Microsoft Office document", "save its pictures as files"),
    ("META-INF/manifest.xml", "a LibreOffice document", "save its pictures as files"),
    ("META-INF/container.xml", "an electronic book", "save its pictures as files"),
    ("META-INF/MANIFEST.MF", "a Java program", "it holds no images"),
    (".npy", "NumPy arrays (.npz)", ""),
)
CONTAINERS = {
    "HEIC": 'pip install "mnist_jax[heic]", or save it as PNG or JPEG',
    "AVIF": CONVERT,
    "video": "save a picture of it as PNG or JPEG",
}
# ISO/IEC 14496-12 containers, by their bytes 8 to 11.
BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
}


def describe_file(file: BinaryIO) -> str:
    """Describes a file's kind, with a remedy; "" if it is unknown."""
    file.seek(0)
    head = file.read(HEAD)
    if head[4:8] == b"ftyp":
        container = BRANDS.get(head[8:12], "video")
        return f"{container}: {CONTAINERS[container]}"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<?xml") and b"<svg" in text:
        text = b"<svg"
    found = UNPACK if head[257:262] == b"ustar" else ("", "")
    for first, *kind in KINDS[::-1]:
        if head.startswith(first) or (first.startswith(b"<") and text.startswith(first)):
            found = kind
    if head.startswith(b"PK"):
        # A damaged archive fails in many ways.
        with contextlib.suppress(Exception), zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            members = (kind for end, *kind in ZIPPED if any(n.endswith(end) for n in names))
            found = next(members, found)
    return ": ".join(filter(None, found))
