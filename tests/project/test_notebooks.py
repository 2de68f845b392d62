"""The notebooks, run from top to bottom on little data, and checked for their contents."""

import os
import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import nbformat
import pytest
from helpers import ROOT
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
ADDRESS = PROJECT["urls"]["Repository"]
PATHS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
each_notebook = pytest.mark.parametrize("name", PATHS)
SMOKE = {
    "mnist": """
EPOCHS, EXPERIMENT_EPOCHS, SEEDS, SEED = 2, 1, 2, 0
TRAIN_SPLIT = EXPERIMENT_SPLIT = "train[:1280]"
TEST_SPLIT = "test[:500]"
""",
    "tpu_pod": 'EPOCHS, TRAIN_SPLIT, TEST_SPLIT = 2, "train[:640]", "test[:200]"',
}
EDITED_IDEA = """
ideas["the reference"] = dataclasses.replace(short, label_smoothing=0.1)
show_ideas([try_out("the reference", ideas["the reference"])])
"""
BOX = "No accelerator in use"
COUNTED = 'fake = platform == "cpu"'
OWN = "A network of your own"  # the section in which a reader writes parts of the package
PARTS = re.compile(
    r"(?m)^class (\w+)|^import (optax)|^from (flax)|def (\w*step\w*)"
    r"|(value_and_grad|jax\.grad|lax\.scan)"
)
MISSING = "pip could not install mnist_jax beside jax=="


def read_all(paths: Iterable[Path]) -> str:
    return "\n".join(path.read_text("utf-8") for path in paths)


def read(name: str) -> Any:
    return nbformat.read(PATHS[name], as_version=4)


def first_cells(name: str, text: str) -> list[Any]:
    """Returns the cells of a notebook up to the one with this text."""
    cells = read(name).cells
    return cells[: cells.index(cell_with(cells, text)) + 1]


def cell_with(cells: list[Any], text: str) -> Any:
    (cell,) = (cell for cell in cells if text in cell.source)
    return cell


def execute(cells: list[Any], directory: Path) -> Any:
    """Runs cells in a process of this interpreter, and returns the notebook of them."""
    notebook = nbformat.v4.new_notebook(cells=cells)
    place = {"metadata": {"path": str(directory)}}
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place)
    return client.execute(env=os.environ | {"TMPDIR": str(directory)})


def run_smoke(name: str, directory: Path, old: str = "", new: str = "") -> Any:
    """Runs a notebook with the smoke settings; `old` is the text of one cell, made `new`."""
    cells = read(name).cells
    if old:
        cell = cell_with(cells, old)
        cell.source = cell.source.replace(old, new)
    (settings,) = (cell for cell in cells if "parameters" in cell.metadata.get("tags", ()))
    settings.source = SMOKE[name]
    if name == "mnist":
        added, place = [EDITED_IDEA], cells.index(cell_with(cells, "def try_out(")) + 1
    else:  # a reader may run the first cells again
        first = first_cells(name, "jax.device_count()} {")
        added, place = [cell.source for cell in first if cell.cell_type == "code"], len(first)
    cells[place:place] = map(nbformat.v4.new_code_cell, added)
    return execute(cells, directory)


def outputs(notebook: Any, kind: str) -> list[Any]:
    cells = (cell for cell in notebook.cells if cell.cell_type == "code")
    return [output for cell in cells for output in cell.outputs if output.output_type == kind]


def displayed(notebook: Any, source: str) -> list[Any]:
    """Returns the displays of the one cell with this text."""
    cell = cell_with(notebook.cells, source)
    return [output for output in cell.outputs if output.output_type == "display_data"]


def stream(notebook: Any, name: str) -> str:
    return "".join(out.text for out in outputs(notebook, "stream") if out.name == name)


@pytest.mark.slow
def test_the_pod_notebook_uses_the_one_chip_that_there_is(tmp_path):
    one = {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}  # it takes the CPU for a chip
    real = f"fake, platform = False, 'chip'\n    os.environ |= {one}"
    printed = stream(run_smoke("tpu_pod", tmp_path, COUNTED, real), "stdout")
    assert printed.count(" on 1 chip\n") == 2
    assert "all-reduce in the compiled program: False\n" in printed
    assert "different networks: True\n" in printed
    assert "fake:" not in printed


def test_the_pod_notebook_says_why_jax_could_not_start(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "no_such_chip")
    with pytest.raises(CellExecutionError, match=r"(?s)JAX could not start:.*no_such_chip"):
        execute(first_cells("tpu_pod", BOX), tmp_path)


@pytest.mark.slow
@each_notebook
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="JAX finds the accelerator")
def test_a_notebook_warns_of_a_tpu_that_jax_does_not_find(name, tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("COLAB_TPU_1VM", "1")
    (box,) = outputs(execute(first_cells(name, BOX), tmp_path), "display_data")
    assert BOX in box.data["text/html"]
    assert "this machine has a TPU" in box.data["text/html"]


CLAIMS = """\
all: 347,146 by hand, 347,146 in the network
1,218,706
the sum of neurons: 32,522
the same images as scikit-learn's split: True
a dark and a light image have the same edges: True
the formula holds in every row: True
the network's own maps are the same: True
the gradient is right: True
ten steps make the loss smaller: True
; training measured the same: True
"""


@pytest.mark.slow
def test_the_mnist_notebook_runs_and_what_it_claims_is_so(tmp_path):
    notebook = run_smoke("mnist", tmp_path)
    printed = stream(notebook, "stdout")
    assert [line for line in CLAIMS.splitlines(keepends=True) if line not in printed] == []
    [(theirs, ours)] = re.findall(r"scikit-learn: (\S+)  mnist_jax: (\S+)  equal", printed)
    assert theirs == ours
    assert 0.5 < float(ours) < 1
    assert f"diagonal / all: {ours}\n" in printed
    hashes = re.findall(r"^(?:first|again|another seed) +([0-9a-f]{64})$", printed, re.M)
    assert hashes[0] == hashes[1] != hashes[2]
    assert stream(notebook, "stderr") == ""  # no cell warns

    # The curves replace the message while it trains.
    (curves,) = displayed(notebook, "picture.update(")
    assert "image/png" in curves.data
    results = outputs(notebook, "execute_result")
    kinds = [kind for out in outputs(notebook, "display_data") + results for kind in out.data]
    assert kinds.count("image/png") == 19
    assert kinds.count("text/markdown") == 4  # dimensions, advice, the edited idea, transfer
    assert "| the reference |" in displayed(notebook, EDITED_IDEA)[0].data["text/markdown"]
    (frame,) = (out for out in results if "text/html" in out.data)
    assert '<iframe srcdoc="&lt;!' in frame.data["text/html"]


@pytest.mark.slow
def test_the_pod_notebook_trains_the_same_network_on_more_devices(tmp_path):
    notebook = run_smoke("tpu_pod", tmp_path)
    printed = stream(notebook, "stdout")
    [difference] = re.findall(r"largest difference of a loss: (\S+)", printed)
    assert float(difference) < (1e-5 if jax.default_backend() == "cpu" else 0.05)
    assert "all-reduce in the compiled program: True" in printed
    assert "different networks: True" in printed
    assert stream(notebook, "stderr") == ""
    if jax.default_backend() == "cpu":  # else its devices are real
        assert printed.count("on 8 fake devices of the CPU") == 2  # its first cells run twice
        assert "These devices are fake" in printed
        (table, *_) = outputs(notebook, "execute_result")
        assert "| cpu 7 | `[0:2, 112:128, 0:28, 0:28, 0:1]` |" in table.data["text/markdown"]


@each_notebook
def test_a_stored_notebook_is_clean(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert {*notebook.metadata} == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    for cell in notebook.cells:
        assert {*cell.metadata} <= {"tags"}
        assert (cell.get("execution_count"), cell.get("outputs", [])) == (None, [])


@each_notebook
def test_a_notebook_defines_a_model_and_a_gradient_only_where_a_reader_writes_them(name):
    found, heading = {}, ""
    for cell in read(name).cells:
        if cell.cell_type == "code":
            found.setdefault(heading, set()).update(*PARTS.findall(cell.source))
        else:
            heading = (re.findall(r"(?m)^## (?:\d+\. )?(.*)$", cell.source) or [heading])[-1]
    own = {OWN: {"flax", "MyNetwork", "optax", "value_and_grad"}} if name == "mnist" else {}
    assert {part: names - {""} for part, names in found.items() if names - {""}} == own


def install(name: str, monkeypatch, *, installed: bool, works: bool = True) -> list[str]:
    """Runs the cell that installs the package; returns what it asks of pip."""
    cell = cell_with(read(name).cells, "%pip install")
    asked, names = [], {"get_ipython": lambda: SimpleNamespace(run_line_magic=pip)}

    def pip(magic: str, arguments: str) -> None:
        asked.append(f"{magic} {arguments.format_map(names)}")

    def find_spec(module: str) -> Any:  # a folder of the package's name has no origin
        there = module != "mnist_jax" or installed or (works and asked)
        return SimpleNamespace(origin="__init__.py" if there else None)

    monkeypatch.setattr("importlib.util.find_spec", find_spec)
    exec(TransformerManager().transform_cell(cell.source), names)
    return asked


PINS = f"jax=={version('jax')} jaxlib=={version('jaxlib')}"


@each_notebook
def test_the_package_is_installed_only_where_it_is_missing_and_jax_stays(
    name, tmp_path, monkeypatch
):
    assert install(name, monkeypatch, installed=True) == []
    monkeypatch.chdir(tmp_path)
    pypi = f'pip install -q "mnist_jax[report] @ git+{ADDRESS}" {PINS}'
    assert install(name, monkeypatch, installed=False) == [pypi]
    monkeypatch.chdir(ROOT / "notebooks")
    checkout = f'pip install -q "mnist_jax[report] @ {ROOT.as_uri()}" {PINS}'
    assert install(name, monkeypatch, installed=False) == [checkout]
    with pytest.raises(RuntimeError, match=f"^{MISSING}.* upgrade JAX together with its plugin"):
        install(name, monkeypatch, installed=False, works=False)


@each_notebook
def test_the_badge_and_the_links_of_a_notebook_lead_to_files_of_the_repository(name):
    cells = read(name).cells
    slug = ADDRESS.removeprefix("https://github.com/")
    badge = f"(https://colab.research.google.com/github/{slug}/blob/main/notebooks/{name}.ipynb)"
    assert badge in cells[0].source
    targets = [t for cell in cells for t in re.findall(r"/blob/main/([^)\s]+)", cell.source)]
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_address_of_the_repository_is_that_of_pyproject_everywhere():
    slug = r"/([\w.-]+/[\w-]+)"
    ours = r"(?:git\+|git clone |REPOSITORY = \")https://github\.com|research\.google\.com/github"
    pages = [ROOT.glob("*.md"), ROOT.glob("docs/*.md"), ROOT.glob("docs/*.py")]
    found = re.findall(rf"github(?:\.com)?{slug}", read_all(PATHS.values()))
    for texts in (*pages, ROOT.glob("benchmarks/*.md")):
        found += re.findall(rf"(?:{ours}){slug}", read_all(texts))
    assert len(found) > 20
    assert {f"https://github.com/{name}" for name in found} == {ADDRESS}
