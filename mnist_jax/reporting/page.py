"""Pages of one file each: a template with its figures and pictures inside."""

import io
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mnist_jax.datasets.arrays import as_bytes
from mnist_jax.reporting import plots
from mnist_jax.reporting.pictures import data_url, to_image

if TYPE_CHECKING:  # slow extras
    from markupsafe import Markup
    from matplotlib.figure import Figure

LARGEST_SIDE = 128  # pixels; larger pictures would make the page heavy
LONGEST = 32  # characters of a class
SPELLED = {
    **{name: name.upper() for name in ("cnn", "mlp", "mnist", "emnist", "sgd")},
    **{"resnet": "ResNet", "adam": "Adam", "adamw": "AdamW", "nadam": "Nadam"},
    **{"lion": "Lion", "muon": "Muon"},
}
SHEET_SIDE = 1024  # pixels, of eight pictures side by side


def render(template: str, **values: Any) -> bytes:
    """Fills in a template of this folder with values, escaped except those of `figure`.

    Raises jinja2.UndefinedError if one is missing.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(
        loader=PackageLoader("mnist_jax.reporting", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters["listed"] = listed
    # Names of files and classes may hold surrogates, which UTF-8 cannot encode.
    return pages.get_template(template).render(values).encode("utf-8", "replace")


def figure(
    drawn: "Figure", name: str, description: str, tips: Mapping[str, tuple[str, bool]] | None = None
) -> "Markup":
    """Returns a figure of `plots` as markup.

    Args:
        drawn: figure.
        name: prefix of its ids, unique on the page.
        description: text for readers who cannot see it.
        tips: each linked shape's tooltip, by its link without "#", and whether the page has that
            place; if not, the link is removed.
    """
    from markupsafe import Markup, escape

    def tipped(found: re.Match[str]) -> str:
        tip, has_place = (tips or {})[found[1]]
        tag, link = ("a", f' href="#{name}-{found[1]}"') if has_place else ("g", "")
        return f"<{tag}{link}><title>{escape(tip)}</title>{found[2]}</{tag}>"

    text = svg(drawn, name)
    text = re.sub(rf'(?s)<a xlink:href="#{name}-([\d-]+)"[^>]*>(.*?)</a>', tipped, text)
    role = "group" if tips else "img"  # an image would hide its links
    label = f'<svg role="{role}" aria-label="{escape(description)}" '
    return Markup(text.replace("<svg ", label, 1))  # Matplotlib escapes names


def svg(figure: "Figure", name: str) -> str:
    """Returns a figure as an `<svg>` element; its ids begin with `name`.

    It is transparent, in the page's font, colour and `--accent`, and as wide as its place. Equal
    figures give equal text.
    """
    import matplotlib as mpl

    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # missing here, not in browsers
        figure.savefig(file, format="svg", transparent=True, dpi=200, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    for pattern, new in (
        (r"(?s)<!--.*?-->|<metadata>.*?</metadata>", ""),
        (r'\A(<svg[^>]*?) width="[^"]*"', r"\1"),
        (r'\A(<svg[^>]*?) height="[^"]*"', r"\1"),
        (r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-"),
        (r"font: ([\d.]+px)[^;\"]*", r"font-size: \1"),
        (r"font-family: [^;\"]*;? ?", ""),
        (plots.INK, "currentColor"),
        (plots.BLUE, f"var(--accent, {plots.BLUE})"),
    ):
        text = re.sub(pattern, new, text)
    return text.strip()


def picture(image: np.ndarray, largest: int = LARGEST_SIDE) -> str:
    """Returns an image, uint8 or float in [0, 1] [H, W, C], as a data URL.

    It is reduced to `largest` pixels a side, and its channels are averaged unless 1 or 3.
    """
    image = as_bytes(image)
    if image.shape[-1] not in (1, 3):
        image = np.round(image.mean(axis=-1, keepdims=True)).astype(np.uint8)
    longest = max(image.shape[:2])
    if longest > largest:
        height, width = (max(1, side * largest // longest) for side in image.shape[:2])
        small = to_image(image).resize((width, height), Image.Resampling.BOX)
        image = np.asarray(small).reshape(height, width, -1)
    return data_url(image)


def readable(names: Iterable[str]) -> list[str]:
    """Shortens classes' long names in their middle, and escapes invisible ones."""
    shown = [
        name
        if any(letter.isprintable() and not letter.isspace() for letter in name)
        else name.strip().encode("unicode_escape").decode() or "(blank)"
        for name in names
    ]
    return [name if len(name) <= LONGEST else f"{name[:16]}…{name[-15:]}" for name in shown]


def spelled(name: str) -> str:
    """Spells a model, dataset or optimizer as people write it: "deep_cnn" is "deep CNN"."""
    return " ".join(SPELLED.get(word, word) for word in name.split("_"))


def listed(names: Sequence[str]) -> str:
    """Joins names as a sentence does: "A, B and C"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def in_percent(probability: float) -> str:
    """Spells a probability in percent; one below 1 is never 100%."""
    text = f"{probability:.1%}"
    return ">99.9%" if text == "100.0%" and probability < 1 else text
