"""The promises about many devices, kept by 1, 2, 4 and 8 fake ones of the CPU.

Run as a program, this file trains on the first ones of its devices, as many as each of its
arguments says, and prints what it saw as JSON.
"""

import contextlib
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
from helpers import create_reference, python, some_slow

from mnist_jax.cli.compilation_cache import use_compilation_cache
from mnist_jax.config import OptimizerConfig
from mnist_jax.datasets import load_dataset
from mnist_jax.datasets.info import DataInfo
from mnist_jax.laboratory.member_program import compile_population
from mnist_jax.loader import steps_per_epoch, take_chunk
from mnist_jax.optimizer import create_optimizer
from mnist_jax.program import StepParts, compile_program
from mnist_jax.sharding import create_mesh, replicated, split_batch
from mnist_jax.workdir.checkpoint import open_saver, restore_state
from mnist_jax.workdir.history import Progress
from mnist_jax.workdir.origin import Origin

# 6 steps per epoch, the last of 25 examples; neither 100 nor 5 is a multiple of 8.
BATCH_SIZE, EXAMPLES, SEEDS = 100, 525, 5
MARK = "--- other devices ---"
MODEL = create_reference(features=4, hidden_size=16)


def numbered_splits() -> dict[str, Any]:
    """Returns digits whose first two pixels, black in all of MNIST, hold the image's number."""
    images, labels = load_dataset("mnist", f"train[:{EXAMPLES}]")
    images = np.array(images)
    images[:, 0, :2, 0] = np.stack(divmod(np.arange(EXAMPLES), 256), axis=-1)
    splits = {"train": (images, labels)}
    return splits | dict.fromkeys(("validation", "test"), (images[:150], labels[:150]))


def numbers(chunk: dict[str, jax.Array]) -> np.ndarray:
    pixels = np.asarray(chunk["image"])[np.asarray(chunk["mask"])].astype(int)
    return pixels[:, 0, 0, 0] * 256 + pixels[:, 0, 1, 0]


def image_buffers() -> set[tuple[int, int]]:
    arrays = [x for x in jax.live_arrays() if x.shape == (EXAMPLES, 28, 28, 1)]
    shards = [shard for array in arrays for shard in array.addressable_shards]
    return {(shard.device.id, shard.data.unsafe_buffer_pointer()) for shard in shards}


def collectives(program: str) -> list[str]:
    kinds = "all-gather|all-reduce|all-to-all|collective-[a-z]+|reduce-scatter|ragged-all-to-all"
    return re.findall(rf" ({kinds})(?:-start)?\(", program)


def see_training(splits: dict[str, Any]) -> dict[str, Any]:
    """Trains two epochs, the second from a checkpoint; returns observations."""
    texts, compilations, num_steps = [], [], steps_per_epoch(EXAMPLES, BATCH_SIZE)
    compile_lowered = jax.stages.Lowered.compile

    def compile_and_keep(lowered: Any, *options: Any) -> Any:
        compiled = compile_lowered(lowered, *options)
        texts.append(compiled.as_text())
        return compiled

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            compilations.append(duration_secs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.stages.Lowered, "compile", compile_and_keep)
        tx = create_optimizer(**vars(OptimizerConfig()), num_steps=2 * num_steps)
        layout: Any = {"batch_size": BATCH_SIZE, "chunk_steps": 4}
        program = compile_program(MODEL, tx, splits, seed=0, **layout)
    state, whole = program.state, replicated(create_mesh())
    losses, epochs, chunks, shards, val = [], [], [], [], {}
    buffers, in_the_loop = image_buffers(), 0
    jax.monitoring.register_event_duration_secs_listener(listen)
    for epoch in range(2):
        before = len(compilations)
        # JAX reports copies to a device on stderr; see `seen`.
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
                    saver.save(state, Progress(Origin({}, "", DataInfo((), ()), {}, {})))
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
    """Trains 5 members for 6 steps; returns observations."""
    tx = create_optimizer(**vars(OptimizerConfig()), num_steps=6)
    members: dict[str, Any] = {"seeds": range(SEEDS), "values": {}, "averaged": False}
    members |= {"batch_size": BATCH_SIZE, "chunk_steps": 6}
    program = compile_population(lambda _: StepParts(MODEL, tx, {}), splits, **members)
    (chunk,) = program.train_chunks(0, 6)
    placed = [shard.data.shape[0] for shard in chunk["order"].addressable_shards]
    state, sums = program.run_chunk(program.state, chunk, [1.0] * SEEDS)
    leaves = jax.tree.leaves(state)
    return {
        "losses": np.asarray(sums["loss_sum"]).tolist(),
        "members_by_device": placed,
        "split": all(x.sharding.is_equivalent_to(chunk["order"].sharding, x.ndim) for x in leaves),
        "val_losses": [member["loss"] for member in program.measure(state, "validation")],
        "collected": sorted({np.shape(x)[:1] for x in jax.tree.leaves(program.collect(state))}),
    }


def see() -> dict[str, Any]:
    splits, mesh = numbered_splits(), create_mesh()
    images, labels = jax.device_put(splits["train"], replicated(mesh))
    layout = {"chunk_steps": 2, "batch_size": BATCH_SIZE, "sharding": split_batch(mesh)}
    gather = take_chunk.lower(images, labels, labels, 0, **layout)
    del images
    return {
        "chunk_collectives": collectives(gather.compile().as_text() or ""),
        "training": see_training(splits),
        "population": see_population(splits),
    }


def see_on(*numbers_of_devices: int) -> dict[int, dict[str, Any]]:
    """Runs `see` on the first of 8 devices; adds what was `copied` to them."""
    flags = "--xla_force_host_platform_device_count=8"
    done = python(__file__, *numbers_of_devices, JAX_PLATFORMS="cpu", XLA_FLAGS=flags)
    assert done.returncode == 0, done.stderr
    seen, transfer = json.loads(done.stdout), r"host-to-device transfer: aval=ShapedArray\((.*?\])"
    logs = zip(numbers_of_devices, done.stderr.split(MARK)[1:], strict=True)
    return {n: seen[str(n)] | {"copied": re.findall(transfer, log)} for n, log in logs}


def check(subtests: pytest.Subtests, devices: int, many: Any, one: Any) -> None:
    training, members = many["training"], many["population"]

    def promise(text: str) -> contextlib.AbstractContextManager[Any]:
        return subtests.test(msg=f"{text}, on {devices} of 8 devices")

    with promise("the loss curves agree with one device"):
        # Up to rounding, which accumulates over the steps.
        for name in ("losses", "val_loss"):
            np.testing.assert_allclose(training[name], one["training"][name], rtol=1e-4)
    with promise("an epoch shows each example once"):
        assert training["epochs"] == [[*range(EXAMPLES)]] * 2
    with promise("a batch is split evenly and the parameters are whole"):
        assert training["shards"] == [-(-BATCH_SIZE // devices)] * devices
        assert training["replicated"]
    with promise("the images are placed once on each device"):
        assert training["copies_of_the_images"] == devices
        assert training["images_stay"]
    with promise("nothing but scalars is copied in the loop"):
        # The number of a chunk's first step, the epoch, the factor of the learning rate.
        assert many["copied"]  # else the guard has no effect
        assert {*many["copied"]} <= {"int32[]", "float32[]"}
    with promise("nothing is compiled in the loop nor after a restore"):
        assert training["compiled_in_the_loop"] == 0
    with promise("devices exchange nothing but sums of gradients and metrics"):
        beginning, *collectives = training["collectives"]
        assert beginning == []
        assert len(collectives) == 3  # chunks of two sizes, and of an evaluation
        for names in collectives:
            assert {*names} == ({"all-reduce"} if devices > 1 else set())
            assert len(names) <= 2  # XLA combines them by type
    with promise("each device takes its part of a chunk from its own images"):
        assert many["chunk_collectives"] == []
    with promise("five members spread over the devices"):
        assert members["members_by_device"] == [-(-SEEDS // devices)] * devices
        assert members["split"]
        assert members["collected"] == [[], [SEEDS]]  # all but the step, without padding
    with promise("the members agree with those on one device"):
        assert np.shape(members["losses"]) == (SEEDS, 6)
        assert len({*members["val_losses"]}) == SEEDS
        for name in ("losses", "val_losses"):
            np.testing.assert_allclose(members[name], one["population"][name], rtol=1e-4)


@pytest.mark.parametrize("numbers", some_slow([(1, 2)], [(1, 2), (1, 4, 8)]), ids=str)
def test_many_devices_train_as_one_does(subtests, numbers):
    seen = see_on(*numbers)
    for devices in numbers:
        check(subtests, devices, seen[devices], seen[1])


if __name__ == "__main__":
    use_compilation_cache()
    seen = {}
    for number in map(int, sys.argv[1:]):
        print(MARK, file=sys.stderr, flush=True)
        jax.clear_caches()
        with mock.patch.object(jax, "device_count", return_value=number):
            seen[number] = see()
    print(json.dumps(seen))
