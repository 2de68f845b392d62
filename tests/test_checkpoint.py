"""Real Orbax on a toy state."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState

from mnist_jax.checkpoint import open_checkpoints, restore_params, restore_state, save_state
from mnist_jax.sharding import create_mesh, replicated

REPLICATED = replicated(create_mesh())


def toy_state(value, step, shape=(3,)):
    params: Any = {"layer": {"kernel": jnp.full(shape, value), "bias": jnp.float32(value)}}
    tx = optax.adam(0.1)
    opt_state = jax.tree.map(lambda x: x + jnp.asarray(10 * value, x.dtype), tx.init(params))
    return TrainState(step=jnp.int32(step), apply_fn=len, params=params, tx=tx, opt_state=opt_state)


def save(directory, accuracies):
    with open_checkpoints(directory) as manager:
        for step in accuracies:
            history = [{"epoch": s, "val_accuracy": a} for s, a in accuracies.items() if s <= step]
            save_state(manager, toy_state(step / 10, step), history)


def test_the_newest_state_comes_back_exactly(tmp_path):
    save(tmp_path, {1: 0.5, 2: 0.4})
    with open_checkpoints(tmp_path) as manager:
        state, history = restore_state(manager, toy_state(0.0, 0), REPLICATED)
    expected = toy_state(0.2, 2)
    assert jax.tree.structure(state.opt_state) == jax.tree.structure(expected.opt_state)
    pairs = zip(
        *(jax.tree.leaves((s.step, s.params, s.opt_state)) for s in (state, expected)), strict=True
    )
    for ours, theirs in pairs:
        assert (ours.dtype, ours.weak_type) == (theirs.dtype, False)
        np.testing.assert_array_equal(ours, theirs)
    assert history == [{"epoch": 1, "val_accuracy": 0.5}, {"epoch": 2, "val_accuracy": 0.4}]


def test_the_newest_and_the_best_are_kept_also_over_restarts(tmp_path):
    save(tmp_path, {1: 0.5, 2: 0.9, 3: 0.6})
    with open_checkpoints(tmp_path) as manager:
        assert sorted(manager.all_steps()) == [2, 3]
    save(tmp_path, {4: 0.7})
    with open_checkpoints(tmp_path, read_only=True) as manager:
        assert sorted(manager.all_steps()) == [2, 4]
        for name, step in {"latest": 4, "best": 2, "4": 4, 2: 2}.items():
            found, params = restore_params(manager, name, REPLICATED)
            assert found == step
            np.testing.assert_array_equal(
                params["layer"]["kernel"], np.full(3, np.float32(step / 10))
            )
        with pytest.raises(ValueError, match="no step 3, but the steps 2, 4; latest and best"):
            restore_params(manager, 3, REPLICATED)


def test_of_equally_good_steps_the_newest_is_best(tmp_path):
    save(tmp_path, {1: 0.5, 2: 0.9, 3: 0.9})
    with open_checkpoints(tmp_path, read_only=True) as manager:
        assert restore_params(manager, "best", REPLICATED)[0] == 3


def test_nothing_saved_gives_the_state_itself(tmp_path):
    with open_checkpoints(tmp_path / "new") as manager:
        state, history = restore_state(manager, toy_state(0.5, 0), REPLICATED)
    assert history == []
    np.testing.assert_array_equal(state.params["layer"]["kernel"], np.full(3, np.float32(0.5)))


def test_a_state_may_be_donated_while_it_is_saved(tmp_path):
    increase = jax.jit(lambda params: jax.tree.map(lambda x: x + 1, params), donate_argnums=0)
    state = toy_state(0.0, 1, shape=(1000, 1000))
    with open_checkpoints(tmp_path) as manager:
        save_state(manager, state, [{"val_accuracy": 0.0}])
        for _ in range(20):
            state = state.replace(params=increase(state.params))
        manager.wait_until_finished()
        _, params = restore_params(manager, 1, REPLICATED)
    assert not np.asarray(params["layer"]["kernel"]).any()


def test_an_older_step_is_not_dropped_silently(tmp_path):
    save(tmp_path, {5: 0.5})
    with (
        open_checkpoints(tmp_path) as manager,
        pytest.raises(ValueError, match="step 3 was not saved"),
    ):
        save_state(manager, toy_state(0.0, 3), [{"val_accuracy": 0.0}])


@pytest.mark.parametrize(
    "other", [toy_state(0.0, 0, shape=(4,)), toy_state(0, 0)], ids=["shape", "dtype"]
)
def test_another_model_is_refused(tmp_path, other):
    save(tmp_path, {1: 0.5})
    with (
        open_checkpoints(tmp_path) as manager,
        pytest.raises(ValueError, match=r"/1 .* another model: .*params/layer/kernel"),
    ):
        restore_state(manager, other, REPLICATED)


@pytest.mark.parametrize("damage", ["truncate", "empty", "remove", "flip"])
def test_every_damaged_file_is_found_before_it_is_read(tmp_path, damage, capfd):
    save(tmp_path, {1: 0.5})
    directory = tmp_path / "1"
    items = [path for path in directory.glob("*/**/*") if path.is_file()]
    for file in [*items, directory / "SHA256SUMS"]:
        content = file.read_bytes()
        middle = len(content) // 2
        if damage == "remove":
            file.unlink()
        elif damage == "flip":
            file.write_bytes(
                content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]
            )
        else:
            file.write_bytes(content[: middle if damage == "truncate" else 0])
        with (
            pytest.raises(ValueError, match=r"/1 cannot be used: its .*SHA256SUMS .*; delete that"),
            open_checkpoints(tmp_path, read_only=True),
        ):
            pass
        file.write_bytes(content)
    assert len(items) > 15
    with open_checkpoints(tmp_path, read_only=True) as manager:
        restore_params(manager, 1, REPLICATED)
    assert capfd.readouterr().err == ""
