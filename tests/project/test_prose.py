"""The word list finds its phrases, wherever a line breaks."""

import pytest
from helpers import TESTS, python

CASES = {
    "plain.md": ("Fine.\nIt is trained anew.\n", ":2: 'anew' -> again, from scratch\n"),
    "wrapped.py": ("x = 1\n# the run goes\n# on\n", ":2: 'goes on' -> resume, continue\n"),
    "cell.ipynb": ('  "all but\\n",\n  "for one"', ":1: 'but for' -> except\n"),
    "negated.md": (
        "There is no file. It is no faster. x is no file.",
        ":1: 'is no file' -> is not a\n",
    ),
    "names.py": ("def test_it_goes_on(): told = 1", ""),
    "data.bin": ("anew", ""),
}


@pytest.mark.parametrize("name", CASES)
def test_the_word_list_finds_planted_phrases(name, tmp_path):
    text, line = CASES[name]
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    done = python(TESTS / "prose.py", path)
    assert (done.stdout, done.returncode) == (line and f"{path}{line}", int(bool(line)))
