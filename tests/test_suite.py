"""What is promised of the tests themselves: see CONTRIBUTING.md."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "tests").rglob("*.py"))
LINES = 400


def test_each_file_of_tests_is_short_enough_for_one_subject():
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {name: count for name, count in lines.items() if count > LINES}


def test_each_name_of_a_test_can_be_read_alone():
    names = [
        node.name
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    vague = re.compile(r"test_(so|it|its|they|that|this|also)(_|$)|test_[a-z0-9]*$")
    assert not [name for name in names if vague.match(name)]


def test_each_promise_of_the_readme_has_a_quick_test(request):
    if request.config.option.file_or_dir:
        pytest.skip("not all tests are collected")
    promises = re.findall(r"\]\((tests/\S+\.py)\)", (ROOT / "README.md").read_text("utf-8"))
    assert len(promises) > 5
    quick = {
        str(item.path.relative_to(ROOT))
        for item in request.session.items
        if not item.get_closest_marker("slow")
    }
    assert {*promises} <= quick
