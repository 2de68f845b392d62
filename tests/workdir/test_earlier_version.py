"""A work directory of an earlier version is read and resumed.

earlier_version.tar.xz is what commit 6a3fcff, whose loop was another, left when it was stopped at
step 6 of 12, in the middle of its second epoch. This made it, in a checkout of that commit:

    import dataclasses, sys
    sys.path.insert(0, "tests")
    from helpers import stop_after
    from test_earlier_version import CONFIG
    from mnist_jax import train

    stop_after(3, train, CONFIG, "earlier")

    tar --sort=name --owner=0 --group=0 --mtime=@0 -cJf earlier_version.tar.xz -C earlier .
"""

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import rows, stop_after

from mnist_jax import Config, evaluate, train
from mnist_jax.config import DataConfig, ModelConfig, OptimizerConfig
from mnist_jax.training import Run
from mnist_jax.workdir.hashing import tree_sha256
from mnist_jax.workdir.trained import load_trained

CONFIG = Config(
    seed=1,
    epochs=3,
    batch_size=64,
    chunk_steps=2,
    data=DataConfig(train_split="train[:320]", test_split="test[:100]"),
    model=ModelConfig(features=1, hidden_size=2, pool_size=8),
    optimizer=OptimizerConfig(learning_rate=0.03),
)
# The archive was made on one machine, with one version of JAX.
pytestmark = pytest.mark.filterwarnings("ignore:.* resumes in a different environment")


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    shutil.unpack_archive(
        Path(__file__).with_name("earlier_version.tar.xz"), tmp_path / "earlier", filter="data"
    )
    return tmp_path / "earlier"


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """Provides the same run by this version: one stopped at the same step, and a whole one."""
    root = tmp_path_factory.mktemp("today")
    stop_after(3, train, CONFIG, root / "stopped")
    return root / "stopped", train(CONFIG, root / "whole")


def assert_same(ours: object, theirs: object, *, to_the_bit: bool) -> None:
    """Fails unless two trees agree to the bit, or as well as two machines do."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for our, their in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(our, their, rtol=0 if to_the_bit else 1e-3)


def test_the_network_of_an_earlier_version_is_read(earlier, today):
    trained, ours = load_trained(earlier), load_trained(today[0])
    assert (trained.config, trained.step) == (ours.config, ours.step) == (CONFIG, 6)
    assert trained.info == ours.info._replace(brightness=None)  # it was not measured
    assert trained.origin.data_sha256 == ours.origin.data_sha256
    assert_same(trained.variables, ours.variables, to_the_bit=False)
    theirs = evaluate(earlier)
    assert theirs.keys() == evaluate(today[0]).keys()
    assert theirs["step"] == 6


def test_a_run_of_an_earlier_version_is_resumed_as_if_this_one_had_begun_it(earlier, today):
    """Another machine rounds differently, so its own run differs from the resumed one."""
    stopped, whole = today
    same = tree_sha256(load_trained(earlier).variables) == tree_sha256(
        load_trained(stopped).variables
    )
    resumed = train(CONFIG, earlier)
    assert_same(resumed.state.params, whole.state.params, to_the_bit=same)
    older, newer = [*rows(earlier)], [*rows(stopped.parent / "whole")]
    seen: list[Any] = [
        [{name: row[name] for name in older[0]} for row in each] for each in (older, newer)
    ]
    assert_same(*seen, to_the_bit=same)  # it had no norm of the gradients
    if same:
        assert resumed.result["params_sha256"] == whole.result["params_sha256"]
    assert resumed.result.keys() == whole.result.keys()
