"""How the fast recipe was chosen: accuracy on validation images, beside the time of training.

    python benchmarks/tune_fast.py [--seeds 5]

The validation images are the recipe's own 5,000. No candidate sees a test image: where `train`
would read them, it is given one training image instead.
"""

import argparse
import dataclasses
import statistics
import tempfile

from machine import describe, headline

from mnist_jax import Config, train
from mnist_jax.cli.compilation_cache import use_compilation_cache
from mnist_jax.config import DataConfig, ModelConfig, OptimizerConfig

FIELDS = ("filters", "kernel", "hidden", "dropout", "rate", "b1", "b2", "batch", "epochs")
CANDIDATES = [
    (8, 5, 128, 0.0, 0.01, 0.7, 0.9, 192, 2),  # the recipe; the others change a field or a few
    (8, 5, 128, 0.0, 0.01, 0.7, 0.9, 128, 2),
    (8, 5, 128, 0.0, 0.01, 0.7, 0.9, 256, 2),
    (8, 5, 128, 0.0, 0.015, 0.7, 0.9, 192, 2),
    (8, 5, 64, 0.0, 0.01, 0.7, 0.9, 128, 2),
    (6, 5, 128, 0.0, 0.01, 0.7, 0.9, 192, 2),
    (10, 5, 64, 0.0, 0.01, 0.7, 0.9, 128, 2),
    (12, 5, 128, 0.0, 0.01, 0.7, 0.9, 128, 2),
    (12, 5, 128, 0.0, 0.015, 0.7, 0.9, 192, 1),
    (16, 5, 128, 0.0, 0.01, 0.7, 0.9, 128, 1),
]


def config_of(candidate: tuple) -> Config:
    """Returns the recipe of a candidate."""
    filters, kernel, hidden, dropout, rate, b1, b2, batch, epochs = candidate
    return Config(
        epochs=epochs,
        batch_size=batch,
        data=DataConfig(test_split="train[:1]", validation_fraction=1 / 12),
        model=ModelConfig(
            features=filters, depth=2, kernel_size=kernel, hidden_size=hidden, dropout_rate=dropout
        ),
        optimizer=OptimizerConfig(learning_rate=rate, schedule="one_cycle", b1=b1, b2=b2),
    )


def main() -> None:
    """Trains the candidates in turn, seed after seed, and prints a row each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    use_compilation_cache()
    results = {candidate: [] for candidate in CANDIDATES}
    for seed in seeds:
        for candidate, found in results.items():
            with tempfile.TemporaryDirectory() as directory:
                config = dataclasses.replace(config_of(candidate), seed=seed)
                found.append(train(config, directory).result)
    print("\n| " + " | ".join(FIELDS) + " | validation, % | training, s |")
    print("|---" * (len(FIELDS) + 2) + "|")
    for candidate, found in results.items():
        accuracies = [100 * result["val_accuracy"] for result in found]
        seconds = statistics.median(result["seconds"]["train"] for result in found)
        print(
            f"| {' | '.join(map(str, candidate))} | {statistics.mean(accuracies):.2f} "
            f"({min(accuracies):.2f} to {max(accuracies):.2f}) | {seconds:.1f} |"
        )
    print(f"\nMeans of {len(seeds)} seeds, median times. {headline(describe())}")


if __name__ == "__main__":
    main()
