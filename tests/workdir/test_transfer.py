import dataclasses

import jax
import numpy as np
import pytest
from helpers import SMALL

from mnist_jax import start, train
from mnist_jax.datasets import load_splits
from mnist_jax.progress import console
from mnist_jax.workdir.hashing import tree_sha256
from mnist_jax.workdir.trained import load_trained
from mnist_jax.workdir.transfer import frozen_parameters, transfer

ONE_EPOCH = dataclasses.replace(SMALL, epochs=1)


def with_model(config, **fields):
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **fields))


def variables(**shapes):
    layers = {
        name: {"kernel": np.zeros(shape), "bias": np.zeros(shape[-1])}
        for name, shape in shapes.items()
    }
    return {"params": layers}


def test_frozen_parameters_keep_their_bits_and_the_others_do_not(small_run, tmp_path, capsys):
    source, trained = small_run
    config = dataclasses.replace(ONE_EPOCH, init_from=str(source), freeze="conv*, dense/bias")
    config = dataclasses.replace(
        config,
        optimizer=dataclasses.replace(config.optimizer, name="adamw", weight_decay=0.1),
    )
    run = train(config, tmp_path, listeners=[console()])
    out = capsys.readouterr().out
    assert f"loaded, from {source}: conv1, dense, output\n" in out
    assert "frozen: conv1/bias, conv1/kernel, dense/bias\n" in out
    for layer, name, frozen in [
        ("conv1", "kernel", True),
        ("conv1", "bias", True),
        ("dense", "kernel", False),
        ("dense", "bias", True),
        ("output", "kernel", False),
    ]:
        before, after = (np.asarray(r.state.params[layer][name]) for r in (trained, run))
        assert np.array_equal(before, after) == frozen, (layer, name)
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


def test_a_network_that_does_not_fit_is_refused(subtests):
    nothing = "nothing of the trained network fits"
    for old, message in (
        (variables(conv1=(3, 3), output=(2, 4)), r"params/conv1/bias is \[2\] here, but \[3\]"),
        (variables(a=(1,), b=(2,)), f"{nothing}: its layers are a, b, not"),
        (variables(output=(9, 9)), nothing),
        ({"params": {"output": {"kernel": np.zeros((9, 5)), "bias": np.zeros(5)}}}, nothing),
    ):
        with subtests.test(msg=message), pytest.raises(ValueError, match=message):
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
        with pytest.raises(
            ValueError if "freeze" in fields or "inside" in message else OSError, match=message
        ):
            train(dataclasses.replace(ONE_EPOCH, **fields), tmp_path / "run")
        assert not list(tmp_path.iterdir())
    config = dataclasses.replace(ONE_EPOCH, init_from=str(small_run[0]))
    with pytest.raises(ValueError, match=r"params/dense/bias is \[32\] here"):
        train(with_model(config, hidden_size=32), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_patterns_of_frozen_parameters_are_those_of_a_shell(subtests):
    params = {"a": {"bias": 0, "kernel": 0}, "b": {"c": {"bias": 0}}}
    for freeze, frozen in {
        "": [],
        "a": ["a/bias", "a/kernel"],
        "*/bias": ["a/bias", "b/c/bias"],
        "b/*": ["b/c/bias"],
        "b/c, a/kernel": ["a/kernel", "b/c/bias"],
    }.items():
        with subtests.test(msg=repr(freeze)):
            assert frozen_parameters(params, freeze) == frozen


@pytest.mark.slow
def test_frozen_batch_statistics_stay_and_what_could_not_be_loaded_is_not_frozen(
    small_run, tmp_path
):
    normalised = with_model(ONE_EPOCH, batch_norm=True)
    source = train(normalised, tmp_path / "source")
    assert source.result["params_sha256"] == tree_sha256(source.state.eval_variables)
    config = dataclasses.replace(
        normalised, init_from=str(tmp_path / "source"), freeze="conv*,norm*"
    )
    run = train(config, tmp_path / "run")
    assert run.result.get("init_sha256") == source.result["params_sha256"]
    assert tree_sha256(run.state.collections) == tree_sha256(source.state.collections)
    assert tree_sha256(run.state.params["norm1"]) == tree_sha256(source.state.params["norm1"])
    (tmp_path / "run" / "result.json").unlink()
    assert train(config, tmp_path / "run").result.get("init_sha256") == run.result.get(
        "init_sha256"
    )
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
