"""Computes the cost of summing the gradients beside a step; nothing is measured.

    python benchmarks/communication.py

A step's arithmetic is `summary.step_flops`, at the chip's peak in bfloat16. The gradients are
float32. Their sum is a reduce-scatter and an all-gather in rings: every chip sends 2 (n - 1) / n of
their bytes, with one latency per hop. A torus has a ring along each axis, with 2 (sides - 1) hops;
behind a switch a tree has 2 log2(n). Nothing overlaps. These are worst cases, since the steps of a
small network stay far below the peak.

Sources:
    TPU v5e, 197 TFLOP/s and 400 GB/s both ways, 256 chips per pod, two 100 Gbit/s cards per host of
    8 chips: https://docs.cloud.google.com/tpu/docs/v5e
    TPU v5p, 459 TFLOP/s and 1,200 GB/s both ways: https://docs.cloud.google.com/tpu/docs/v5p
    H200, 989 TFLOP/s dense and 900 GB/s both ways: https://www.nvidia.com/en-us/data-center/h200/
    InfiniBand, a 400 Gbit/s card per GPU: https://docs.nvidia.com/dgx/dgxh100-user-guide/
    Rings, and a microsecond per hop of a TPU: https://jax-ml.github.io/scaling-book/sharding/
The other latencies are assumed.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from markdown_table import print_table

from mnist_jax.config import load_config
from mnist_jax.models import create_model
from mnist_jax.reporting.summary import step_flops, summarize

CHIPS, BATCH = (8, 256, 4096), 128
RECIPES = Path(__file__).parent.parent / "configs"
IMAGE = (28, 28, 1)


def torus(axes: int) -> Callable[[int], float]:
    """Returns a function from n chips to the hops of a sum in a torus with equal sides."""
    return lambda n: 2 * axes * (n ** (1 / axes) - 1)


def tree(n: int) -> float:
    """Returns the hops of a sum over n chips behind a switch."""
    return 2 * math.log2(n)


class Link(NamedTuple):
    """A kind of chip and its interconnect."""

    name: str
    peak: float  # FLOP/s of a chip in bfloat16
    bandwidth: float  # bytes per second out of a chip, one way
    latency: float  # seconds per hop
    hops: Callable[[int], float]  # of a sum over n chips
    largest: int  # number of chips


LINKS = [
    Link("TPU v5e, ICI", 197e12, 200e9, 1e-6, torus(2), 256),
    Link("TPU v5p, ICI", 459e12, 600e9, 1e-6, torus(3), 4096),
    Link("H200, NVLink", 989e12, 450e9, 2e-6, tree, 8),
    Link("H200, InfiniBand 400 Gbit/s", 989e12, 50e9, 5e-6, tree, 4096),
    Link("TPU v5e, Ethernet 25 Gbit/s per chip", 197e12, 25e9 / 8, 20e-6, tree, 4096),
]


def all_reduce_seconds(size: float, chips: int, link: Link) -> float:
    """Returns the seconds of an all-reduce of `size` bytes over chips."""
    return 2 * (chips - 1) / chips * size / link.bandwidth + link.hops(chips) * link.latency


def main() -> None:
    """Prints a table for each of two networks."""
    for recipe in ("default", "resnet"):
        model = create_model(num_classes=10, **vars(load_config(RECIPES / f"{recipe}.py").model))
        parameters = sum(layer.params for layer in summarize(model, IMAGE))
        flops = step_flops(model, IMAGE, BATCH)
        size, rows = 4 * parameters, []
        print(f"\nconfigs/{recipe}.py: {parameters:,} parameters, {size / 1e6:.2f} MB of")
        print(f"gradients; {flops / 1e6:,.0f} MFLOP for a step of {BATCH} images per chip\n")
        for link in LINKS:
            compute = flops / link.peak
            for chips in (n for n in CHIPS if n <= link.largest):
                seconds = all_reduce_seconds(size, chips, link)
                rows.append(
                    {
                        "chips": chips,
                        "link": link.name,
                        "arithmetic, µs": 1e6 * compute,
                        "sum, µs": 1e6 * seconds,
                        "share of the sum": f"{seconds / (seconds + compute):.0%}",
                        "images per chip": BATCH * seconds / compute,
                    }
                )
        print_table(rows)
    print("\nLast column: images per chip above which the arithmetic takes longer than the sum.")


if __name__ == "__main__":
    main()
