"""A page about a trained network, or a comparison of several: one file that works offline."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mnist_jax.machine.extras import require
from mnist_jax.parts import OwnModel
from mnist_jax.reporting.comparison import comparison_values
from mnist_jax.reporting.measured import read_run, verdict
from mnist_jax.reporting.page import render
from mnist_jax.reporting.single import single_values
from mnist_jax.workdir.files import atomic_file


class WrittenReport(NamedTuple):
    """A written page.

    Attributes:
        path: file of the page.
        verdicts: line for each network: its accuracy with the interval; of several, also their
            comparison by validation.
        networks: numbers of each network, see `measured.figures`.
    """

    path: Path
    verdicts: list[str]
    networks: list[dict[str, Any]]


def report(
    workdirs: str | Path | Sequence[str | Path],
    output: str | Path | None = None,
    *,
    model: OwnModel = None,
    splits: Any = None,
) -> WrittenReport:
    """Writes a page about a trained network, or a comparison of several.

    It shows test images, or validation images if a run has not measured its test. The same runs
    give the same bytes.

    Args:
        workdirs: directory written by `train`, or several.
        output: .html file (default: report.html in the workdir; of several, comparison.html).
        model: the networks' own module, as in `train`.
        splits: their own data, as in `train`.

    Raises:
        FileNotFoundError: a workdir holds no trained network, or the output has no directory.
        ValueError: a run cannot be read, its dataset has changed, or a package is missing.
        OSError: the page cannot be written.
    """
    require("a report", "jinja2", "matplotlib", "sklearn", extra="report")
    paths = [workdirs] if isinstance(workdirs, str | Path) else [*workdirs]
    if not paths:
        raise ValueError("workdir must be a directory, or several, got none")
    several = len(paths) > 1
    default = Path("comparison.html") if several else Path(paths[0], "report.html")
    target = default if output is None else Path(output)
    if target.suffix != ".html":
        raise ValueError(f"--output must end in .html, got {str(output)!r}")
    runs = [read_run(path, model=model, splits=splits, one_of_several=several) for path in paths]
    if not target.parent.is_dir():
        raise FileNotFoundError(f"--output: there is no directory {target.parent}")
    networks, values = comparison_values(runs) if several else single_values(runs[0])
    page = render("comparison.html" if several else "report.html", **values)
    with atomic_file(target) as file:
        file.write(page)
    compared = [values[name] for name in ("headline", "detail") if several and values[name]]
    return WrittenReport(target, [*map(verdict, networks), *compared], networks)
