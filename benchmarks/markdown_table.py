"""Tables in Markdown."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any


def print_table(rows: Iterable[Mapping[str, Any]]) -> None:
    """Prints rows of cells by column as they come; rows of a list may lack cells."""
    names = [*dict.fromkeys(name for row in rows for name in row)] if isinstance(rows, list) else []
    for number, row in enumerate(rows):
        if not number:
            names = names or [*row]
            print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
        print(f"| {' | '.join(spelled(row.get(name)) for name in names)} |", flush=True)


def spelled(cell: Any) -> str:
    """Formats a number with three digits, several as "median (min-max)", and None as ""."""
    if isinstance(cell, list):
        median, least, most = map(spelled, (float(statistics.median(cell)), min(cell), max(cell)))
        return f"{median} ({least}-{most})"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 100 else f"{cell:.3g}"
    return "" if cell is None else str(cell)
