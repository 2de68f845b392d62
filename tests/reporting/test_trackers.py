"""The listeners for trackers in docs/look_at_it.md, where the trackers are installed."""

import re
import signal
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, TINY, at_chunk
from scripted import LESSON, scripted

import mnist_jax
from mnist_jax.processes.signals import Stopped
from mnist_jax.workdir.files import read_json
from mnist_jax.workdir.history import read_history

PAGE = (ROOT / "docs" / "look_at_it.md").read_text(encoding="utf-8")
SNIPPETS = {
    re.findall(r"^import (\w+)$", text, re.MULTILINE)[-1]: text
    for text in re.findall(r"^```py\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
}


def tracked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains TINY in runs/tracked with a snippet, then a run stopped by a signal."""
    monkeypatch.setattr(mnist_jax, "Config", lambda: TINY)
    names: dict[str, Any] = {}
    exec(SNIPPETS[name], names)
    stop = at_chunk(4, lambda: signal.raise_signal(signal.SIGTERM))
    with scripted(), pytest.raises(Stopped):
        mnist_jax.train(LESSON, "runs/stopped", listeners=[names[f"to_{name}"], stop])


def test_a_listener_for_a_tracker_takes_at_most_ten_lines():
    assert {*SNIPPETS} == {"mlflow", "wandb"}
    for name, text in SNIPPETS.items():
        (function,) = re.findall(r"^def .*?(?=\n\n\n)", text, re.MULTILINE | re.DOTALL)
        assert len(function.splitlines()) <= 10, name


def test_mlflow_gets_every_epoch_the_test_and_how_a_run_ended(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/tracker")
    mlflow: Any = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    tracked("mlflow", monkeypatch)
    client = mlflow.MlflowClient()
    stopped, written = client.search_runs(["0"])
    assert (stopped.info.status, written.info.status) == ("FAILED", "FINISHED")
    history: Any = read_history(Path("runs/tracked"))
    assert written.data.params["batch_size"] == "64"
    tested = read_json(Path("runs/tracked/result.json"))["test_accuracy"]
    assert written.data.metrics["test_accuracy"] == tested
    for name in ("train_loss", "val_accuracy", "gradient_norm"):
        found = [(m.step, m.value) for m in client.get_metric_history(written.info.run_id, name)]
        assert found == [(row["step"], row[name]) for row in history]


def test_wandb_gets_every_epoch_and_how_a_run_ended(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    tracked("wandb", monkeypatch)
    files = tmp_path.glob("wandb/offline-run-*/*.wandb")
    by_time = sorted(files, key=lambda file: file.stat().st_mtime)
    finished, stopped = [file.read_bytes() for file in by_time]
    assert b"test_accuracy" not in stopped
    assert all(name in finished for name in (b"val_accuracy", b"gradient_norm", b"test_accuracy"))
