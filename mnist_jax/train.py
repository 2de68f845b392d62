"""Trains a network: the one place where data, state, steps, checkpoints and history meet."""

import dataclasses
import functools
import importlib.metadata
import math
import platform
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.training.train_state import TrainState
from jax.sharding import NamedSharding
from tqdm import tqdm

from mnist_jax import clock, rng
from mnist_jax.checkpoint import open_checkpoints, restore_params, restore_state, save_state
from mnist_jax.config import Config
from mnist_jax.datasets import Split, load_splits
from mnist_jax.hashing import tree_sha256
from mnist_jax.history import write_history, write_json
from mnist_jax.loader import epoch_order, eval_chunks, steps_per_epoch, train_chunks
from mnist_jax.metrics import mean_metrics
from mnist_jax.model import create_model
from mnist_jax.optimizer import create_optimizer
from mnist_jax.sharding import create_mesh, replicated, split_batch
from mnist_jax.state import create_train_state
from mnist_jax.steps import run_eval_steps, run_steps
from mnist_jax.workdir import delete_run, previous_result

IMPORT_SECONDS = time.perf_counter() - clock.START
PHASES = ("import", "data", "compile", "train", "eval", "checkpoint", "total")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


class Run(NamedTuple):
    """A finished training: its last state, a row an epoch, and what result.json holds.

    `result["seconds"]` are those of the process that finished the run. "import" is what it needed
    before its first run, "eval" is validation and test, "checkpoint" is what training waited for.
    """

    state: TrainState
    history: list[dict[str, Any]]
    result: dict[str, Any]


def train(config: Config, workdir: str | Path, *, overwrite: bool = False) -> Run:
    """Trains a network, or continues the unfinished run in `workdir`; prints a line an epoch.

    On a CPU the same config gives the same bits on the same machine and versions, whether the run
    was interrupted or not. The test split is used once, at the end.

    Args:
        config: the recipe.
        workdir: a directory for the results, made where there is none. It receives config.json,
            metrics.jsonl, result.json and checkpoints/.
        overwrite: deletes a run that is in `workdir` and starts anew. Nothing is deleted before the
            new run is known to compile.

    Raises:
        ValueError: `workdir` holds a run with another config, or one that cannot be read; or the
            dataset cannot be had or does not fit the config.
        NotADirectoryError: `workdir` is a file.
        FloatingPointError: the loss is not finite any more. The last checkpoint is from before.
    """
    workdir = Path(workdir)
    watch = clock.Stopwatch(PHASES)
    watch.seconds["import"] = IMPORT_SECONDS
    started = time.perf_counter() - IMPORT_SECONDS

    result = previous_result(workdir, config, overwrite)
    mesh = create_mesh()
    model = create_model(**vars(config.model))
    if result:
        tx = create_optimizer(**vars(config.optimizer), num_steps=result["steps"])
        run = _complete_run(workdir, model, tx, result, replicated(mesh))
        print(
            f"{workdir} is complete: test accuracy {result['test_accuracy']:.2%}. "
            "--overwrite trains anew, another --workdir beside it."
        )
        return run

    with watch.phase("data"):
        splits = load_splits(**vars(config.data))
        _check_labels(splits, config.model.num_classes)
        data_sha256 = tree_sha256({name: split._asdict() for name, split in splits.items()})
        data = jax.block_until_ready(jax.device_put(splits, replicated(mesh)))
        num_examples, *image_shape = splits["train"].images.shape
        num_steps = steps_per_epoch(num_examples, config.batch_size)
        tx = create_optimizer(**vars(config.optimizer), num_steps=config.epochs * num_steps)

    # Compiling comes before the first write: what does not fit leaves the workdir as it was.
    with watch.phase("compile"):
        init_rng, shuffle_rng, dropout_rng = jax.device_put(
            [rng.stream(config.seed, role) for role in ("init", "shuffle", "dropout")],
            replicated(mesh),
        )
        state = create_train_state(model, tx, init_rng, tuple(image_shape))
        state = jax.device_put(state, replicated(mesh))

        layout = {"batch_size": config.batch_size, "sharding": split_batch(mesh)}
        chunks_of = functools.partial(
            train_chunks, *data["train"], chunk_steps=config.chunk_steps, **layout
        )
        order = epoch_order(shuffle_rng, 0, num_examples)
        by_size = {len(chunk["label"]): chunk for chunk in chunks_of(order)}  # one or two
        run_chunk = {
            size: run_steps.lower(state, chunk, dropout_rng).compile()
            for size, chunk in by_size.items()
        }
        validation = list(eval_chunks(*data["validation"], **layout))
        run_eval_chunk = run_eval_steps.lower(state.params, state.apply_fn, validation[0]).compile()

    if overwrite:
        delete_run(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / "config.json", dataclasses.asdict(config))

    with open_checkpoints(workdir / "checkpoints") as checkpoints:
        with watch.phase("checkpoint"):
            state, history = restore_state(checkpoints, state, replicated(mesh))
            write_history(workdir, history)  # without what was written after the checkpoint
        first_epoch = int(state.step) // num_steps
        if first_epoch:
            print(f"continuing after epoch {first_epoch} of {config.epochs}")

        with tqdm(
            total=config.epochs * num_steps,
            initial=int(state.step),
            desc="training",
            unit="step",
            leave=False,
            disable=None,
        ) as bar:
            for epoch in range(first_epoch, config.epochs):
                epoch_started = time.perf_counter()
                with watch.phase("train"):
                    sums = []
                    for chunk in chunks_of(epoch_order(shuffle_rng, epoch, num_examples)):
                        size = len(chunk["label"])
                        state, chunk_sums = run_chunk[size](state, chunk, dropout_rng)
                        # Waits for the chunk before: the device always has one to go on with.
                        jax.block_until_ready(sums[-1:])
                        sums.append(chunk_sums)
                        bar.update(size)
                    trained = mean_metrics(sums)
                with watch.phase("eval"):
                    val = mean_metrics(run_eval_chunk(state.params, chunk) for chunk in validation)
                # The training losses are from before each update, the validation loss is from after
                # the last: with both, what is saved is finite.
                if not math.isfinite(trained["loss"] + val["loss"]):
                    raise FloatingPointError(
                        f"training diverged in epoch {epoch + 1}: training loss {trained['loss']}, "
                        f"validation loss {val['loss']}; try a smaller optimizer.learning_rate"
                    )
                seconds = time.perf_counter() - epoch_started
                history.append(
                    {
                        "epoch": epoch + 1,
                        "step": int(state.step),
                        "train_loss": trained["loss"],
                        "train_accuracy": trained["accuracy"],
                        "val_loss": val["loss"],
                        "val_accuracy": val["accuracy"],
                        "seconds": seconds,
                        "examples_per_second": num_examples / seconds,
                    }
                )
                bar.write(_epoch_line(history[-1], config.epochs))
                with watch.phase("checkpoint"):
                    write_history(workdir, history)
                    due = (epoch + 1) % config.checkpoint.every_epochs == 0
                    if due or epoch + 1 == config.epochs:
                        save_state(checkpoints, state, history)

        with watch.phase("eval"):
            test_chunks = eval_chunks(*data["test"], **layout)
            test = mean_metrics(run_eval_chunk(state.params, chunk) for chunk in test_chunks)
        with watch.phase("checkpoint"):
            checkpoints.wait_until_finished()
            best_step = checkpoints.best_step()

    watch.seconds["total"] = time.perf_counter() - started
    result = {
        "test_loss": test["loss"],
        "test_accuracy": test["accuracy"],
        "val_accuracy": history[-1]["val_accuracy"],
        "best_step": best_step,
        "steps": int(state.step),
        "params_sha256": tree_sha256(state.params),
        "data_sha256": data_sha256,
        "seconds": watch.seconds,
        "platform": jax.default_backend(),
        "device_count": jax.device_count(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    write_json(workdir / "result.json", result)
    print(
        f"test loss {test['loss']:.4f}  accuracy {test['accuracy']:.2%} of "
        f"{len(splits['test'].labels):,} images  ({watch.seconds['total']:.1f} s; see {workdir})"
    )
    return Run(state, history, result)


def _complete_run(
    workdir: Path,
    model: nn.Module,
    tx: optax.GradientTransformation,
    result: dict[str, Any],
    sharding: NamedSharding,
) -> Run:
    """Loads a run that has its result; neither data nor compilation is needed."""
    with open_checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        _, params = restore_params(checkpoints, result["steps"], sharding)
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            apply_fn=model.apply,
            params=params,
            tx=tx,
            opt_state=jax.eval_shape(tx.init, params),
        )
        return Run(*restore_state(checkpoints, state, sharding), result)


def _check_labels(splits: dict[str, Split], num_classes: int) -> None:
    for name, split in splits.items():
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0:
            raise ValueError(
                f"a {name} label is {low}; labels must be 0 or more (is it unlabelled?)"
            )
        if high >= num_classes:
            raise ValueError(
                f"the {name} labels are {low} to {high}, but model.num_classes is {num_classes}: "
                f"set it to {high + 1}"
            )


def _epoch_line(row: dict[str, Any], epochs: int) -> str:
    width = int(math.log10(epochs)) + 1
    return (
        f"epoch {row['epoch']:{width}}/{epochs}  "
        f"train loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:.2%}  "
        f"validation loss {row['val_loss']:.4f} accuracy {row['val_accuracy']:.2%}  "
        f"{row['seconds']:.1f} s, {row['examples_per_second']:,.0f} images/s"
    )
