"""Ink in photographs: components with a sharp outline on an uneven ground.

Shadows are as dark as pencil, and printed lines as sharp as strokes. So brightness is relative to
the ground around it, and printed lines are erased first. The component with the sharpest outline is
the drawing.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage as scipy_ndimage

ndimage: Any = scipy_ndimage  # it has no types

OVERVIEW = 192  # pixels of the longer side in the search for a drawing
CLOSE_UP = 192  # pixels of the longer side in the search for its strokes
EIGHT = np.ones((3, 3), bool)  # a pixel's neighbours
STROKES = (0.08, 0.25)  # widths of the widest strokes, as fractions of the longer side
LEVELS = (0.15, 0.25, 0.35, 0.5)  # of ink, as fractions of the greatest contrast
FINE_LEVELS = np.arange(0.2, 0.75, 0.08)  # in the close-up
SHORTEST = 16  # pixels of an outline; shorter ones are specks
LENGTH_POWER = 0.4  # length counts, but less than sharpness
ACROSS = 0.25  # factor for components from side to side, which are hardly drawings
INSIDE = 0.3  # a component within another of this fraction of its score is a hole, as in 0
LEAST_SCORE = 12  # nine in ten blank sheets, and one in two hundred digits, are below
LINE = 1.7  # factor of darkness above which a printed line bears ink
REGULARISER = 16  # levels of 255, so that relative contrast is finite on black


class Ink(NamedTuple):
    """The strokes of a drawing."""

    mask: np.ndarray  # bool [h, w], of its surroundings in any scale
    things: int  # number of drawings of about this size
    length: float  # of the longer side, in the picture's pixels


class _Candidate(NamedTuple):
    """A connected component that could be the drawing."""

    score: float  # by sharpness and length of its outline
    labels: np.ndarray  # each pixel's component; 0 is the ground
    number: int  # its label
    others: np.ndarray  # labels of about equally sharp components
    is_dark: bool  # or lighter than the ground
    grey: np.ndarray  # the picture
    ground: np.ndarray  # the picture without ink


def find_ink(picture: Image.Image, view: Image.Image) -> Ink | None:
    """Finds the strokes in a picture of mode "L" or "RGB", by its overview; None if it is blank.

    The constants were chosen on MNIST's validation images, photographed by
    `tests/handwriting/photographs.py`.
    """
    blob = _most_likely(view)
    if blob is None or blob.score < LEAST_SCORE:
        return None
    drawn, things = parts(blob.labels, blob.number, blob.others)
    stroke = 2 * ndimage.distance_transform_edt(drawn).max()
    near, where, zoom = close_up(picture, drawn)
    mask = _strokes(_grey(near, blob.is_dark), where, stroke * zoom, blob.is_dark)
    return Ink(mask, things, length(drawn, picture))


def overview(picture: Image.Image) -> Image.Image:
    """Reduces a picture to search for a drawing."""
    scale = min(1.0, OVERVIEW / max(picture.size))
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.BOX, reducing_gap=2.0)


def length(drawn: np.ndarray, picture: Image.Image) -> float:
    """Measures a drawing, bool [h, w] in the overview: its longer side in picture pixels."""
    top, left, bottom, right = bounds(drawn)
    return max(bottom - top, right - left) * max(picture.size) / max(drawn.shape)


def close_up(picture: Image.Image, drawn: np.ndarray) -> tuple[Image.Image, np.ndarray, float]:
    """Cuts a drawing, bool [h, w] of the overview, with its surroundings out of a picture.

    Returns this part, `CLOSE_UP` pixels long; the drawing's rough place, bool [H, W]; and the scale
    relative to the overview.
    """
    height, width = drawn.shape
    top, left, bottom, right = bounds(drawn)
    margin = max(0.25 * max(bottom - top, right - left), 3)
    left, right = max(0, left - margin), min(width, right + margin)
    top, bottom = max(0, top - margin), min(height, bottom + margin)
    zoom = CLOSE_UP / max(right - left, bottom - top)
    shape = max(1, round((right - left) * zoom)), max(1, round((bottom - top) * zoom))
    across, down = picture.width / width, picture.height / height
    own_box = (left * across, top * down, right * across, bottom * down)
    shrinks = max(own_box[2] - own_box[0], own_box[3] - own_box[1]) > CLOSE_UP
    kind = Image.Resampling.HAMMING if shrinks else Image.Resampling.BICUBIC
    near = Image.fromarray(ndimage.binary_dilation(drawn, EIGHT))
    near = near.resize(shape, Image.Resampling.NEAREST, (left, top, right, bottom))
    return picture.resize(shape, kind, own_box), np.asarray(near), zoom


def bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Returns the bounding box of true pixels: top, left, bottom, right."""
    rows, columns = np.nonzero(mask)
    return rows.min(), columns.min(), rows.max() + 1, columns.max() + 1


def _grey(picture: Image.Image, is_dark: bool) -> np.ndarray:
    """Converts a picture to grey, with ink as unlike paper of any colour as possible."""
    pixels = np.asarray(picture, np.float32)
    if pixels.ndim == 2:
        return pixels
    paper = np.median(pixels, axis=(0, 1))
    pixels = pixels * ((paper.mean() + 32) / (paper + 32))
    return pixels.min(axis=2) if is_dark else pixels.max(axis=2)


def _contrast(grey: np.ndarray, stroke: float, is_dark: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns each pixel's contrast with the ground, and the ground.

    The ground is a closing (or opening) with a window wider than strokes. Contrast is relative to
    it, as in Weber's law, so a stroke keeps its contrast in a shadow.
    """
    side = int(stroke) | 1
    fill = ndimage.grey_closing if is_dark else ndimage.grey_opening
    ground = fill(grey, (side, side), mode="nearest")
    return abs(ground - grey) / (ground + REGULARISER), ground


def _printed_lines(ink: np.ndarray) -> tuple[np.ndarray, int]:
    """Finds parallel lines from left to right, sloping up to 8 degrees.

    Returns the line's strength at each pixel, or 0, and the thickness.
    """
    height, width = ink.shape
    thick = ndimage.maximum_filter1d(ink, 3, axis=0)
    x = np.arange(width // 16, width, max(1, width // 32))
    slopes = np.arange(-0.135, 0.14, 0.015)
    shift = np.round(slopes[:, None] * (x - width / 2)).astype(int)
    index = (np.arange(height)[:, None] + shift[:, None]).clip(0, height - 1)  # slope, row, x
    # A line is visible nearly everywhere along it.
    values = np.sort(thick[index, x], axis=2)  # np.partition is slower
    low, middle = values[:, :, len(x) // 6], values[:, :, len(x) // 2]
    level = np.median(low, axis=1, keepdims=True)
    high = low > level + 6 * np.median(abs(low - level), axis=1, keepdims=True) + 0.02
    best = (low * high).max(axis=1).argmax()
    if not high[best].any():
        return np.zeros(ink.shape), 0
    shift = np.round(slopes[best] * (np.arange(width) - width / 2)).astype(int)
    index = (np.arange(height)[:, None] - shift).clip(0, height - 1)
    runs = np.diff(np.flatnonzero(np.diff(np.pad(high[best], 1).astype(int))))[::2]
    return (high * middle)[best][index], int(np.median(runs))


def _without_lines(grey: np.ndarray) -> np.ndarray:
    """Erases the lines of ruled or squared paper, but not the ink over them."""
    is_dark = bool(np.median(grey) > 100)  # dark lines on light paper
    ink, ground = _contrast(grey, STROKES[0] * max(grey.shape), is_dark)
    clean = ink
    for turn in (np.asarray, np.transpose):
        turned = turn(clean)
        levels, thickness = _printed_lines(turned)
        if 0 < thickness < 0.1 * len(turned):
            opened = ndimage.grey_opening(turned, (thickness + 1, 1))
            is_line = (levels > 0) & (turned < LINE * levels)
            clean = turn(np.where(is_line, opened, turned))
    change = (ink - clean) * (ground + REGULARISER)
    return grey + change if is_dark else grey - change


def _most_likely(overview: Image.Image) -> _Candidate | None:
    """Returns the best candidate; of a dark and a light one, the outer if it is good enough."""
    best: list[_Candidate] = []
    for is_dark in (True, False):
        grey = _without_lines(_grey(overview, is_dark))
        smooth = ndimage.gaussian_filter(grey, 0.7)
        edges = ndimage.gaussian_gradient_magnitude(grey, 1)
        edges = edges**1.5 / (edges + 3 * np.median(edges) + 1)  # noise counts little
        candidates = []
        for stroke in STROKES:
            ink, ground = _contrast(smooth, stroke * max(grey.shape), is_dark)
            candidates += _candidates(ink, edges, smooth, ground, is_dark)
        isolated: list[_Candidate] = []
        for blob in sorted(candidates, key=lambda blob: -blob.score):
            if isolated and isolated[-1].score >= blob.score:
                break  # no later one is better
            found = blob._replace(score=blob.score * _isolated(blob))
            if not isolated or found.score > isolated[-1].score:
                isolated.append(found)
        best += isolated[-1:]
    if not best:
        return None
    *others, first = sorted(best, key=lambda blob: blob.score)
    for second in others:
        (top, left, bottom, right), outer = (
            bounds(blob.labels == blob.number) for blob in (first, second)
        )
        inside = top >= outer[0] and left >= outer[1] and bottom <= outer[2] and right <= outer[3]
        if inside and second.score > INSIDE * first.score:
            return second
    return first


def _candidates(
    ink: np.ndarray, edges: np.ndarray, grey: np.ndarray, ground: np.ndarray, is_dark: bool
) -> Iterator[_Candidate]:
    """Yields the best components above each level of contrast."""
    top = np.percentile(ink, 99.97)
    for level in LEVELS:
        labels, count = ndimage.label(ink > level * top, EIGHT)
        outline = (labels > 0) & ~ndimage.binary_erosion(labels > 0)
        numbers = labels[outline]
        length = np.maximum(np.bincount(numbers, minlength=count + 1), 1)
        sharpness = np.bincount(numbers, edges[outline], count + 1) / length
        up, down, left, right = (
            np.isin(np.arange(count + 1), side)
            for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1])
        )
        across = (up & down) | (left & right)
        is_long = length > SHORTEST
        score = sharpness**2 * length**LENGTH_POWER * is_long * np.where(across, ACROSS, 1)
        score[0] = 0
        for number in np.argsort(-score)[:3]:
            if score[number]:
                alike = (sharpness > 0.5 * sharpness[number]) & is_long & ~across
                alike[[0, number]] = False
                others = np.flatnonzero(alike)
                yield _Candidate(
                    float(score[number]), labels, int(number), others, is_dark, grey, ground
                )


def _isolated(blob: _Candidate) -> float:
    """Returns the fraction of a ring around a component that is ground: 1 around strokes."""
    top, left, bottom, right = bounds(blob.labels == blob.number)
    box = np.s_[max(0, top - 4) : bottom + 4, max(0, left - 4) : right + 4]
    labels, grey, ground = (np.pad(x[box], 4) for x in (blob.labels, blob.grey, blob.ground))
    mask = labels == blob.number
    inside = grey[mask].mean()
    step = ground[mask].mean() - inside
    ring = ndimage.binary_dilation(mask, EIGHT, 3) & ~ndimage.binary_dilation(mask, EIGHT, 2)
    ring &= labels == 0
    return float(((grey[ring] - inside) / step > 0.5).mean()) if ring.any() else 0.0


def parts(labels: np.ndarray, first: int, others: np.ndarray) -> tuple[np.ndarray, int]:
    """Joins the parts of a drawing, such as a five's top, and counts the drawings.

    `labels` are each pixel's component, int [h, w]; `first` is the drawing's, `others` may be ink,
    too. Returns the drawing, bool [h, w], and the number of drawings.
    """
    boxes = ndimage.find_objects(labels)
    main = boxes[first - 1]
    size = max(side.stop - side.start for side in main)
    numbers, things = [first], 1
    for number in others:
        box = boxes[number - 1]
        own_size = max(side.stop - side.start for side in box)
        below, beside = (
            max(one.start, other.start) - min(one.stop, other.stop)
            for one, other in zip(main, box, strict=True)
        )
        gap = max(0, below, beside)
        narrower, lower = (
            min(one[axis].stop - one[axis].start for one in (main, box)) for axis in (1, 0)
        )
        in_a_row = beside > -0.2 * narrower and below < -0.5 * lower
        touches_edge = any(
            side.start == 0 or side.stop == end for side, end in zip(box, labels.shape, strict=True)
        )
        far = gap > 0.45 * max(own_size, size)
        apart = far or (in_a_row and gap > 0.08 * max(own_size, size))
        if own_size > 0.5 * size and not touches_edge and apart:
            things += 1
        elif own_size > 0.15 * size and not far:
            numbers.append(int(number))
    return np.isin(labels, numbers), things


def _strokes(grey: np.ndarray, near: np.ndarray, stroke: float, is_dark: bool) -> np.ndarray:
    """Separates ink from paper, float [h, w], at the level with the sharpest outline.

    `near` is the drawing's rough place, bool [h, w]; `stroke` its rough stroke width in pixels.
    """
    smooth = ndimage.gaussian_filter(_without_lines(grey), np.clip(0.15 * stroke, 0.7, 3))
    ink, ground = _contrast(smooth, 1.6 * stroke + 5, is_dark)
    edges = ndimage.gaussian_gradient_magnitude(smooth, 1) / (ground + REGULARISER)
    high = np.percentile(ink[near], 98)
    sharpest, mask = -1.0, near
    for level in FINE_LEVELS:
        labels, _ = ndimage.label(ink > level * high, EIGHT)
        part = np.isin(labels, np.setdiff1d(labels[near], 0))
        outline = part & ~ndimage.binary_erosion(part)
        sharpness = edges[outline].mean() if outline.any() else 0
        if sharpness > sharpest:
            sharpest, mask = sharpness, part
    return mask
