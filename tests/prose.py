"""Finds the phrases of calques.txt in the text files of the checkout, or in the files named."""

import re
import subprocess
import sys
from pathlib import Path

LIST = Path(__file__).with_name("calques.txt")
KIND = re.compile(r"\.(cc|cff|css|h|html|ipynb|js|md|py|sh|toml|yaml)$|^(Makefile|run)$")
OWN_TEST = "test_prose.py"  # plants phrases
# Between two words of a phrase: spaces, or the end of a line and the signs of a comment or a cell.
GAP = r"""(?:\\n",)?[\s#/*"]+"""
ENTRIES = {
    re.compile(rf"\b(?:{phrase.replace(' ', GAP)})\b", re.IGNORECASE): better
    for phrase, better in (
        line.split(" -> ")
        for line in LIST.read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    )
}


def find(text: str) -> list[str]:
    """Returns a line "LINE: PHRASE -> REPLACEMENT" for each listed phrase in a text."""
    found = sorted(
        (match.start(), match[0], better)
        for phrase, better in ENTRIES.items()
        for match in phrase.finditer(text)
    )
    return [
        f"{text.count(chr(10), 0, start) + 1}: {re.sub(GAP, ' ', phrase)!r} -> {better}"
        for start, phrase, better in found
    ]


def main() -> int:
    names = sys.argv[1:] or subprocess.check_output(["git", "ls-files"], text=True).splitlines()
    found = [
        f"{path}:{line}"
        for path in map(Path, names)
        if KIND.search(path.name) and path.name != OWN_TEST and path.exists()
        for line in find(path.read_text(encoding="utf-8"))
    ]
    print(*found, sep="\n", end="\n" if found else "")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
