"""Text that is safe to show on a terminal."""


def printable(line: str) -> str:
    """Spells out what a terminal would obey or cannot show, such as in the name of a file."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def one_line(message: object) -> str:
    """Joins the lines of a message, and spells out what a terminal would obey."""
    return printable(" ".join(str(message).split()))
