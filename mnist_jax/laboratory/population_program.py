"""A population of trainings as compiled calls: `program.py`, for all members at once."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh

from mnist_jax import rng
from mnist_jax.loader import (
    chunk_grid,
    epoch_order,
    epochs_between,
    eval_chunks,
    steps_per_epoch,
    take_chunk,
)
from mnist_jax.metrics import Sums, mean_metrics
from mnist_jax.sharding import create_mesh, replicated, split_members
from mnist_jax.state import TrainState, create_train_state
from mnist_jax.steps import run_eval_steps, run_steps


class Parts(NamedTuple):
    """What a training is made of: see `compile_program`."""

    model: nn.Module
    tx: optax.GradientTransformation
    options: dict[str, Any]


class MemberChunk(NamedTuple):
    """A chunk of all members that is not gathered yet.

    Attributes:
        orders: int32 [members, examples], of the epoch.
        first_step: of the epoch.
        num_steps: k.
    """

    orders: jax.Array
    first_step: int
    num_steps: int


class PopulationProgram(NamedTuple):
    """`Program` for N members at once. On the devices their axis may be longer, see `place`.

    Attributes:
        state: before the first step, placed.
        train_chunks: (first_step, last_step) -> the chunks of the run between these steps.
        run_chunk: (state, chunk, rate_scales [N]) -> (state, sums [N, k]). It uses up the state.
        measure: (state, split) -> the mean `loss` and `accuracy` of each member.
        place: puts a state [N, ...] with one scalar `step` for all on the devices.
        collect: its inverse, for a checkpoint.
    """

    state: TrainState
    train_chunks: Callable[[int, int], Iterator[MemberChunk]]
    run_chunk: Callable[[TrainState, MemberChunk, Sequence[float]], tuple[TrainState, Sums]]
    measure: Callable[[TrainState, str], list[dict[str, float]]]
    place: Callable[[TrainState], TrainState]
    collect: Callable[[TrainState], TrainState]


def compile_population(
    build: Callable[[dict[str, Any]], Parts],
    splits: dict[str, Any],
    *,
    seeds: Sequence[int],
    values: dict[str, Sequence[float]],
    averaged: bool,
    batch_size: int,
    chunk_steps: int,
) -> PopulationProgram:
    """Places the data on the devices once, initialises N states and compiles one program for them.

    A member is trained by `steps.run_steps`, as in `compile_program`, on batches gathered inside
    the program. The members split over the devices; those of a device are mapped in turn on a CPU,
    with the bits that they have alone, and vectorised elsewhere. On a CPU batches of 128 fill the
    cores already: the reference network needs 2.3 ms a member and step in turn, about as alone, and
    3.0 to 3.6 ms vectorised (`benchmarks/population.py`; two cores, 2026-11-22).

    Args:
        build: makes the parts of a member from its own values, which are traced, by name; from no
            values those that all share.
        splits: as in `compile_program`.
        seeds: N roots of all keys.
        values: what differs between the members, N numbers each.
        averaged: keeps a running mean of the parameters.
        batch_size: examples a step.
        chunk_steps: steps in one compiled call.
    """
    mesh = create_mesh("member")
    # Every device takes the same number of members: the first ones fill up, and are not read.
    padded = math.ceil(len(seeds) / mesh.size) * mesh.size
    members = np.arange(padded) % len(seeds)
    data = jax.block_until_ready(jax.device_put(splits, replicated(mesh)))
    images, labels = data["train"]
    num_examples, *image_shape = images.shape
    num_steps = steps_per_epoch(num_examples, batch_size)
    model, tx, _ = build({})

    def spread(tree: Any) -> Any:
        return jax.device_put(jax.tree.map(lambda x: x[members], tree), split_members(mesh))

    def place(state: TrainState) -> TrainState:
        return spread(state.replace(step=jnp.full(len(seeds), state.step, jnp.int32)))

    def collect(state: TrainState) -> TrainState:
        state = jax.tree.map(lambda x: x[: len(seeds)], state)
        return state.replace(step=jnp.asarray(state.step)[0])

    streams = {role: [rng.stream(seed, role) for seed in seeds] for role in rng.ROLES}
    init = jax.jit(
        functools.partial(
            create_train_state, model, tx, image_shape=tuple(image_shape), averaged=averaged
        )
    )
    states = [init(key) for key in streams["init"]]
    state = spread(jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))
    shuffle, *step_rngs = (
        spread(jnp.stack(streams[role])) for role in ("shuffle", "dropout", "augment")
    )
    own = (
        dict(zip(("dropout", "augment"), step_rngs, strict=True)),
        spread({name: np.asarray(numbers, np.float32) for name, numbers in values.items()}),
    )

    def member_steps(member: Any, shared: Any, *, num_steps: int) -> tuple[TrainState, Sums]:
        state, order, rate_scale, (rngs, member_values) = member
        images, labels, first_step = shared
        chunk = take_chunk(
            images, labels, order, first_step, num_steps=num_steps, batch_size=batch_size
        )
        model, tx, options = build(member_values)
        own_state = state.replace(apply_fn=model.apply, tx=tx)
        own_state, sums = run_steps(own_state, chunk, rngs, rate_scale, **options)
        # What is static in a state has to be the same before and after.
        return own_state.replace(apply_fn=state.apply_fn, tx=state.tx), sums

    def run_members(state: TrainState, others: Any, shared: Any, num_steps: int) -> Any:
        run = over_members(functools.partial(member_steps, num_steps=num_steps), mesh)
        return run((state, *others), shared)

    draw_orders = jax.jit(
        over_members(lambda key, epoch: epoch_order(key, epoch, num_examples), mesh)
    )

    def train_chunks(first_step: int, last_step: int) -> Iterator[MemberChunk]:
        for epoch, epoch_step in epochs_between(first_step, last_step, num_steps):
            orders = draw_orders(shuffle, np.int32(epoch))
            for first_and_length in chunk_grid(epoch_step, num_steps, chunk_steps):
                yield MemberChunk(orders, *first_and_length)

    def arguments(
        state: TrainState, chunk: MemberChunk, rate_scales: Sequence[float]
    ) -> tuple[Any, ...]:
        scales = spread(np.asarray(rate_scales, np.float32))
        shared = (images, labels, np.int32(chunk.first_step))
        return state, (chunk.orders, scales, own), shared

    # The old state's buffers become the new state's: whoever passes one in must not use it again.
    run = jax.jit(run_members, donate_argnums=0, static_argnums=3)
    ones = [1.0] * len(seeds)
    compiled = {
        chunk.num_steps: run.lower(*arguments(state, chunk, ones), chunk.num_steps).compile()
        for chunk in {chunk.num_steps: chunk for chunk in train_chunks(0, num_steps)}.values()
    }
    eval_layout = {"batch_size": batch_size, "sharding": replicated(mesh)}
    chunks_to_measure = {
        split: functools.partial(eval_chunks, *data[split], **eval_layout)
        for split in ("validation", "test")
    }
    run_eval = over_members(
        lambda variables, chunk: run_eval_steps(variables, state.apply_fn, chunk), mesh
    )
    some_chunk = next(chunks_to_measure["validation"]())
    run_eval_chunk = jax.jit(run_eval).lower(state.eval_variables, some_chunk).compile()

    def run_chunk(
        state: TrainState, chunk: MemberChunk, rate_scales: Sequence[float]
    ) -> tuple[TrainState, Sums]:
        state, sums = compiled[chunk.num_steps](*arguments(state, chunk, rate_scales))
        return state, {name: values[: len(seeds)] for name, values in sums.items()}

    def measure(state: TrainState, split: str) -> list[dict[str, float]]:
        variables = state.eval_variables
        sums = jax.device_get([run_eval_chunk(variables, c) for c in chunks_to_measure[split]()])
        return [mean_metrics(member_sums(sums, member)) for member in range(len(seeds))]

    return PopulationProgram(state, train_chunks, run_chunk, measure, place, collect)


def over_members(function: Callable[[Any, Any], Any], mesh: Mesh) -> Callable[[Any, Any], Any]:
    """Makes a function of one member, and of what all share, one of all members.

    Args:
        function: (member, shared) -> result.
        mesh: the members split over its devices.

    Returns:
        (members, shared) -> results, where every leaf of members and results has a first axis more.
    """

    def of_a_device(members: Any, shared: Any) -> Any:
        if jax.default_backend() == "cpu":
            return jax.lax.map(lambda member: function(member, shared), members)
        return jax.vmap(function, in_axes=(0, None))(members, shared)

    split, whole = split_members(mesh).spec, replicated(mesh).spec
    return jax.shard_map(
        of_a_device, mesh=mesh, in_specs=(split, whole), out_specs=split, check_vma=False
    )


def member_sums(sums: Sequence[Sums], member: int) -> list[Sums]:
    """Takes a member's own metric sums, [k], out of those of all members, [N, k]."""
    return [{name: values[member] for name, values in chunk.items()} for chunk in sums]
