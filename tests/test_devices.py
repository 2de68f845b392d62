"""The promises about many devices, kept by 1, 2, 4 and 8 fake ones of the CPU.

Run as a program, this file trains on the devices there are, and prints what it saw as JSON.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import create_reference

from mnist_jax.checkpoint import open_saver, restore_state
from mnist_jax.config import OptimizerConfig
from mnist_jax.datasets import load_dataset
from mnist_jax.loader import steps_per_epoch, take_chunk
from mnist_jax.optimizer import create_optimizer
from mnist_jax.population_program import Parts, compile_population
from mnist_jax.program import compile_program
from mnist_jax.sharding import create_mesh, replicated, split_batch

DEVICES, BATCH_SIZES, EXAMPLES, SEEDS = (1, 2, 4, 8), (100, 128), 1050, 5


def numbered_splits() -> dict[str, Any]:
    """Digits whose first two pixels, black in all of MNIST, are the number of the image."""
    images, labels = load_dataset("mnist", f"train[:{EXAMPLES}]")
    images = np.array(images)
    images[:, 0, :2, 0] = np.stack(divmod(np.arange(EXAMPLES), 256), axis=-1)
    splits = {"train": (images, labels)}
    return splits | dict.fromkeys(("validation", "test"), (images[:301], labels[:301]))


def numbers(chunk: dict[str, jax.Array]) -> np.ndarray:
    """The numbers of a chunk's real examples."""
    pixels = np.asarray(chunk["image"])[np.asarray(chunk["mask"])].astype(int)
    return pixels[:, 0, 0, 0] * 256 + pixels[:, 0, 1, 0]


def image_buffers() -> set[tuple[int, int]]:
    """Where the training images lie: device and address."""
    arrays = [x for x in jax.live_arrays() if x.shape == (EXAMPLES, 28, 28, 1)]
    shards = [shard for array in arrays for shard in array.addressable_shards]
    return {(shard.device.id, shard.data.unsafe_buffer_pointer()) for shard in shards}


def collectives(program: str) -> list[str]:
    """The names of the operations between devices in a compiled program."""
    kinds = "all-gather|all-reduce|all-to-all|collective-[a-z]+|reduce-scatter|ragged-all-to-all"
    return re.findall(rf" ({kinds})(?:-start)?\(", program)


def see_training(splits: dict[str, Any], batch_size: int) -> dict[str, Any]:
    """Trains two epochs, the second one from a checkpoint; returns what there was to see."""
    texts, compilations, num_steps = [], [], steps_per_epoch(EXAMPLES, batch_size)
    compile_lowered = jax.stages.Lowered.compile

    def compile_and_keep(lowered: Any) -> Any:
        compiled = compile_lowered(lowered)
        texts.append(compiled.as_text())
        return compiled

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compilations.append(duration_secs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.stages.Lowered, "compile", compile_and_keep)
        program = compile_program(
            create_reference(features=8),
            create_optimizer(**vars(OptimizerConfig()), num_steps=2 * num_steps),
            splits,
            seed=0,
            batch_size=batch_size,
            chunk_steps=4,
        )
    state, whole = program.state, replicated(create_mesh())
    losses, epochs, chunks, shards, val = [], [], [], [], {}
    buffers, in_the_loop = image_buffers(), 0
    jax.monitoring.register_event_duration_secs_listener(listen)
    for epoch in range(2):
        before = len(compilations)
        # Whatever is copied to a device is told on stderr; see `seen`.
        with jax.transfer_guard_host_to_device("log_explicit"):
            for chunk in program.train_chunks(epoch * num_steps, (epoch + 1) * num_steps):
                chunks.append(chunk)
                state, sums = program.run_chunk(state, chunk, 1.0)
                losses.append(sums["loss_sum"])
            val = program.measure(state, "validation")
        in_the_loop += len(compilations) - before
        epochs.append(sorted(np.concatenate([numbers(c) for c in chunks]).tolist()))
        shards = [x.data.shape[1] for x in chunks[0]["image"].addressable_shards]
        chunks.clear()
        if epoch == 0:
            with tempfile.TemporaryDirectory() as directory:
                with open_saver(Path(directory), []) as saver:
                    saver.save(state, {})
                state = restore_state(Path(directory), num_steps, state, whole)
    return {
        "losses": np.concatenate(losses).tolist(),
        "epochs": epochs,
        "val_loss": val["loss"],
        "shards": shards,
        "replicated": all(x.is_fully_replicated for x in jax.tree.leaves(state.params)),
        "compiled_in_the_loop": in_the_loop,
        "copies_of_the_images": len(buffers),
        "images_stay": image_buffers() == buffers,
        "collectives": [collectives(text) for text in texts],
    }


def see_population(splits: dict[str, Any]) -> dict[str, Any]:
    """Trains 5 members for 6 steps; returns what there was to see."""
    tx = create_optimizer(**vars(OptimizerConfig()), num_steps=6)
    program = compile_population(
        lambda _: Parts(create_reference(features=8), tx, {}),
        splits,
        seeds=range(SEEDS),
        values={},
        averaged=False,
        batch_size=175,
        chunk_steps=6,
    )
    (chunk,) = program.train_chunks(0, 6)
    placed = [shard.data.shape[0] for shard in chunk.orders.addressable_shards]
    state, sums = program.run_chunk(program.state, chunk, [1.0] * SEEDS)
    leaves = jax.tree.leaves(state)
    return {
        "losses": np.asarray(sums["loss_sum"]).tolist(),
        "members_by_device": placed,
        "split": all(x.sharding.is_equivalent_to(chunk.orders.sharding, x.ndim) for x in leaves),
        "val_losses": [member["loss"] for member in program.measure(state, "validation")],
        "collected": sorted({np.shape(x)[:1] for x in jax.tree.leaves(program.collect(state))}),
    }


def see() -> dict[str, Any]:
    """Returns what there was to see, of all trainings and of the gathering of a chunk."""
    splits, mesh = numbered_splits(), create_mesh()
    images, labels = jax.device_put(splits["train"], replicated(mesh))
    gather = take_chunk.lower(
        images, labels, labels, 0, num_steps=2, batch_size=100, sharding=split_batch(mesh)
    )
    chunk_collectives = collectives(gather.compile().as_text() or "")
    del images
    return {
        "trainings": {size: see_training(splits, size) for size in BATCH_SIZES},
        "population": see_population(splits),
        "chunk_collectives": chunk_collectives,
    }


@pytest.fixture(scope="module")
def seen() -> dict[int, dict[str, Any]]:
    """What `see` returns on each number of devices, and what was `copied` to them."""
    found = {}
    for devices in DEVICES:
        done = subprocess.run(
            [sys.executable, __file__],
            env=os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        copied = re.findall(r"host-to-device transfer: aval=ShapedArray\((.*?\])", done.stderr)
        found[devices] = json.loads(done.stdout) | {"copied": copied}
    return found


@pytest.fixture(params=[(n, size) for n in DEVICES for size in BATCH_SIZES], ids=str)
def training(request: pytest.FixtureRequest, seen: dict[int, Any]) -> tuple[int, int, Any, Any]:
    """Number of devices, batch size, and what was seen on them and on one."""
    devices, size = request.param
    return devices, size, seen[devices]["trainings"][str(size)], seen[1]["trainings"][str(size)]


def test_the_loss_curves_agree_with_one_device(training):
    """To rounding, which a step hands on to all later ones."""
    _, _, many, one = training
    np.testing.assert_allclose(many["losses"], one["losses"], rtol=1e-4)
    np.testing.assert_allclose(many["val_loss"], one["val_loss"], rtol=1e-4)


def test_an_epoch_shows_each_example_once(training):
    assert training[2]["epochs"] == [[*range(EXAMPLES)]] * 2


def test_a_batch_is_split_evenly_and_the_parameters_are_whole(training):
    devices, size, many, _ = training
    assert many["shards"] == [-(-size // devices)] * devices
    assert many["replicated"]


def test_the_images_are_placed_once_on_each_device(training):
    devices, _, many, _ = training
    assert many["copies_of_the_images"] == devices
    assert many["images_stay"]


@pytest.mark.parametrize("devices", DEVICES)
def test_nothing_but_scalars_is_copied_in_the_loop(seen, devices):
    """The number of a chunk's first step, the epoch, the scale of the learning rate."""
    copied = seen[devices]["copied"]
    assert copied  # else the guard tells nothing any more
    assert {*copied} <= {"int32[]", "float32[]"}


def test_nothing_is_compiled_in_the_loop_nor_after_a_restore(training):
    assert training[2]["compiled_in_the_loop"] == 0


def test_devices_exchange_nothing_but_sums(training):
    """Of the gradients and the metrics; no example or activation leaves its device."""
    devices, _, many, _ = training
    assert len(many["collectives"]) == 3  # chunks of two sizes, and those of an evaluation
    for found in many["collectives"]:
        assert {*found} == ({"all-reduce"} if devices > 1 else set())
        assert len(found) <= 2  # XLA combines them by type


@pytest.mark.parametrize("devices", DEVICES)
def test_each_device_takes_its_part_of_a_chunk_from_its_own_images(seen, devices):
    assert seen[devices]["chunk_collectives"] == []


@pytest.mark.parametrize("devices", DEVICES)
def test_five_members_spread_over_the_devices_and_agree(seen, devices):
    many, one = seen[devices]["population"], seen[1]["population"]
    assert many["members_by_device"] == [-(-SEEDS // devices)] * devices
    assert many["split"]
    assert many["collected"] == [[], [SEEDS]]  # all but the step, without what fills up
    assert np.shape(many["losses"]) == (SEEDS, 6)
    assert len({*many["val_losses"]}) == SEEDS
    np.testing.assert_allclose(many["losses"], one["losses"], rtol=1e-4)
    np.testing.assert_allclose(many["val_losses"], one["val_losses"], rtol=1e-4)


if __name__ == "__main__":
    print(json.dumps(see()))
