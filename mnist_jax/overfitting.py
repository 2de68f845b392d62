"""What is done where validation no longer gets better: pure functions of the history.

A run that was stopped and continued has the same history, and so does the same.
"""

from typing import Any

from mnist_jax.history import best_row


def stops_early(history: list[dict[str, Any]], patience: int) -> bool:
    """Tells whether `patience` epochs have passed since the best one; 0: never.

    The best is `history.best_row`: of epochs with equal validation accuracy the newest.

    References:
        L. Prechelt, "Early Stopping - But When?", 1998.
    """
    return bool(patience and history) and (
        history[-1]["epoch"] - best_row(history)["epoch"] >= patience
    )


def rate_scale(history: list[dict[str, Any]], patience: int, factor: float) -> float:
    """Returns what the learning rate is multiplied with after these epochs.

    Args:
        history: a row an epoch.
        patience: epochs in a row without a lower validation loss, after which the rate falls, and
            the count begins anew; 0: never.
        factor: what it is multiplied with each time.
    """
    scale, lowest, waited = 1.0, float("inf"), 0
    for row in history if patience else []:
        waited = 0 if row["val_loss"] < lowest else waited + 1
        lowest = min(lowest, row["val_loss"])
        if waited == patience:
            scale, waited = scale * factor, 0
    return scale
