"""Networks that begin with the parameters of another one, some of them frozen."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from helpers import SMALL

from mnist_jax import start, train
from mnist_jax.config import replace_fields
from mnist_jax.datasets import load_splits
from mnist_jax.progress import console
from mnist_jax.workdir.hashing import tree_sha256
from mnist_jax.workdir.trained import load_trained
from mnist_jax.workdir.transfer import frozen_parameters, transfer

ONE_EPOCH = dataclasses.replace(SMALL, epochs=1)


def variables(**shapes):
    layers = {
        name: {"kernel": np.zeros(shape), "bias": np.zeros(shape[-1])}
        for name, shape in shapes.items()
    }
    return {"params": layers}


def test_frozen_parameters_keep_their_bits_and_the_others_do_not(small_run, tmp_path, capsys):
    source, trained = small_run
    changes = {"init_from": str(source), "freeze": "conv*, dense/bias"}
    changes |= {"optimizer.name": "adamw", "optimizer.weight_decay": 0.1}
    run = train(replace_fields(ONE_EPOCH, changes), tmp_path, listeners=[console()])
    out = capsys.readouterr().out
    assert f"loaded, from {source}: conv1, dense, output\n" in out
    assert "frozen: conv1/bias, conv1/kernel, dense/bias\n" in out
    before, after = (
        dict[str, Any](flatten_dict(each.state.params, sep="/")) for each in (trained, run)
    )
    kept = {name for name in after if np.array_equal(before[name], after[name])}
    assert kept == {"conv1/kernel", "conv1/bias", "dense/bias"}
    # It begins where the other one ended.
    assert run.history[0]["val_accuracy"] > trained.history[0]["val_accuracy"]


@pytest.mark.slow
def test_the_head_is_initialised_for_other_classes(small_run, tmp_path, capsys, monkeypatch):
    source, trained = small_run
    twelve = tuple("0123456789ab")
    monkeypatch.setattr(start, "load_splits", lambda **data: (load_splits(**data)[0], twelve))
    config = dataclasses.replace(ONE_EPOCH, init_from=str(source), freeze="conv1,dense")
    run = train(config, tmp_path, listeners=[console()])
    out = capsys.readouterr().out
    assert f"loaded, from {source}: conv1, dense\n" in out
    assert f"re-initialised, from {source}: output\n" in out
    assert np.asarray(run.state.params["output"]["kernel"]).shape == (64, 12)
    before, after = (np.asarray(r.state.params["dense"]["kernel"]) for r in (trained, run))
    np.testing.assert_array_equal(before, after)


@pytest.mark.slow
def test_a_complete_run_no_longer_needs_its_source(small_run, tmp_path):
    config = dataclasses.replace(ONE_EPOCH, init_from=str(small_run[0]), ema_decay=0.9)
    run = train(config, tmp_path)
    moved = tmp_path.with_name("moved")
    tmp_path.rename(moved)
    (moved / "result.json").unlink()
    again = train(config, moved)
    assert tree_sha256(again.state) == tree_sha256(run.state)
    found = load_trained(moved)
    assert tree_sha256(found.variables) == tree_sha256(run.state.average)


def test_transfer_takes_the_layers_that_fit_and_names_the_rest():
    new = variables(conv1=(3, 2), middle=(2, 2), output=(2, 5))
    old = jax.tree.map(np.ones_like, variables(conv1=(3, 2), other=(4,), output=(2, 4)))
    found = transfer(new, old)
    assert found[1:] == (["conv1"], ["middle", "output"], ["other"])
    assert found.variables["params"]["conv1"]["kernel"].all()
    assert not found.variables["params"]["output"]["kernel"].any()


NOTHING = "nothing of the trained network fits"
MISFITS = [
    (variables(conv1=(3, 3), output=(2, 4)), r"params/conv1/bias is \[2\] here, but \[3\]"),
    (variables(a=(1,), b=(2,)), f"{NOTHING}: its layers are a, b, not"),
    (variables(output=(9, 9)), NOTHING),
    (variables(output=(9, 5)), NOTHING),
]


@pytest.mark.parametrize(("old", "message"), MISFITS)
def test_a_network_that_does_not_fit_is_refused(old, message):
    with pytest.raises(ValueError, match=message):
        transfer(variables(conv1=(3, 2), output=(2, 5)), old)


@pytest.mark.slow
def test_refusals_leave_nothing_behind(small_run, tmp_path):
    for fields, message in [
        ({"init_from": str(tmp_path / "missing")}, "there is no trained network in"),
        ({"init_from": str(tmp_path / "run")}, "is .*run, inside the workdir"),
        ({"freeze": "conf*"}, "freeze: 'conf\\*' fits no parameter; there are conv1/bias, conv1/"),
        ({"freeze": "conv1,"}, "freeze: '' fits no parameter"),
        ({"freeze": "*"}, r"freeze: '\*' leaves nothing to train"),
    ]:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            train(dataclasses.replace(ONE_EPOCH, **fields), tmp_path / "run")
        assert not list(tmp_path.iterdir())
    config = dataclasses.replace(ONE_EPOCH, init_from=str(small_run[0]))
    with pytest.raises(ValueError, match=r"params/dense/bias is \[32\] here"):
        train(replace_fields(config, {"model.hidden_size": 32}), tmp_path / "run")
    assert not list(tmp_path.iterdir())


FROZEN = {
    "": [],
    "a": ["a/bias", "a/kernel"],
    "*/bias": ["a/bias", "b/c/bias"],
    "b/*": ["b/c/bias"],
    "b/c, a/kernel": ["a/kernel", "b/c/bias"],
}


@pytest.mark.parametrize("freeze", FROZEN)
def test_patterns_of_frozen_parameters_are_those_of_a_shell(freeze):
    params = {"a": {"bias": 0, "kernel": 0}, "b": {"c": {"bias": 0}}}
    assert frozen_parameters(params, freeze) == FROZEN[freeze]


@pytest.mark.slow
def test_frozen_batch_statistics_stay_and_layers_that_are_not_loaded_cannot_be_frozen(
    small_run, tmp_path
):
    normalised = replace_fields(ONE_EPOCH, {"model.batch_norm": True})
    source = train(normalised, tmp_path / "source")
    sha256 = source.result["params_sha256"]
    assert sha256 == tree_sha256(source.state.eval_variables)
    fields = {"init_from": str(tmp_path / "source"), "freeze": "conv*,norm*"}
    config = replace_fields(normalised, fields)
    run = train(config, tmp_path / "run")
    assert run.result.get("init_sha256") == sha256
    assert tree_sha256(run.state.collections) == tree_sha256(source.state.collections)
    assert tree_sha256(run.state.params["norm1"]) == tree_sha256(source.state.params["norm1"])
    (tmp_path / "run" / "result.json").unlink()
    assert train(config, tmp_path / "run").result.get("init_sha256") == sha256
    # Without batch normalisation conv1 has a bias, which the source does not have.
    config = dataclasses.replace(ONE_EPOCH, init_from=config.init_from, freeze="conv*")
    with pytest.raises(ValueError, match=r"freeze: 'conv\*' would freeze conv1 at random values"):
        train(config, tmp_path / "other")
    config = dataclasses.replace(config, init_from=str(small_run[0]), freeze="")
    link = tmp_path / "link"
    link.symlink_to(small_run[0])
    with pytest.raises(ValueError, match="inside the workdir"):
        train(config, link, overwrite=True)
    assert (small_run[0] / "result.json").exists()
