import json
import shutil
from typing import Any

import pytest
from helpers import times

from mnist_jax.cli.main import main
from mnist_jax.events import Epoch
from mnist_jax.laboratory.verify import verify


def test_a_run_agrees_with_itself_and_is_left_alone(small_run, capsys):
    workdir, _ = small_run
    before = times(workdir)
    assert main(["verify", "--workdir", str(workdir)]) == 0
    assert capsys.readouterr().out == "the bits agree\n"
    assert before == times(workdir)
    heard: list[Any] = []
    assert verify(workdir, listeners=[heard.append]) == []
    assert [event.row["epoch"] for event in heard if isinstance(event, Epoch)] == [1, 2]


def test_verify_names_what_differs(small_run, tmp_path, capsys):
    workdir = shutil.copytree(small_run[0], tmp_path / "run")
    result = json.loads((workdir / "result.json").read_text(encoding="utf-8"))
    (workdir / "result.json").write_text(
        json.dumps(result | {"params_sha256": "0" * 64}), encoding="utf-8"
    )
    rows = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    first = json.loads(rows[0])
    rows[0] = json.dumps(first | {"train_loss": 2.5})
    (workdir / "metrics.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    assert main(["verify", "--workdir", str(workdir)]) == 4
    lines = capsys.readouterr().out.splitlines()
    assert lines.pop() == "the bits differ"
    assert lines == [
        f"in {workdir} params_sha256 is '{'0' * 64}', not '{result['params_sha256']}'",
        f"in {workdir} epoch 1.train_loss is 2.5, not {first['train_loss']}",
    ]


@pytest.mark.slow
def test_a_different_environment_causes_a_warning_but_no_difference(small_run, tmp_path):
    workdir = shutil.copytree(small_run[0], tmp_path / "run")
    result = json.loads((workdir / "result.json").read_text(encoding="utf-8"))
    del result["process_count"], result["guessing"]  # as in older versions
    (workdir / "result.json").write_text(json.dumps(result), encoding="utf-8")
    assert verify(workdir) == []
    result["versions"]["jax"] = "0.1"
    (workdir / "result.json").write_text(json.dumps(result), encoding="utf-8")
    with pytest.warns(UserWarning, match=r"versions.jax is '0.1', not .*bits may differ"):
        assert verify(workdir) == []


def test_only_a_finished_run_can_be_verified(tmp_path, small_run):
    with pytest.raises(FileNotFoundError, match="no trained network"):
        verify(tmp_path)
    workdir = shutil.copytree(small_run[0], tmp_path / "run")
    (workdir / "result.json").unlink()
    with pytest.raises(FileNotFoundError, match="is not finished; `train` resumes it"):
        verify(workdir)
