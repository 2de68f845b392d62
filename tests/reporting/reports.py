"""Runs to report on, and checks of every page of a report."""

import dataclasses
import html
import re
import shlex
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import SMALL
from PIL import Image

from mnist_jax import Config, import_dataset, report, train
from mnist_jax.cli.main import parse
from mnist_jax.config import AugmentConfig, DataConfig, ModelConfig, WatchConfig, load_config
from mnist_jax.datasets.prepare import prepared_dir

HOSTILE = ["<img src=x onerror=alert(1)>", "$x & <!-- 漢字 ش", "long " * 40]
VOID = {"meta", "link", "img"}


class Checker(HTMLParser):
    """Collects ids and addresses; fails on unclosed elements, repeated ids and scripts."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.ids, self.loads = [], [], []
        self.feed(text)
        self.close()
        assert not self.open
        assert len({*self.ids}) == len(self.ids)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids += [value for name, value in attrs if name == "id"]
        self.loads += [values[name] for name in ("src", "href", "xlink:href") if name in values]
        assert tag != "script"
        assert not [name for name in values if name.startswith("on")]
        assert tag != "img" or "alt" in values
        self.open += [tag] * (tag not in VOID)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_page(path: Path) -> str:
    """Asserts that a page is well-formed and loads nothing; returns its text in one line."""
    text = path.read_text(encoding="utf-8")
    found = Checker(text)
    assert text.startswith("<!doctype html>")
    assert all(load[1:] in found.ids or load.startswith("data:") for load in found.loads)
    assert not re.search(r"url\((?!#)|@import", text)
    plain = re.sub(r"<style>.*?</style>|<[^>]*>", " ", text, flags=re.DOTALL)
    return " ".join(html.unescape(plain).split())


def table(text: str, caption: str) -> list[list[str]]:
    """Returns the cells of the table with this caption."""
    (found,) = (t for t in re.findall(r"(?s)<table.*?</table>", text) if caption in t)
    rows = re.findall(r"(?s)<tr.*?</tr>", found)
    cells = [re.findall(r"(?s)<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]
    return [[re.sub("<[^>]*>", "", cell) for cell in row] for row in cells]


def own_config(dataset: str, **changes: Any) -> Config:
    model = ModelConfig(features=4, hidden_size=8)
    config = Config(epochs=1, batch_size=16, data=DataConfig(dataset=dataset), model=model)
    return dataclasses.replace(config, **changes)


def check_command(workdir: Path) -> None:
    """Asserts that the command in a page is that of its run."""
    text = html.unescape(report(workdir).path.read_text(encoding="utf-8"))
    (line,) = re.findall(r"(?s)<pre[^>]*>mnist-jax (train.*?)</pre>", text)
    args = parse(shlex.split(line.replace("\\\n", "")))
    assert args.command.name == "train"
    assert args.recipe == load_config(workdir / "config.json")


@pytest.fixture(scope="session")
def small(small_run, tmp_path_factory) -> Path:
    """Copies the small run to a place that can be written to."""
    return Path(shutil.copytree(small_run[0], tmp_path_factory.mktemp("report") / "small"))


@pytest.fixture(scope="session")
def other(tmp_path_factory) -> Path:
    """Trains another network on the data of the small run."""
    workdir = tmp_path_factory.mktemp("other") / "<other>"
    model = ModelConfig(name="mlp", hidden_size=16)
    train(dataclasses.replace(SMALL, seed=1, model=model), workdir)
    return workdir


@pytest.fixture(scope="module")
def own_data(tmp_path_factory) -> Iterator[Path]:
    """Makes a place for runs and for datasets, with MNIST among them."""
    root = tmp_path_factory.mktemp("own")
    mnist = prepared_dir("mnist", None).parent
    (root / "data").mkdir()
    (root / "data" / mnist.name).symlink_to(mnist)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(root / "data"))
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        yield root


def import_images(root: Path, name: str, images: np.ndarray, labels: np.ndarray) -> None:
    np.savez(root / f"{name}.npz", x=images, y=labels)
    import_dataset(name, [root / f"{name}.npz"])


@pytest.fixture(scope="module")
def hostile(own_data) -> Path:
    """Trains on random colour images: not square, augmented, streamed, with hostile names."""
    rng = np.random.default_rng(0)
    for name in HOSTILE:
        folder = own_data / "hostile" / name.strip()
        folder.mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 256, (12, 16, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    import_dataset("hostile", [own_data / "hostile"])
    changes = {
        "data": DataConfig(dataset="hostile", loader="stream"),
        "augment": AugmentConfig(shift=1, mixup_alpha=0.2),
    }
    train(own_config("hostile", **changes), own_data / "runs" / "hostile")
    return own_data / "runs" / "hostile"


@pytest.fixture(scope="module")
def easy(own_data) -> Path:
    """Trains an MLP that makes no mistakes."""
    labels = np.arange(128) // 64
    images = np.broadcast_to(255 * labels.reshape(-1, 1, 1), (128, 8, 8)).astype(np.uint8)
    import_images(own_data, "easy", images, labels)
    model = ModelConfig(name="mlp", hidden_size=8)
    watch = WatchConfig(patience=1)
    train(own_config("easy", model=model, watch=watch, epochs=6), own_data / "runs" / "easy")
    return own_data / "runs" / "easy"
