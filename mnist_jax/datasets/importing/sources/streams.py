"""Safe reading of packed, damaged or malicious files."""

import contextlib
import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from mnist_jax.messages import one_line

GZIP = b"\x1f\x8b"
# A file that unpacks to more than both is meant to fill the memory.
MAX_UNPACKED = 256 << 20  # bytes
MAX_RATIO = 200  # images reach 50, zlib 1,000


@contextlib.contextmanager
def reading(title: object) -> Iterator[None]:
    """Turns the errors of damaged files into a ValueError of one line."""
    try:
        yield
    except (
        EOFError,
        RuntimeError,  # zipfile's, for passwords and unknown compressions
        UnicodeError,
        csv.Error,
        gzip.BadGzipFile,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(f"{title} is damaged: {one_line(error):.200}") from error
    except OSError as error:
        if error.filename:
            raise  # it cannot be opened
        raise ValueError(f"{title} cannot be read: {one_line(error):.200}") from error


@contextlib.contextmanager
def open_unpacked(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file, unpacked if gzipped, whatever its name."""
    with path.open("rb") as file:
        is_packed = file.read(2) == GZIP
        file.seek(0)
        if not is_packed:
            yield file
        else:
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield io.BufferedReader(_Checked(unpacked, path))


def check_ratio(title: object, unpacked: int, packed: int) -> None:
    """Raises ValueError if a file unpacks to suspiciously many bytes."""
    if unpacked > max(MAX_UNPACKED, MAX_RATIO * packed):
        raise ValueError(
            f"{title} unpacks to over {MAX_RATIO} times its size; if that is right, unpack it first"
        )


class _Checked(io.RawIOBase):
    """The unpacked bytes of a file, limited by `check_ratio`."""

    def __init__(self, unpacked: Any, path: Path):
        super().__init__()
        self.unpacked, self.path, self.packed = unpacked, path, path.stat().st_size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self.unpacked.readinto(buffer)
        check_ratio(self.path, self.unpacked.tell(), self.packed)
        return count
