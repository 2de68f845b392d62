"""The evaluation of a trained network or an ensemble."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mnist_jax.config import config_differences
from mnist_jax.loader import eval_chunks, place_splits
from mnist_jax.metrics import check_functions, mean_metrics
from mnist_jax.parts import OwnMetrics, OwnModel, Parts, own_sha256
from mnist_jax.processes.distributed import check_alike
from mnist_jax.program import eval_options
from mnist_jax.sharding import create_mesh, replicated, split_batch
from mnist_jax.steps import LossFn, run_ensemble_steps, run_eval_steps
from mnist_jax.workdir.origin import check_own, is_here
from mnist_jax.workdir.trained import load_trained, own_splits


def evaluate(
    workdir: str | Path | Sequence[str | Path],
    split: str = "test",
    step: int | str = "latest",
    *,
    model: OwnModel = None,
    loss_fn: LossFn | None = None,
    splits: Any = None,
    metrics: OwnMetrics = None,
) -> dict[str, Any]:
    """Computes loss and accuracy over a split of the run's own dataset.

    Args:
        workdir: directory written by `train`, or several for an ensemble (mean of probabilities).
        split: "test", "validation" or "train" (the examples trained on).
        step: saved step, "latest", or "best" by `watch.monitor`; the same for each network.
        model: the networks' own module, as in `train`.
        loss_fn: their own loss, as in `train`.
        splits: their own data, as in `train`.
        metrics: any metrics, as in `train`.

    Returns:
        `loss` (mean per example; cross-entropy in nats), `accuracy` (in [0, 1]), the metrics,
        `count` (examples), `split` and `step` (a list for an ensemble).

    Raises:
        FileNotFoundError: there is no trained network in `workdir`.
        ValueError: a step or the split does not exist, a network is unreadable, or an ensemble was
            trained on different data.
    """
    check_functions(loss_fn, metrics)
    check_alike("options", [workdir, split, step])
    workdirs = [workdir] if isinstance(workdir, str | Path) else list(workdir)
    if not workdirs:
        raise ValueError("workdir must be a directory, or several, got none")
    mesh = create_mesh()
    own: Any = {"model": model, "splits": splits, "one_of_several": len(workdirs) > 1}
    trained = [load_trained(path, step, **own) for path in workdirs]
    parts, config = Parts(loss_fn=loss_fn), trained[0].config
    sources = [
        {**vars(network.config.data), "loader": None, "sha256": network.origin.data_sha256}
        for network in trained
    ]
    for path, network, source in zip(workdirs, trained, sources, strict=True):
        if differences := config_differences(sources[0], source):
            raise ValueError(
                f"{path} was trained on other data than {workdirs[0]} ({'; '.join(differences)})"
            )
        saved = {name: sha256 for name, sha256 in network.origin.own.items() if name == "loss_fn"}
        given = own_sha256(parts, network.model, network.info)
        check_own(saved, given, Path(path), compare=is_here(network.origin))
    data, _ = own_splits(trained[0])
    if split not in data:
        raise ValueError(f"split must be one of {', '.join(data)}, got {split!r}")
    images, labels = place_splits({split: data[split]}, replicated(mesh))[split]
    chunks = eval_chunks(images, labels, batch_size=config.batch_size, sharding=split_batch(mesh))
    variables = tuple(network.variables for network in trained)
    apply_fns = tuple(network.apply_fn for network in trained)
    options = eval_options({"loss_fn": loss_fn, "metrics": metrics})
    if len(trained) == 1:
        sums = [run_eval_steps(variables[0], apply_fns[0], chunk, **options) for chunk in chunks]
        steps: Any = trained[0].step
    else:
        sums = [run_ensemble_steps(variables, apply_fns, chunk, **options) for chunk in chunks]
        steps = [network.step for network in trained]
    return {**mean_metrics(sums), "count": len(labels), "split": split, "step": steps}
