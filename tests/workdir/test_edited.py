"""Edited JSON files of a work directory: another network or an impossible number is refused."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mnist_jax.datasets.info import DataInfo, data_info
from mnist_jax.workdir.files import read_json
from mnist_jax.workdir.run import read_result
from mnist_jax.workdir.trained import load_trained


@pytest.fixture
def edit(small_run, tmp_path) -> Callable[..., Path]:
    """Copies a run with changes in one of its JSON files."""

    def make(name: str, **changes: Any) -> Path:
        workdir = shutil.copytree(small_run[0], tmp_path / "run")
        path = workdir / name
        values = json.loads(path.read_text(encoding="utf-8"))
        for key, value in changes.items():
            values[key] = values[key] | value if isinstance(value, dict) else value
        path.write_text(json.dumps(values), encoding="utf-8")
        return workdir

    return make


OTHER_MODELS = [{"pool": "mean"}, {"padding": "SAME"}, {"name": "mlp"}, {"features": 7}]


@pytest.mark.parametrize("model", OTHER_MODELS, ids=str)
def test_a_config_that_describes_another_model_is_refused(edit, model):
    ((name, value),) = model.items()
    message = rf"^\S*config.json is not the trained network's .*model.{name} is .*, not {value!r}"
    with pytest.raises(ValueError, match=message):
        load_trained(edit("config.json", model=model))


WRONG_RESULTS = [
    *({"test_accuracy": value} for value in (98.5, -0.1, "0.9", float("nan"))),
    *({"steps": value} for value in (True, -8, 1.5)),
    *({"test_loss": float("inf")}, {"seconds": {"total": "1"}}, {"params_sha256": 7}),
]


@pytest.mark.parametrize("changes", WRONG_RESULTS, ids=str)
def test_an_impossible_result_is_refused(edit, changes):
    workdir = edit("result.json", **changes)
    with pytest.raises(ValueError, match=r"result.json is not (the result of a run|JSON)"):
        read_result(workdir)


NOT_STRICT = {
    "{": "Expecting property name",
    '{"a": NaN}': "it holds NaN",
    "[-Infinity]": "it holds -Infinity",
    '{"b": {"a": 1, "a": 2}}': "it holds 'a' twice",
    "[" * 100_000: "recursion",
    "1" * 5000: "digits",
}


@pytest.mark.parametrize("text", NOT_STRICT, ids=lambda text: text[:30])
def test_invalid_json_and_json_that_only_python_accepts_are_refused(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    message = rf"{re.escape(str(path))} is not JSON: .*{NOT_STRICT[text]}"
    with pytest.raises(ValueError, match=message):
        read_json(path)


@pytest.mark.parametrize("more", [(), (40,), (40, 0, (0.1, 0.4, 0.9))])
def test_the_facts_about_data_are_read_back(more):
    info = DataInfo((20, 40, 1), ("é", "日本", "a b"), *more)
    assert data_info(json.loads(json.dumps(info._asdict()))) == info
