"""Measures the recipes, a population and a step's floor on the accelerator that JAX uses.

    python benchmarks/accelerator.py [--sections NAME ...] [--json FILE] [--profile DIR]
    python benchmarks/accelerator.py --quick

The goals are for one GPU of the H200 class: 99 % within 0.1 s of training, and a population that
trains 50 networks to 99 % per second. Whole trainings alternate, so other load affects all of them.
`--quick` tries the same code in about a minute, also on a CPU; its figures mean nothing.
"""

import argparse
import dataclasses
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from machine import best_seconds, copy_bandwidth, describe, device, headline, matmul_rates
from markdown_table import print_table
from programs import Training, compile_members, compile_training, step_cost

from mnist_jax import Config
from mnist_jax.config import LARGEST, load_config, replace_fields
from mnist_jax.machine.accelerator import missing_accelerator
from mnist_jax.steps import PRECISIONS
from mnist_jax.workdir.hashing import network_sha256

RECIPES = {"reference": "default", "fast": "fast", "accurate": "accurate"}
# Makes runs on an NVIDIA GPU repeat their bits, but fails for the gradient of XLA's max-pooling:
# https://openxla.org/xla/determinism
SAME_BITS = "--xla_gpu_deterministic_ops=true"
GOALS = {"seconds_to_99": 0.1, "networks_per_second": 50}
# Type of the matrices, and `precision` of the product.
PRODUCTS = {
    "float32": ("float32", "highest"),
    "tensorfloat32": ("float32", "tensorfloat32"),
    "bfloat16": ("bfloat16", None),
    "default": ("float32", None),
}

Rows = list[dict[str, Any]]


def main() -> None:
    """Measures the sections, prints each as a table, and writes them as JSON."""
    args = parse_arguments()
    if args.child:
        print(json.dumps(bits_and_seconds(replace_fields(recipe("reference", args), args.child))))
        return
    if jax.default_backend() == "cpu" and not args.quick:
        why = missing_accelerator() or f"JAX {jax.__version__} finds no accelerator"
        sys.exit(
            f"nothing is measured: {why}. --quick tries the same code on the CPU; "
            "`make benchmark` measures a CPU"
        )
    report: dict[str, Any] = {"device": device(), "machine": describe(), "goals": GOALS}
    about = report["device"]
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    print(f"{about['count']} x {about['kind']} ({about['platform']}), {about['driver']}.")
    print(f"{packages}. {headline(report['machine'])}")
    for name in args.sections:
        try:
            report[name] = SECTIONS[name](args)
        except jax.errors.JaxRuntimeError as error:
            report[name] = [{"failed": brief(error)}]
        print(f"\n## {name}\n")
        print_table(report[name])
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(report, indent=2) + "\n")
    if args.profile:
        for name in args.recipes:
            profile(recipe(name, args), args.profile / name)


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, also on a CPU")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, help="default: all")
    parser.add_argument("--members", nargs="+", type=int, metavar="N", help="of the populations")
    parser.add_argument("--rounds", type=int, metavar="N", help="timed, after a first one")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument(
        "--profile", type=Path, metavar="DIR", help="a trace of one chunk per recipe"
    )
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.recipes = args.recipes or (["fast"] if args.quick else list(RECIPES))
    args.rounds = args.rounds or (1 if args.quick else 5)
    args.members = args.members or ((1, 2) if args.quick else (1, 8, 32, 128))
    return args


def recipe(name: str, args: argparse.Namespace) -> Config:
    """Loads a recipe of `RECIPES`, smaller with --quick."""
    config = load_config(str(Path(__file__).parents[1] / "configs" / f"{RECIPES[name]}.py"))
    if not args.quick:
        return config
    few = {"data.train_split": "train[:1280]", "data.test_split": "test[:500]"}
    return replace_fields(config, few | {"epochs": 1, "chunk_steps": 100})


def variants(config: Config, args: argparse.Namespace) -> list[Config]:
    """Returns a recipe, and unless quick those with another precision or lowering."""
    others = [{"precision": value} for value in PRECISIONS if value != config.precision]
    changes = [] if args.quick else [*others, {"model.lowering": "xla"}]
    return [config, *(replace_fields(config, change) for change in changes)]


def labels(name: str, config: Config) -> dict[str, str]:
    """Returns the first cells of a variant's row."""
    return {"recipe": name, "precision": config.precision, "lowering": config.model.lowering}


@functools.cache
def best_rates(quick: bool) -> dict[str, float]:
    """Measures FLOP/s by precision, "memory" in bytes/s and "call" in seconds."""
    sizes = (256,) if quick else (2048, 4096, 8192)
    found = {
        name: max(matmul_rates(sizes, dtype=dtype, precision=level).values())
        for name, (dtype, level) in PRODUCTS.items()
    }
    found["memory"] = copy_bandwidth(2**22 if quick else 2**30)
    nothing, one = jax.jit(lambda x: x + 1), jax.numpy.zeros(())
    return found | {"call": best_seconds(lambda: nothing(one), 100)}


def measure_rates(args: argparse.Namespace) -> Rows:
    """Measures the rates that determine the floors."""
    found = best_rates(args.quick)
    rates = {f"matrix products, {name}, TFLOP/s": found[name] / 1e12 for name in PRODUCTS}
    rates["memory, read and written, GB/s"] = found["memory"] / 1e9
    rates["a call and its answer, µs"] = 1e6 * found["call"]
    return [{"rate": name, "value": value} for name, value in rates.items()]


def measure_recipes(args: argparse.Namespace) -> Rows:
    """Times whole trainings without validation."""
    found = {name: variants(recipe(name, args), args) for name in args.recipes}
    runs = [
        (name, config, Training(compile_training(config)))
        for name, configs in found.items()
        for config in configs
    ]
    seconds = rounds(args, [(run, config.epochs * run.num_steps) for _, config, run in runs])
    rows = []
    for (name, config, run), (first, *later) in zip(runs, seconds, strict=True):
        steps = config.epochs * run.num_steps
        middle = statistics.median(later)
        test = run.compiled.program.measure(run.state, "test")["accuracy"]
        rows.append(
            {
                **labels(name, config),
                "compile, s": run.compiled.seconds,
                "first training, s": first,
                "training, s": later,
                "an epoch, s": middle / config.epochs,
                "images/s": round(steps * config.batch_size / middle),
                "test accuracy, %": 100 * test,
                "99 % within 0.1 s": "yes" if test >= 0.99 and middle <= 0.1 else "no",
            }
        )
    return rows


def measure_steps(args: argparse.Namespace) -> Rows:
    """Times a step beside its floor by arithmetic and memory traffic."""
    best = best_rates(args.quick)
    rows = []
    for name in args.recipes:
        for config in variants(recipe(name, args), args):
            compiled = compile_training(config)
            cost, run = step_cost(compiled), Training(compiled)
            [(_, *later)] = rounds(args, [(run, run.num_steps)])
            arithmetic = 1e3 * cost["flops_needed"] / best[config.precision]
            memory = 1e3 * cost["bytes"] / best["memory"]
            step = 1e3 * statistics.median(later) / run.num_steps
            rows.append(
                {
                    **labels(name, config),
                    "MFLOP needed": cost["flops_needed"] / 1e6,
                    "MFLOP compiled": cost["flops"] / 1e6,
                    "MB": cost["bytes"] / 1e6,
                    "kernels": cost["kernels"],
                    "arithmetic, ms": arithmetic,
                    "memory, ms": memory,
                    "XLA's estimate, ms": cost["estimate"] and 1e3 * cost["estimate"],
                    "a step, ms": step,
                    "times the floor": step / max(arithmetic, memory),
                }
            )
    return rows


def measure_chunks(args: argparse.Namespace) -> Rows:
    """Times steps in calls of different lengths."""
    runs = []
    for name in args.recipes:
        own = recipe(name, args).chunk_steps
        for length in (1, own) if args.quick else (1, 10, own, LARGEST):
            config = dataclasses.replace(recipe(name, args), chunk_steps=length)
            runs.append((name, length, Training(compile_training(config))))
    seconds = rounds(args, [(run, run.num_steps) for _, _, run in runs])
    return [
        {
            "recipe": name,
            "steps in a call": min(length, run.num_steps),
            "compile, s": run.compiled.seconds,
            "a step, ms": [1e3 * value / run.num_steps for value in later],
        }
        for (name, length, run), (_, *later) in zip(runs, seconds, strict=True)
    ]


def measure_population(args: argparse.Namespace) -> Rows:
    """Times populations of the fast recipe."""
    rows: Rows = []
    for config in variants(recipe("fast", args), args):
        for members in args.members:
            row: dict[str, Any] = {"members": members, **labels("fast", config)}
            rows.append(row)
            run = None  # frees the memory of the previous one
            try:
                run = Training(compile_members(config, members), members)
                steps = config.epochs * run.num_steps
                [(first, *later)] = rounds(args, [(run, steps)])
                tests = run.compiled.program.measure(run.state, "test")
            except jax.errors.JaxRuntimeError as error:  # out of memory
                row["training, s"] = brief(error)
                continue
            middle = statistics.median(later)
            reached = sum(test["accuracy"] >= 0.99 for test in tests)
            row |= {
                "compile, s": run.compiled.seconds,
                "first training, s": first,
                "training, s": later,
                "networks/s": members / middle,
                "reach 99 %": f"{reached} of {members}",
                "networks to 99 %/s": reached / middle,
            }
    return rows


def measure_same_bits(args: argparse.Namespace) -> Rows:
    """Times epochs without and with the flag for reproducible bits, in separate processes."""
    if jax.default_backend() == "tpu":
        return [{"flag": "not on a TPU"}]
    asked = [("xla", ""), ("xla", SAME_BITS), ("auto", ""), ("auto", SAME_BITS)]
    rows = []
    for lowering, flag in asked[-1:] if args.quick else asked:
        row: dict[str, Any] = {"lowering": lowering, "flag": flag or "none"}
        answers = [run_child({"model.lowering": lowering}, flag, args) for _ in range(2)]
        rows.append(row)
        if errors := [answer for answer in answers if isinstance(answer, str)]:
            row["an epoch, s"] = errors[0]
            continue
        row["an epoch, s"] = [s for answer in answers for s in answer["seconds"]]
        row["same bits twice"] = "yes" if len({a["params_sha256"] for a in answers}) == 1 else "no"
    return rows


def run_child(fields: dict[str, Any], flag: str, args: argparse.Namespace) -> dict[str, Any] | str:
    """Trains in another process; returns its result or the last line of its error."""
    env = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip(),
        # This process has reserved most of the memory; a cache would select the same kernels.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
    }
    child = ["--child", json.dumps(fields), *(["--quick"] if args.quick else [])]
    done = subprocess.run(
        [sys.executable, __file__, *child], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return (done.stderr.strip() or "no message").splitlines()[-1][:80]
    return json.loads(done.stdout.splitlines()[-1])


def bits_and_seconds(config: Config) -> dict[str, Any]:
    """Trains an epoch four times; returns the later seconds, and the last hash."""
    run = Training(compile_training(config))
    seconds = [run.run(run.num_steps) for _ in range(4)]
    return {
        "seconds": seconds[1:],
        "params_sha256": network_sha256(jax.device_get(run.state.eval_variables)),
    }


def rounds(args: argparse.Namespace, runs: Sequence[tuple[Training, int]]) -> list[list[float]]:
    """Alternates trainings; returns the seconds of each, with the first round."""
    found = [[run.run(steps) for run, steps in runs] for _ in range(args.rounds + 1)]
    return [list(column) for column in zip(*found, strict=True)]


def brief(error: Exception) -> str:
    """Shortens an error message for a table."""
    return str(error).partition("\n")[0][:80].replace("|", "/")


def profile(config: Config, directory: Path) -> None:
    """Writes a trace of one chunk, for XProf or Perfetto."""
    run = Training(compile_training(config))
    steps = min(config.chunk_steps, run.num_steps)
    run.run(steps)
    started = time.perf_counter()
    with jax.profiler.trace(directory):
        run.run(steps)
    print(f"{directory}: {steps} steps, {time.perf_counter() - started:.1f} s", file=sys.stderr)


SECTIONS = {
    "rates": measure_rates,
    "same bits": measure_same_bits,
    "recipes": measure_recipes,
    "steps": measure_steps,
    "chunks": measure_chunks,
    "population": measure_population,
}

if __name__ == "__main__":
    main()
