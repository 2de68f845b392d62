"""Text that is safe to show on a terminal."""

from typing import Any, TextIO


def printable(line: str) -> str:
    """Spells out what a terminal would obey or cannot show, such as in the name of a file."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def one_line(message: object) -> str:
    """Joins the lines of a message, and spells out what a terminal would obey."""
    return printable(" ".join(str(message).split()))


class PrintableStream:
    """A stream for lines, each written by itself, with what a terminal would obey spelled out.

    Names of files, classes and directories are others' words: they can move the cursor, draw links,
    turn text around, or look like one line more.
    """

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        return self.stream.write(text if text == "\n" else printable(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
