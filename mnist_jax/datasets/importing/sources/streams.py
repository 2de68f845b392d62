"""Reading files that may be packed, damaged, or made to do harm."""

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
# What unpacks to more than both of these is made to fill a memory or a disk, not to be read.
MAX_UNPACKED = 256 << 20  # bytes
MAX_RATIO = 200  # images compress by 2 to 50; zlib itself reaches 1,000


@contextlib.contextmanager
def reading(title: object) -> Iterator[None]:
    """Turns what damaged files raise, in many ways, into a ValueError of one line."""
    try:
        yield
    except (
        EOFError,
        RuntimeError,  # of zipfile: a password, an unknown compression
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
    """Opens a file that may be packed by gzip, whatever its name says."""
    with path.open("rb") as file:
        is_packed = file.read(2) == GZIP
        file.seek(0)
        if not is_packed:
            yield file
        else:
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield io.BufferedReader(_Checked(unpacked, path))


def check_ratio(title: object, unpacked: int, packed: int) -> None:
    """Raises ValueError if so many bytes cannot honestly come from so few."""
    if unpacked > max(MAX_UNPACKED, MAX_RATIO * packed):
        raise ValueError(
            f"{title} unpacks to more than {MAX_RATIO} times its size; if right, unpack it first"
        )


class _Checked(io.RawIOBase):
    """The unpacked bytes of a file, as long as they are not far too many."""

    def __init__(self, unpacked: Any, path: Path):
        super().__init__()
        self.unpacked, self.path, self.packed = unpacked, path, path.stat().st_size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self.unpacked.readinto(buffer)
        check_ratio(self.path, self.unpacked.tell(), self.packed)
        return count
