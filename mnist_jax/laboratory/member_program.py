"""The compiled program of a population: `program.py`, for all members at once."""

import functools
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mnist_jax import loader, rng
from mnist_jax.datasets.streamed import StreamedImages
from mnist_jax.metrics import Sums, mean_metrics
from mnist_jax.program import (
    Build,
    Program,
    StepParts,
    bare,
    compile_chunks,
    compile_eval,
    compile_initial_state,
    eval_options,
    train_chunk,
)
from mnist_jax.sharding import (
    create_mesh,
    place,
    replicated,
    split_members,
    target,
    target_of,
    traced_for,
)
from mnist_jax.state import TrainState
from mnist_jax.steps import run_eval_steps


class MemberAxis(NamedTuple):
    """The first axis of a population's arrays, split evenly over a mesh's devices.

    Repeated first members pad it.
    """

    size: int  # number of members
    mesh: Mesh

    def spread(self, tree: Any) -> Any:
        """Puts arrays [size, ...] on the devices."""
        padded = math.ceil(self.size / self.mesh.size) * self.mesh.size
        members = np.arange(padded) % self.size
        return jax.device_put(jax.tree.map(lambda x: x[members], tree), split_members(self.mesh))

    def place(self, state: TrainState) -> TrainState:
        """Puts a state [size, ...] with a scalar `step` on the devices."""
        return self.spread(state.replace(step=jnp.full(self.size, state.step, jnp.int32)))

    def collect(self, state: TrainState) -> TrainState:
        """Inverts `place`."""
        state = jax.tree.map(lambda x: x[: self.size], state)
        return state.replace(step=jnp.asarray(state.step)[0])


def compile_population(
    build: Build,
    splits: dict[str, Any],
    *,
    seeds: Sequence[int],
    values: Mapping[str, Sequence[float]],
    averaged: bool,
    batch_size: int,
    chunk_steps: int,
) -> Program:
    """Places the data once, initialises N states and compiles one program for them.

    Each member runs `steps.run_steps`, as in `compile_program`, on batches gathered inside the
    program. The members split over the devices. A CPU runs its members in turn, with the bits that
    they have alone; other devices vectorise them. On a CPU, batches of 128 already fill the cores:
    the reference network takes 2.3 ms per member and step in turn, about as alone, and 3.0 to 3.6
    ms vectorised (`benchmarks/population.py`; two cores, 2026-11-22).

    A chunk holds each member's `order` of the epoch, int32 [members, examples], and the steps
    within the epoch, `step` int32 [k]. The axis of members may be padded, see `MemberAxis`.

    Args:
        build: function from a member's own numbers, traced, to its parts; from {} to shared parts.
        splits: arrays by name, as in `compile_program`, whose errors this function raises, too.
        seeds: root of each member's keys.
        values: members' own numbers by name, N each.
        averaged: True to keep a running mean of the parameters.
        batch_size: examples per step.
        chunk_steps: maximum steps per call.
    """
    if any(isinstance(split[0], StreamedImages) for split in splits.values()):
        raise ValueError(
            "splits must be arrays in a population, which gathers batches on the device, got an "
            "iterable of batches"
        )
    mesh = create_mesh("member")
    whole = replicated(mesh)
    members = MemberAxis(len(seeds), mesh)
    data = jax.block_until_ready(place(splits, whole))
    images, labels = data["train"]
    num_examples, *image_shape = images.shape
    steps_per_epoch = loader.steps_per_epoch(num_examples, batch_size)

    model, tx, options = build({})
    init = compile_initial_state(StepParts(model, tx, options), (*image_shape,), averaged)
    states = [init(rng.stream(seed, "init")) for seed in seeds]
    state = members.spread(jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))
    roots = members.spread(np.asarray(seeds, np.uint32))
    streams = jax.jit(jax.vmap(rng.streams), out_shardings=roots.sharding)(roots)
    step_rngs = {role: streams[role] for role in ("dropout", "augment")}
    own_values = members.spread({name: np.asarray(x, np.float32) for name, x in values.items()})
    measured = eval_options(options)

    draw_orders = jax.jit(
        over_members(lambda key, epoch: loader.epoch_order(key, epoch, num_examples), mesh)
    )

    def train_chunks(first_step: int, last_step: int) -> Generator[dict[str, Any]]:
        for epoch, epoch_step in loader.epochs_between(first_step, last_step, steps_per_epoch):
            order = draw_orders(streams["shuffle"], np.int32(epoch))
            for first, size in loader.chunk_grid(epoch_step, steps_per_epoch, chunk_steps):
                yield {"order": order, "step": np.arange(first, first + size, dtype=np.int32)}

    def arguments(
        state: TrainState, chunk: dict[str, Any], rate_factors: Sequence[float]
    ) -> tuple[Any, ...]:
        scales = members.spread(np.asarray(rate_factors, np.float32))
        own = chunk["order"], scales, step_rngs, own_values
        return bare(state), own, (images, labels, chunk["step"])

    run = jit_members(build, mesh, batch_size)
    compiled, step_sha256 = compile_chunks(
        lambda chunk: run.lower(*arguments(state, chunk, [1.0] * len(seeds))),
        train_chunks,
        steps_per_epoch,
        chunk_steps,
    )
    run_eval = over_members(
        lambda variables, chunk: run_eval_steps(variables, state.apply_fn, chunk, **measured), mesh
    )
    lower_eval = functools.partial(jax.jit(run_eval).lower, state.eval_variables)
    eval_sums = compile_eval(lower_eval, data, batch_size=batch_size, sharding=whole)

    def run_chunk(
        state: TrainState, chunk: dict[str, Any], rate_factors: Sequence[float]
    ) -> tuple[TrainState, Sums]:
        new, sums = compiled(chunk)(*arguments(state, chunk, rate_factors))
        state = new.replace(apply_fn=state.apply_fn, tx=state.tx)
        return state, {name: values[: len(seeds)] for name, values in sums.items()}

    def measure(state: TrainState, split: str) -> list[dict[str, float]]:
        sums = jax.device_get(eval_sums(state, split))
        return [mean_metrics(member_sums(sums, member)) for member in range(len(seeds))]

    return Program(
        state, train_chunks, run_chunk, measure, members.place, members.collect, step_sha256
    )


def jit_members(build: Build, mesh: Mesh, batch_size: int) -> Any:
    """Jits the training of a chunk of all members, over the devices of a mesh.

    The result is a function (state, own, shared) -> (state, sums), which donates the state: `own`
    has the members' orders, rate factors, keys and numbers; `shared` the training images, labels
    and steps.
    """

    def train_member(member: Any, shared: Any) -> tuple[TrainState, Sums]:
        state, order, rate_factor, rngs, values = member
        images, labels, step = shared
        chunk = loader.take_chunk(
            images, labels, order, step[0], chunk_steps=len(step), batch_size=batch_size
        )
        return train_chunk(build, values, state, chunk, rngs, rate_factor)

    def run_members(state: TrainState, own: Any, shared: Any) -> Any:
        return over_members(train_member, mesh)((state, *own), shared)

    return jax.jit(run_members, donate_argnums=0)


def over_members(function: Callable[[Any, Any], Any], mesh: Mesh) -> Callable[[Any, Any], Any]:
    """Maps a function (member, shared) over members, along a first axis split over the devices."""

    def of_a_device(members: Any, shared: Any) -> Any:
        with traced_for(target_of(mesh)):
            if target().platform == "cpu":
                return jax.lax.map(lambda member: function(member, shared), members)
            return jax.vmap(function, in_axes=(0, None))(members, shared)

    split, whole = split_members(mesh).spec, replicated(mesh).spec
    return jax.shard_map(
        of_a_device, mesh=mesh, in_specs=(split, whole), out_specs=split, check_vma=False
    )


def member_sums(sums: Sequence[Sums], member: int) -> list[Sums]:
    """Extracts a member's metric sums [k] from those of all members [N, k]."""
    return [{name: values[member] for name, values in chunk.items()} for chunk in sums]
