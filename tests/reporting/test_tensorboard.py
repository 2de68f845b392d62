"""Event files, read back with TensorBoard's own reader."""

import io
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import TINY, contents, create_reference
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # pyright: ignore (made at run time)

from mnist_jax import population, train
from mnist_jax.datasets import load_splits
from mnist_jax.reporting.filters import drawn
from mnist_jax.reporting.tensorboard import tensorboard
from mnist_jax.training import Run
from mnist_jax.workdir.history import TIMES, read_history


def sure(logits: jax.Array, labels: jax.Array) -> jax.Array:  # noqa: ARG001
    """Returns the largest probability, as a metric of one's own."""
    return jax.nn.softmax(logits).max(axis=-1)


def train_and_draw(workdir: Path) -> Run:
    return train(TINY, workdir, metrics={"sure": sure}, listeners=[tensorboard(workdir)])


def points(workdir: Path, member: str = "") -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Reads the steps and values of curves, by directory and tag."""
    found = {}
    for directory in sorted((workdir / "tensorboard" / member).iterdir()):
        if directory.is_dir():
            events = EventAccumulator(str(directory)).Reload()
            found[directory.name] = {
                tag: [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)]
                for tag in events.Tags()["scalars"]
            }
    return found


def test_each_member_of_a_population_is_a_run(tmp_path):
    result = population(TINY, tmp_path, seeds=2, listeners=[tensorboard(tmp_path)])
    history: Any = read_history(tmp_path)
    for member, name in enumerate(result["members"]):
        found = points(tmp_path, name)
        for directory, split in (("train", "train"), ("validation", "val")):
            for metric in ("loss", "accuracy"):
                curve = [(row["step"], row[f"{split}_{metric}"][member]) for row in history]
                assert found[directory][metric] == curve
        assert found["test"]["loss"] == [(result["steps"], result["test_loss"][member])]
    before = contents(tmp_path / "tensorboard")
    population(TINY, tmp_path, seeds=2, listeners=[tensorboard(tmp_path)])
    assert contents(tmp_path / "tensorboard") == before


def assert_each_step_once(workdir: Path, run: Run) -> None:
    history: Any = run.history

    def curve(name: str) -> list[tuple[int, float]]:
        return [(row["step"], row[name]) for row in history]

    metrics, last = ("loss", "accuracy", "sure"), run.result["steps"]
    assert points(workdir) == {
        "train": {name: curve(f"train_{name}") for name in metrics}
        | {"generalization_gap": curve("generalization_gap")}
        | {f"steps/{name}": curve(name) for name in ("learning_rate", "gradient_norm")}
        | {f"time/{name}": curve(name) for name in TIMES},
        "validation": {name: curve(f"val_{name}") for name in metrics},
        "test": {name: [(last, run.result[f"test_{name}"])] for name in metrics},
    }


@pytest.fixture(scope="module")
def drawn_run(tmp_path_factory) -> tuple[Path, Run]:
    workdir = tmp_path_factory.mktemp("tensorboard") / "run"
    return workdir, train_and_draw(workdir)


def test_a_row_of_the_history_is_a_point_of_each_curve(drawn_run):
    assert_each_step_once(*drawn_run)


def test_pictures_show_what_the_network_looks_for_and_finds(drawn_run):
    workdir, run = drawn_run
    events = EventAccumulator(str(workdir / "tensorboard" / "validation")).Reload()
    assert set(events.Tags()["images"]) == {"image", "filters", "maps/conv1"}
    model = create_reference(features=4, hidden_size=16)
    image = load_splits(**vars(TINY.data))[0]["validation"].images[0]
    for name, picture in drawn(model, run.state.eval_variables, image).items():
        found = events.Images(name)
        assert [event.step for event in found] == [8, 16]
        pixels = np.asarray(Image.open(io.BytesIO(found[-1].encoded_image_string)).convert("L"))
        times = pixels.shape[1] // picture.shape[1]
        assert pixels.shape[1] >= 400
        np.testing.assert_array_equal(pixels[::times, ::times], picture[..., 0])


def test_hyperparameters_are_what_the_config_chooses(drawn_run):
    events = EventAccumulator(str(drawn_run[0] / "tensorboard")).Reload()
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    found = HParamsPluginData.FromString(content).session_start_info.hparams
    assert found["optimizer.learning_rate"].number_value == pytest.approx(1e-3)
    assert found["data.train_split"].string_value == "train[:640]"
    assert found["epochs"].number_value == 2
    assert "augment.cutout" not in found


@pytest.fixture
def copied(drawn_run, tmp_path) -> Path:
    return Path(shutil.copytree(drawn_run[0], tmp_path / "copied"))


def cut_off(directory: Path, size: int) -> None:
    """Removes the end of an event file, as a kill may."""
    (file,) = directory.iterdir()
    file.write_bytes(file.read_bytes()[:-size])


def test_a_finished_run_keeps_its_pictures_and_gets_the_curves_it_lacks(copied):
    before = contents(copied / "tensorboard")
    run = train_and_draw(copied)
    assert contents(copied / "tensorboard") == before
    cut_off(copied / "tensorboard" / "test", 70)
    train_and_draw(copied)
    assert_each_step_once(copied, run)
    shutil.rmtree(copied / "tensorboard")
    train_and_draw(copied)
    assert_each_step_once(copied, run)


def test_a_resumed_run_has_each_step_once_in_its_curves(copied):
    """Points between the last checkpoint and the kill are not doubled."""
    (copied / "result.json").unlink()
    shutil.rmtree(copied / "checkpoints" / "16")
    cut_off(copied / "tensorboard" / "train", 7)  # in the middle of a point
    assert_each_step_once(copied, train_and_draw(copied))
