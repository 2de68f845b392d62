import json
import shutil
from typing import Any

import pytest
from helpers import strict_json, times

from mnist_jax.cli.main import main
from mnist_jax.events import Epoch
from mnist_jax.laboratory.verify import verify
from mnist_jax.workdir.files import write_json


def test_a_run_agrees_with_itself_and_is_left_alone(small_run, capsys):
    workdir, _ = small_run
    before = times(workdir)
    assert main(["verify", "--workdir", str(workdir)]) == 0
    assert capsys.readouterr().out.startswith("the bits agree\nnext: ")
    assert before == times(workdir)
    heard: list[Any] = []
    assert verify(workdir, listeners=[heard.append]) == []
    assert [event.row["epoch"] for event in heard if isinstance(event, Epoch)] == [1, 2]


def test_verify_names_what_differs(small_run, tmp_path, capsys):
    workdir = shutil.copytree(small_run[0], tmp_path / "run")
    result, history = strict_json(workdir / "result.json"), workdir / "metrics.jsonl"
    write_json(workdir / "result.json", result | {"params_sha256": "0" * 64})
    first, *others = history.read_text(encoding="utf-8").splitlines()
    loss = json.loads(first)["train_loss"]
    first = json.dumps(json.loads(first) | {"train_loss": 2.5})
    history.write_text("\n".join([first, *others, ""]), encoding="utf-8")
    assert main(["verify", "--workdir", str(workdir)]) == 4
    assert capsys.readouterr().out.splitlines() == [
        f"in {workdir} params_sha256 is '{'0' * 64}', not '{result['params_sha256']}'",
        f"in {workdir} epoch 1.train_loss is 2.5, not {loss}",
        "the bits differ",
    ]


@pytest.mark.slow
def test_a_different_environment_causes_a_warning_but_no_difference(small_run, tmp_path):
    workdir = shutil.copytree(small_run[0], tmp_path / "run")
    result = strict_json(workdir / "result.json")
    del result["process_count"], result["guessing"]  # as in older versions
    write_json(workdir / "result.json", result)
    assert verify(workdir) == []
    write_json(workdir / "result.json", result | {"versions": {"jax": "0.1"}})
    with pytest.warns(UserWarning, match=r"versions.jax is '0.1', not .*bits may differ"):
        assert verify(workdir) == []


def test_only_a_finished_run_can_be_verified(tmp_path, small_run):
    with pytest.raises(FileNotFoundError, match="no trained network"):
        verify(tmp_path)
    workdir = shutil.copytree(small_run[0], tmp_path / "run")
    (workdir / "result.json").unlink()
    with pytest.raises(FileNotFoundError, match="is not finished; `train` resumes it"):
        verify(workdir)
