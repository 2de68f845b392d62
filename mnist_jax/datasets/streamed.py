"""Images that stay on disk until they are used."""

import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

UINT8 = np.dtype(np.uint8)
PIECE = 4096  # images per read when all are read


class StreamedImages:
    """An array [N, H, W, C], uint8 or float32 in [0, 1], whose rows are read on demand.

    Threads may read it concurrently.
    """

    def __init__(
        self,
        read_rows: Callable[[np.ndarray], np.ndarray],
        rows: np.ndarray,
        image_shape: tuple[int, ...],
        dtype: np.dtype = UINT8,
    ):
        """Creates an array of rows, int [N]; `read_rows` maps int [n] to images."""
        self.dtype, self.shape = dtype, (len(rows), *image_shape)
        self._read_rows, self._rows = read_rows, rows

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Reads rows, int [...], as images [..., H, W, C]."""
        images = self._read_rows(self._rows[index].reshape(-1))
        return images.reshape(*np.shape(index), *self.shape[1:])

    def take(self, index: np.ndarray) -> "StreamedImages":
        """Selects rows, int [n], without reading them."""
        return StreamedImages(self._read_rows, self._rows[index], self.shape[1:], self.dtype)

    def pieces(self) -> Iterator[np.ndarray]:
        """Yields all rows in order, `PIECE` at a time."""
        for first in range(0, len(self), PIECE):
            yield self[np.arange(first, min(first + PIECE, len(self)))]


def stream_file(
    path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype = UINT8
) -> StreamedImages:
    """Streams images (N, H, W, C) after `offset` bytes of a file, which stays open.

    Pages of a memory map would count as the process's memory. Reading raises OSError if the file is
    too short.
    """
    file = os.open(path, os.O_RDONLY)

    def read_rows(rows: np.ndarray) -> np.ndarray:
        images = np.empty((len(rows), *shape[1:]), dtype)
        for image, row in zip(images, rows.tolist(), strict=True):
            if os.preadv(file, [image.data], offset + row * image.nbytes) != image.nbytes:
                raise OSError("the cache of decoded images was cut off; run the command again")
        return images

    weakref.finalize(read_rows, os.close, file)
    return StreamedImages(read_rows, np.arange(shape[0]), shape[1:], dtype)
