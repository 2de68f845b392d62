"""Images that stay on the disk until they are asked for."""

import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

UINT8 = np.dtype(np.uint8)
PIECE = 4096  # images read at once where all are read


class StreamedImages:
    """An array as the loader needs it, [N, H, W, C], whose rows are read on demand.

    It is of uint8, or of float32 with values in [0, 1]. Many threads may read at the same time.
    """

    def __init__(
        self,
        read_rows: Callable[[np.ndarray], np.ndarray],
        rows: np.ndarray,
        image_shape: tuple[int, ...],
        dtype: np.dtype = UINT8,
    ):
        """Makes an array of the rows, int [N], that `read_rows` reads: int [n] -> images."""
        self.dtype, self.shape = dtype, (len(rows), *image_shape)
        self._read_rows, self._rows = read_rows, rows

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Reads rows, int [...], as images [..., H, W, C]."""
        images = self._read_rows(self._rows[index].reshape(-1))
        return images.reshape(*np.shape(index), *self.shape[1:])

    def take(self, index: np.ndarray) -> "StreamedImages":
        """Returns some of the rows, int [n], as an array that is not read yet either."""
        return StreamedImages(self._read_rows, self._rows[index], self.shape[1:], self.dtype)

    def pieces(self) -> Iterator[np.ndarray]:
        """Reads all rows in order, some at a time."""
        for first in range(0, len(self), PIECE):
            yield self[np.arange(first, min(first + PIECE, len(self)))]


def stream_file(
    path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype = UINT8
) -> StreamedImages:
    """Streams images that lie in a file one after another; it stays open as long as they are used.

    `pread`, not a mapping of the file into memory: what of a mapping was touched counts as memory
    of the process. The images, of shape (N, H, W, C), begin behind `offset` bytes. Reading raises
    OSError if the file has become shorter.
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
