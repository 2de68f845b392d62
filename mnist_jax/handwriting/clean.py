"""Ink in clean pictures: drawings on a ground of one colour, without light or texture.

Examples are a dataset's files, cut-out digits and files of drawing programs. Their ink may touch
every side, while `ink.find_ink` needs paper around it.
"""

import numpy as np
from PIL import Image

from mnist_jax.handwriting.ink import EIGHT, Ink, close_up, length, ndimage, overview, parts

SMALL = 64  # pixels of the longer side; photographs are larger
CONTRAST = 16  # levels of 255 in a small picture; less is noise
# Limits of unevenness, as fractions of the contrast.
EVEN = 0.005  # half of the ground
EVEN_IF_CUT = 0.05  # a drawing that fills its picture
CUT = 130  # pixels of its longer side; larger ones may have shadows
FAINT = 0.1  # greatest fraction neither ground nor near ink, like a shadow
LABEL, EDGE = 0.3, 0.45  # fractions of the contrast: ink, and its outline
# Fractions of a component's box.
LINED = 0.6  # of each side, covered by a card or a frame's inside
HOLES = 0.02, 0.25  # the smallest drawing on a card, the largest hole of a bar
ANGULAR = 0.85  # of its own box, filled by an angular zero's hole
FILLED = 0.95  # covered by a rectangle, unless it is narrow
WIDTHS = 0.03, 0.4  # of strokes, as fractions of the longer side

BLANK = Ink(np.zeros((1, 1), bool), 0, 0.0)


def find_clean_ink(picture: Image.Image, view: Image.Image) -> Ink | None:
    """Finds the strokes in a clean picture of mode "L" or "RGB", by its overview.

    Returns no strokes for a blank picture, None if it is not clean. The constants were chosen on
    MNIST's validation images by `benchmarks/pictures.py`.
    """
    pixels = _pixels(view)
    if _has_frame(pixels):
        height, width = pixels.shape[:2]
        return _find_inside(picture, np.s_[1 : height - 1, 1 : width - 1], pixels.shape)
    ground, ink = _colours(pixels)
    if abs(ink - ground).max() < CONTRAST:
        return BLANK if max(picture.size) <= SMALL else None
    cover = _cover(pixels, ground, ink)
    labels, count = ndimage.label(cover > LABEL, EIGHT)
    boxes = ndimage.find_objects(labels)
    first = max(range(count), key=lambda i: sum(side.stop - side.start for side in boxes[i])) + 1
    box = boxes[first - 1]
    is_first = labels[box] == first
    if is_first.shape != labels.shape and _is_card(is_first):
        return _find_inside(picture, box, pixels.shape)
    is_large = max(cover.shape) > SMALL
    is_cut = np.divide(is_first.shape, labels.shape).min() > 0.75 and max(picture.size) < CUT
    is_even = not is_large or _is_even(cover, EVEN_IF_CUT if is_cut else EVEN)
    is_block = is_first.mean() > FILLED and min(is_first.shape) > FILLED / 2 * max(is_first.shape)
    if is_block and (is_even or is_first.size > 0.8 * labels.size):
        return BLANK
    if not is_even or (is_large and not _is_stroke(is_first, labels.shape)):
        return None
    drawn, things = parts(labels, first, np.delete(np.arange(count + 1), [0, first]))
    near, where, _ = close_up(picture, drawn)
    mask = (_cover(_pixels(near), ground, ink) > EDGE) & where
    return Ink(mask, things, length(drawn, picture))


def _has_frame(pixels: np.ndarray) -> bool:
    """Tells whether a line of one colour surrounds a picture."""
    if min(pixels.shape[:2]) < 5:
        return False
    frame, rest = _border(pixels), pixels[1:-1, 1:-1]
    differs = abs(_border(rest) - np.median(frame, axis=0)).max(axis=1) > 2 * CONTRAST
    is_even = np.ptp(frame, axis=0).max() <= CONTRAST < np.ptp(rest, axis=(0, 1)).max()
    return bool(is_even and differs.mean() > LINED)


def _find_inside(
    picture: Image.Image, box: tuple[slice, ...], shape: tuple[int, ...]
) -> Ink | None:
    """Finds the strokes in a box of the picture's overview, which has this shape."""
    across, down = picture.width / shape[1], picture.height / shape[0]
    left, right = across * box[1].start, across * box[1].stop
    top, bottom = down * box[0].start, down * box[0].stop
    size = max(right - left, bottom - top)
    edge = 0.02 * size if size > SMALL else 0  # soft in enlarged pictures
    left, top, right, bottom = map(round, (left + edge, top + edge, right - edge, bottom - edge))
    inside = picture.crop((left, top, right, bottom))
    return find_clean_ink(inside, overview(inside))


def _pixels(picture: Image.Image) -> np.ndarray:
    """Converts a picture to float32 [h, w, C]."""
    pixels = np.asarray(picture, np.float32)
    return pixels.reshape(*pixels.shape[:2], -1)


def _border(pixels: np.ndarray) -> np.ndarray:
    """Returns the outermost pixels, [N, C]."""
    return np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])


def _colours(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the colours of the ground (most of the border) and the ink."""
    border = _border(pixels)
    grey = pixels.mean(axis=2)
    is_light = border.mean(axis=1) > (grey.min() + grey.max()) / 2
    ground = np.median(border[is_light == (is_light.mean() > 0.5)], axis=0)
    ink = pixels.reshape(-1, len(ground))
    return ground, ink[np.square(ink - ground).sum(axis=1).argmax()]


def _cover(pixels: np.ndarray, ground: np.ndarray, ink: np.ndarray) -> np.ndarray:
    """Returns each pixel's fraction of ink, below 0 for the opposite contrast."""
    return (pixels - ground) @ ((ink - ground) / np.square(ink - ground).sum())


def _is_card(mask: np.ndarray) -> bool:
    """Tells whether a component, bool [h, w] in its box, is a rectangle with a drawing."""
    sides = min(side.mean() for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))
    if sides < LINED:
        return False
    holes, _ = ndimage.label(ndimage.binary_fill_holes(mask) & ~mask, EIGHT)
    if (holes > 0).mean() < HOLES[0]:
        return False
    # An angular zero also has a hole, a rectangle.
    largest = np.bincount(holes.ravel())[1:].argmax()
    hole = holes[ndimage.find_objects(holes)[largest]] == largest + 1
    return hole.mean() < ANGULAR or hole.sum() < HOLES[1] * mask.size


def _is_stroke(mask: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Tells whether a component, bool [h, w] in its box, may be drawn by a pen.

    Shadows are wider; printed lines are narrow and cross the picture, (H, W).
    """
    widths = [max(1, round(width * max(mask.shape))) for width in WIDTHS]
    narrow, wide = (ndimage.minimum_filter(mask, w, mode="constant").any() for w in widths)
    return not wide and (narrow or not np.equal(mask.shape, shape).any())


def _is_even(cover: np.ndarray, most: float) -> bool:
    """Tells whether there are only ground and ink, with noise and unevenness up to `most`."""
    window = 2 * round(1.5 * max(cover.shape) / 28) + 1
    highest = ndimage.maximum_filter(cover, window)
    faint = (cover > 0.15) & (highest < 0.6)
    smooth = ndimage.gaussian_filter(cover, 1)
    noise = np.median(abs(cover - smooth)[cover < 0.5])
    far = abs(smooth[highest < 0.5])  # from the outline, which may be soft
    is_even = far.size < 0.05 * cover.size or np.median(far) < most
    return bool(is_even and noise < most and faint.mean() < FAINT)
