"""Compiles the recipes for absent TPUs and GPUs with those devices' own compilers.

    python benchmarks/ahead.py [--targets NAME ...] [--recipes NAME ...] [--json FILE]

Prints counts and the compilers' estimates, not measurements. `make check-accelerators` installs the
extra [ahead] and runs it.
"""

import argparse
import functools
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # else libtpu queries a server
os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # for concurrent compilations
os.environ["JAX_PLATFORMS"] = "cpu"

import hlo
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding
from machine import describe, headline
from markdown_table import print_table
from programs import step_rngs

from mnist_jax import Config, rng
from mnist_jax.config import load_config, replace_fields
from mnist_jax.datasets.info import DataInfo
from mnist_jax.forward import Forward
from mnist_jax.laboratory.member_program import jit_members
from mnist_jax.loader import EVAL_IMAGES, steps_per_epoch
from mnist_jax.parts import NONE
from mnist_jax.program import bare, eval_options, is_averaged, jit_chunk
from mnist_jax.sharding import replicated, split_batch, split_members, target_of, traced_for
from mnist_jax.start import create_build, numbers
from mnist_jax.state import create_train_state
from mnist_jax.steps import PRECISIONS, predict_step, run_eval_steps

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = [path.stem for path in sorted(CONFIGS.glob("*.py"))]
IMAGE_SHAPE, CLASSES, IMAGES = (28, 28, 1), 10, 60_000  # MNIST's
MEMBERS = 8  # of a population, per device
PROGRAMS = ("train", "evaluate", "predict", "population")


class Chip(NamedTuple):
    """A chip by its data sheet."""

    flops: dict[str, float]  # operations per second by precision
    bandwidth: float  # bytes per second of memory


class Devices(NamedTuple):
    """Devices to compile for."""

    platform: str  # "tpu" or "cuda"
    topology: str  # of a TPU, or a file in `gpus/`
    devices: int  # number in use


class Case(NamedTuple):
    """A program to compile: a target, a recipe, and one of `PROGRAMS`."""

    target: str
    recipe: str
    program: str = "train"
    precision: str = ""  # the recipe's
    batch_size: int = 0  # the recipe's


# https://cloud.google.com/tpu/docs/v5e, /v6e and /v5p; the data sheets of NVIDIA's H100 (SXM), HGX
# B200 and T4, without sparsity. A T4 multiplies neither bfloat16 nor tensorfloat32.
def tpu(peak: float, bandwidth: float) -> Chip:
    """Returns a TPU by its peak in bfloat16; see `jax.lax.Precision` for passes per product."""
    return Chip({"bfloat16": peak, "tensorfloat32": peak / 3, "float32": peak / 6}, bandwidth)


CHIPS = {
    "v5e": tpu(197e12, 819e9),
    "v6e": tpu(918e12, 1640e9),
    "v5p": tpu(459e12, 2765e9),
    "h100": Chip({"bfloat16": 989e12, "tensorfloat32": 494e12, "float32": 67e12}, 3.35e12),
    "b200": Chip({"bfloat16": 2250e12, "tensorfloat32": 1125e12, "float32": 75e12}, 7.7e12),
    "t4": Chip(dict.fromkeys(("bfloat16", "tensorfloat32", "float32"), 8.1e12), 320e9),
}
TARGETS = {
    "v5e": Devices("tpu", "v5e:2x2", 1),
    "v5e-8": Devices("tpu", "v5e:2x4", 8),
    "v5e-256": Devices("tpu", "v5e:16x16", 256),  # of launchers/tpu_pod.sh
    "v6e": Devices("tpu", "v6e:2x2", 1),
    "v6e-8": Devices("tpu", "v6e:2x4", 8),
    "v6e-256": Devices("tpu", "v6e:16x16", 256),
    "v5p": Devices("tpu", "v5p:2x2x1", 1),
    "v5p-8": Devices("tpu", "v5p:2x2x2", 8),
    "v5p-256": Devices("tpu", "v5p:8x8x4", 256),
    "h100": Devices("cuda", "h100", 1),
    "h100-8": Devices("cuda", "h100", 8),
    "h100-16": Devices("cuda", "h100", 16),  # of launchers/jobset.yaml and slurm.sh
    "b200": Devices("cuda", "b200", 1),
    "t4": Devices("cuda", "t4", 1),
}


@functools.cache
def mesh_of(name: str) -> Mesh:
    """Returns a mesh of absent devices."""
    platform, topology, count = TARGETS[name]
    options = {}
    if platform == "cuda":
        jax.devices()  # finds the plugins
        options = {
            "topology": f"1x{max(1, count // 8)}x{min(8, count)}",  # hosts of 8
            "target_config": (Path(__file__).parent / f"gpus/{topology}.txtpb").read_text(),
        }
    devices = topologies.get_topology_desc(
        topology_name=topology, platform=platform, **options
    ).devices
    return Mesh(np.array(devices[:count]), ("data",), axis_types=(AxisType.Auto,))


def placed(tree: Any, sharding: NamedSharding) -> Any:
    """Returns the shapes of a tree's arrays on absent devices."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def batches(steps: int, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns a chunk's shapes, see `loader.take_chunk`."""
    return {
        "image": jax.ShapeDtypeStruct((steps, size, *IMAGE_SHAPE), jnp.uint8),
        "label": jax.ShapeDtypeStruct((steps, size), jnp.int32),
        "mask": jax.ShapeDtypeStruct((steps, size), jnp.bool_),
    }


def traced_programs(config: Config, mesh: Mesh) -> dict[str, Callable[[], Any]]:
    """Returns functions that trace a recipe's `PROGRAMS`, as their commands call them."""
    examples = round(IMAGES * (1 - config.data.validation_fraction))
    num_steps = steps_per_epoch(examples, config.batch_size)
    info = DataInfo(IMAGE_SHAPE, tuple(map(str, range(CLASSES))))
    build = create_build(config, NONE, info, num_steps * config.epochs)
    values = numbers(config, NONE)
    model, tx, options = build(values)
    steps, size = min(config.chunk_steps, num_steps), config.batch_size
    size = -(-size // mesh.size) * mesh.size
    whole, split = replicated(mesh), split_batch(mesh)
    state = jax.eval_shape(
        lambda: create_train_state(
            model, tx, rng.stream(0, "init"), IMAGE_SHAPE, averaged=is_averaged(options)
        )
    )
    rngs = jax.eval_shape(step_rngs)
    values = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in values}
    rate, forward = jax.ShapeDtypeStruct((), jnp.float32), Forward(model)

    def train() -> Any:
        chunk = placed(batches(steps, size), split)
        arguments = placed((rate, rngs, values), whole)
        return jit_chunk(build, mesh).trace(placed(bare(state), whole), chunk, *arguments)

    def evaluate() -> Any:
        variables = placed(state.eval_variables, whole)
        chunk = placed(batches(max(1, EVAL_IMAGES // size), size), split)
        with traced_for(target_of(mesh)):
            return run_eval_steps.trace(variables, forward, chunk, **eval_options(options))

    def predict() -> Any:
        images = placed(batches(1, size)["image"], split)
        run = jax.jit(lambda variables, images: predict_step(variables, forward, images[0]))
        with traced_for(target_of(mesh)):
            return run.trace(placed(state.variables, whole), images)

    def population() -> Any:
        members = Mesh(mesh.devices, ("member",), axis_types=(AxisType.Auto,))
        shared = (
            jax.ShapeDtypeStruct((examples, *IMAGE_SHAPE), jnp.uint8),
            jax.ShapeDtypeStruct((examples,), jnp.int32),
            jax.ShapeDtypeStruct((steps,), jnp.int32),
        )
        order = jax.ShapeDtypeStruct((examples,), jnp.int32)
        own = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((MEMBERS * mesh.size, *x.shape), x.dtype),
            (bare(state), (order, rate, rngs, values)),
        )
        own = placed(own, split_members(members))
        shared = placed(shared, replicated(members))
        return jit_members(build, members, config.batch_size).trace(*own, shared)

    return {"train": train, "evaluate": evaluate, "predict": predict, "population": population}


def compile_ahead(config: Config, target: str, program: str = "train") -> tuple[Any, float]:
    """Compiles a program of a recipe for a target; returns it and the seconds taken."""
    traced = traced_programs(config, mesh_of(target))[program]()
    start = time.perf_counter()
    lowered = traced.lower(lowering_platforms=(TARGETS[target].platform,))
    return lowered.compile(), time.perf_counter() - start


def look(case: Case, folder: Path | None = None) -> dict[str, Any]:
    """Compiles a case and returns its counts; `folder` receives the compiled text."""
    fields = {"precision": case.precision, "batch_size": case.batch_size}
    config = load_config(str(CONFIGS / f"{case.recipe}.py"))
    config = replace_fields(config, {name: value for name, value in fields.items() if value})
    row: dict[str, Any] = case._asdict() | {"precision": config.precision}
    row["batch_size"] = config.batch_size
    try:
        compiled, seconds = compile_ahead(config, case.target, case.program)
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        return row | {"failed": str(error).splitlines()[0]}
    text, cost = compiled.as_text(), compiled.cost_analysis() or {}
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        name = "-".join(str(row[field]) for field in Case._fields)
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    chip = CHIPS[case.target.split("-")[0]]
    flops, moved = cost.get("flops"), cost.get("bytes accessed")
    floor = flops and max(flops / chip.flops[row["precision"]], moved / chip.bandwidth)
    return row | {
        "seconds": seconds,
        "temporary": compiled.memory_analysis().temp_size_in_bytes,
        "flops": flops,
        "bytes": moved,
        "estimate": hlo.estimate(cost),
        "roofline": floor,
        **hlo.summarize(text),
    }


def cases(args: argparse.Namespace) -> list[Case]:
    """Returns the programs to compile, by the command line."""
    return [
        Case(target, recipe, program, precision)
        for target in args.targets
        for recipe in args.recipes
        for program in args.programs
        for precision in args.precisions
        # A prediction uses one device.
        if program != "predict" or TARGETS[target].devices == 1
    ]


def columns(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a result of `look` as cells by column."""

    def scaled(name: str, factor: float) -> float | None:
        return row.get(name) and factor * row[name]

    exchanged = (f"{name} {size / 1e6:.2f}" for name, size in row.get("collectives", {}).items())
    return {
        "for": row["target"],
        **{name: row[name] for name in ("recipe", "program", "precision")},
        "compile, s": row.get("failed", row.get("seconds")),
        "temporary, MB": scaled("temporary", 1e-6),
        "MB moved": scaled("bytes", 1e-6),
        "estimate, ms": scaled("estimate", 1e3),
        "roofline, ms": scaled("roofline", 1e3),
        **{name: row.get(name) for name in ("operations", "scalars")},
        "exchanged, MB": ", ".join(exchanged),
    }


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES)
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=["train"])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=[""])
    parser.add_argument("--cases", type=json.loads, help="JSON list of cases, each a list")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--text", type=Path, metavar="DIR", help="for the compiled programs")
    return parser.parse_args()


def main() -> None:
    """Compiles the cases, prints a table, and writes it as JSON."""
    args = parse_arguments()
    found = [Case(*case) for case in args.cases] if args.cases else cases(args)
    packages = ("jax", "jaxlib", "libtpu", "jax-cuda13-plugin")
    installed = {each.name: each.version for each in importlib.metadata.distributions()}
    versions = {name: installed[name] for name in packages if name in installed}
    report: dict[str, Any] = {"machine": describe(), "versions": versions, "rows": []}
    for number, case in enumerate(found, start=1):
        print(f"{number}/{len(found)} {' '.join(map(str, case))}", file=sys.stderr, flush=True)
        report["rows"].append(look(case, args.text))
        jax.clear_caches()
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print_table(map(columns, report["rows"]))
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    print(f"\nThe compilers' programs and estimates, not measured. {listed}.")
    print(headline(report["machine"]))


if __name__ == "__main__":
    main()
