"""A page that is one file: a template of this folder, with its figures and pictures inside."""

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mnist_jax.pictures import data_url
from mnist_jax.plots import svg

if TYPE_CHECKING:  # extras, and slow to import
    from markupsafe import Markup
    from matplotlib.figure import Figure

LARGEST_SIDE = 128  # pixels; a larger picture would only make the page heavy


def render(template: str, **values: Any) -> bytes:
    """Fills in a template of this folder.

    Whatever is given is text, and is escaped; only what `figure` returns is markup.

    Args:
        template: its name.
        values: what it names; a missing one is an error.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(
        loader=PackageLoader("mnist_jax.reporting", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # A name of a file or a class may hold what UTF-8 cannot.
    return pages.get_template(template).render(values).encode("utf-8", "replace")


def figure(drawn: "Figure", name: str, description: str) -> "Markup":
    """Returns a figure of `plots` as markup for a page.

    Args:
        drawn: the figure.
        name: another one for each figure of the page.
        description: what it shows, for those who do not see it.
    """
    from markupsafe import Markup, escape

    text = svg(drawn, name).replace(
        "<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1
    )
    return Markup(text)  # Matplotlib has escaped the names in it


def picture(image: np.ndarray) -> str:
    """Returns an image as a URL that holds it.

    Args:
        image: uint8 [H, W, C]. Large ones are made smaller. Where C is neither 1 nor 3, the mean
            of the channels is what is seen.
    """
    if image.shape[-1] not in (1, 3):
        image = np.round(image.mean(axis=-1, keepdims=True)).astype(np.uint8)
    largest = max(image.shape[:2])
    if largest > LARGEST_SIDE:
        height, width = (max(1, side * LARGEST_SIDE // largest) for side in image.shape[:2])
        squeezed = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        small = squeezed.resize((width, height), Image.Resampling.BOX)
        image = np.asarray(small).reshape(height, width, image.shape[-1])
    return data_url(image)
