"""Arrays as pictures."""

import base64
import io

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mnist_jax.reporting.pictures import data_url, sheet, visible


@given(st.integers(1, 20), st.integers(1, 6), st.sampled_from([1, 3]), st.integers(0, 3))
def test_every_picture_of_a_sheet_lies_in_its_place(count, columns, channels, gap):
    pictures = np.random.default_rng(count).integers(0, 256, (count, 4, 5, channels), np.uint8)
    found = sheet(pictures, columns, gap=gap, ground=7)
    rows = -(-count // columns)
    assert found.shape == (rows * (4 + gap) - gap, columns * (5 + gap) - gap, channels)
    for number, picture in enumerate(pictures):
        top, left = number // columns * (4 + gap), number % columns * (5 + gap)
        assert (found[top : top + 4, left : left + 5] == picture).all()
        found[top : top + 4, left : left + 5] = 7
    assert (found == 7).all()


def test_numbers_become_visible_on_one_scale():
    values = np.array([-2.0, -1.0, 0.0, 1.0])
    assert visible(values).tolist() == [0, 0, 0, 255]
    assert visible(values, signed=True).tolist() == [0, 64, 128, 191]
    assert visible(np.zeros(3)).tolist() == [0, 0, 0]


@given(st.sampled_from([1, 3]), st.integers(0, 99))
def test_a_data_url_holds_the_picture(channels, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 4, channels), np.uint8)
    head, _, body = data_url(pixels).partition(",")
    assert head == "data:image/png;base64"
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))
    assert (found.reshape(pixels.shape) == pixels).all()
