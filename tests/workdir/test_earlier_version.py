"""A work directory of an earlier version is read and resumed.

earlier_version.tar.xz is a run of commit 6a3fcff, which had another loop, stopped at step 6 of 12,
in its second epoch. This made it, in a checkout of that commit:

    import dataclasses, sys
    sys.path.insert(0, "tests")
    from helpers import stop_after
    from test_earlier_version import CONFIG
    from mnist_jax import train

    stop_after(3, train, CONFIG, "earlier")

    tar --sort=name --owner=0 --group=0 --mtime=@0 -cJf earlier_version.tar.xz -C earlier .
"""

import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import subprocesses
from helpers import rows, stop_after

from mnist_jax import evaluate, train
from mnist_jax.config import ModelConfig
from mnist_jax.training import Run
from mnist_jax.workdir.hashing import tree_sha256
from mnist_jax.workdir.trained import load_trained

CONFIG = dataclasses.replace(
    subprocesses.CONFIG, epochs=3, model=ModelConfig(features=1, hidden_size=2, pool_size=8)
)
# The archive was made on one machine, with one version of JAX.
pytestmark = pytest.mark.filterwarnings("ignore:.* resumes in a different environment")


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    archive = Path(__file__).with_name("earlier_version.tar.xz")
    shutil.unpack_archive(archive, tmp_path / "earlier", filter="data")
    return tmp_path / "earlier"


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """Provides this version's run: one stopped at the same step, and a whole one."""
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
    """The bits differ where the machine rounds differently."""
    stopped, whole = today
    ours, theirs = (tree_sha256(load_trained(run).variables) for run in (stopped, earlier))
    same = ours == theirs
    resumed = train(CONFIG, earlier)
    assert_same(resumed.state.params, whole.state.params, to_the_bit=same)
    runs, names = (earlier, stopped.parent / "whole"), rows(earlier)[0]  # no gradient_norm
    older, newer = ([{name: row[name] for name in names} for row in rows(run)] for run in runs)
    assert_same(older, newer, to_the_bit=same)
    if same:
        assert resumed.result["params_sha256"] == whole.result["params_sha256"]
    assert resumed.result.keys() == whole.result.keys()
