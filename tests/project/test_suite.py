"""The promises of CONTRIBUTING.md about the tests themselves."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from helpers import ROOT, TESTS

from mnist_jax.cli.commands import COMMANDS

FILES = sorted(TESTS.rglob("*.py"))
LINES = 400
# For each command, a quick test in which it succeeds.
COMMAND_TESTS = {
    "train": "test_the_smoke_recipe_from_start_to_scikit_learn",
    "evaluate": "test_commands_answer_in_json",
    "predict": "test_the_predict_command_prints_class_and_runner_up",
    "report": "test_the_report_command_says_where_the_page_is",
    "serve": "test_a_server_process_answers_as_predict_does_and_ends_with_a_signal",
    "import": "test_an_imported_dataset_is_trained_reported_and_exported",
    "export": "test_an_imported_dataset_is_trained_reported_and_exported",
    "population": "test_commands_answer_in_json",
    "sweep": "test_the_sweep_command_answers_in_json",
    "verify": "test_a_run_agrees_with_itself_and_is_left_alone",
    "summary": "test_summary_prints_the_table",
    "doctor": "test_doctor_tells_of_everything_a_line_each",
    "recipes": "test_recipes_are_listed_with_their_results",
}


def functions_of(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node


def is_quick(test: ast.FunctionDef) -> bool:
    return not {"slow", "pytest.mark.slow"} & {ast.unparse(mark) for mark in test.decorator_list}


def test_each_file_of_tests_is_short_enough_for_one_subject():
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {name: count for name, count in lines.items() if count > LINES}


def test_each_name_of_a_test_can_be_read_alone():
    pronouns = "so|it|its|they|that|these|this|also|what|elsewhere"
    vague = re.compile(rf"test_({pronouns})_|test_[a-z0-9]*$")
    names = [test.name for path in FILES for test in functions_of(path)]
    assert not [name for name in names if vague.match(name)]


def test_each_promise_of_the_readme_has_a_quick_test():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    promises = re.findall(r"\]\((tests/\S+\.py)\)", text)
    assert len(promises) > 5
    assert not [path for path in promises if not any(map(is_quick, functions_of(ROOT / path)))]


def test_each_command_has_a_quick_test():
    quick = {test.name for path in FILES for test in functions_of(path) if is_quick(test)}
    assert COMMAND_TESTS.keys() == COMMANDS.keys()
    assert {*COMMAND_TESTS.values()} <= quick
