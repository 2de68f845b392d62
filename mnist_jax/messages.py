"""Text that is safe on a terminal."""

from typing import Any, TextIO


def printable(line: str) -> str:
    """Escapes the characters that a terminal would obey or cannot show."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def one_line(message: object) -> str:
    """Joins the lines of a message and makes it `printable`."""
    return printable(" ".join(str(message).split()))


class PrintableStream:
    """A stream for single lines, each made `printable`: names of files may hold escape codes."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        return self.stream.write(text if text == "\n" else printable(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
