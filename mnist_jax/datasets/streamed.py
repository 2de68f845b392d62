"""Images that stay on the disk until they are asked for."""

import os
from collections.abc import Callable, Iterator

import numpy as np

PIECE = 4096  # images read at once where all are read


class StreamedImages:
    """What the loader needs of an array, uint8 [N, H, W, C], whose rows are read on demand.

    Any number of threads may read at the same time.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        read_rows: Callable[[np.ndarray], np.ndarray],
        rows: np.ndarray,
        image_shape: tuple[int, ...],
    ):
        """Makes an array of N rows.

        Args:
            read_rows: int [n] -> uint8 [n, H, W, C].
            rows: int [N], which of those that can be read.
            image_shape: (H, W, C).
        """
        self.shape = (len(rows), *image_shape)
        self._read_rows, self._rows = read_rows, rows

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Reads: int [...] -> uint8 [..., H, W, C]."""
        images = self._read_rows(self._rows[index].reshape(-1))
        return images.reshape(*np.shape(index), *self.shape[1:])

    def take(self, index: np.ndarray) -> "StreamedImages":
        """Returns some of the rows, int [n], as an array that is not read yet either."""
        return StreamedImages(self._read_rows, self._rows[index], self.shape[1:])

    def pieces(self) -> Iterator[np.ndarray]:
        """Reads all rows in order, some at a time."""
        for first in range(0, len(self), PIECE):
            yield self[np.arange(first, min(first + PIECE, len(self)))]


def read_file_rows(
    file: int, offset: int, image_shape: tuple[int, ...], rows: np.ndarray
) -> np.ndarray:
    """Reads images out of a file in which they lie one after another: uint8 [n, H, W, C].

    `pread`, not a mapping of the file into memory: what of a mapping was touched counts as memory
    of the process.

    Args:
        file: a descriptor.
        offset: of the first image, in bytes.
        image_shape: (H, W, C).
        rows: int [n].

    Raises:
        OSError: the file has become shorter.
    """
    images = np.empty((len(rows), *image_shape), np.uint8)
    for image, row in zip(images.reshape(len(rows), -1), rows.tolist(), strict=True):
        if os.preadv(file, [image.data], offset + row * image.nbytes) != image.nbytes:
            raise OSError("the cache of decoded images was cut off; run the command again")
    return images
