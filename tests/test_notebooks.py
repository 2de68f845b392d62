"""The notebooks, run from top to bottom on little data, and read for what they must not hold."""

import ast
import os
import re
import sys
from pathlib import Path
from typing import Any

import jax
import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
PATHS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
SMOKE = {
    "mnist": """
EPOCHS, EXPERIMENT_EPOCHS, SEEDS, SEED = 2, 1, 2, 0
TRAIN_SPLIT, TEST_SPLIT = "train[:1280]", "test[:500]"
""",
    "tpu_pod": """
EPOCHS, TRAIN_SPLIT, TEST_SPLIT = 2, "train[:640]", "test[:200]"
""",
}
EDITED_IDEA = """
ideas["the reference"] = dataclasses.replace(short, label_smoothing=0.1)
show_ideas([try_out("the reference", ideas["the reference"])])
"""
BOX = "No accelerator in use"
LIBRARIES = {"IPython", "PIL", "jax", "matplotlib", "mnist_jax", "numpy", "sklearn"}
LIBRARIES |= sys.stdlib_module_names
PICTURE_BYTES = 50_000  # of a stored picture, in base64
every_notebook = pytest.mark.parametrize("name", PATHS)


def read(name: str) -> Any:
    return nbformat.read(PATHS[name], as_version=4)


def execute(notebook: Any, directory: Path) -> Any:
    """Runs the cells in a process of this interpreter; the first error is raised."""
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(directory)}},
    )
    return client.execute(env=os.environ | {"TMPDIR": str(directory)})


def run_smoke(name: str, directory: Path) -> Any:
    """Runs a notebook with the smoke settings in place of its own."""
    notebook = read(name)
    (settings,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", ()))
    settings.source = SMOKE[name]
    if name == "mnist":
        (place,) = (n for n, cell in enumerate(notebook.cells) if "def try_out(" in cell.source)
        notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(EDITED_IDEA))
    return execute(notebook, directory)


def outputs(notebook: Any, kind: str) -> list[Any]:
    cells = (cell for cell in notebook.cells if cell.cell_type == "code")
    return [output for cell in cells for output in cell.outputs if output.output_type == kind]


def stream(notebook: Any, name: str) -> str:
    return "".join(out.text for out in outputs(notebook, "stream") if out.name == name)


def shown(notebook: Any) -> list[str]:
    """The kinds of what is shown in each output: text/html, image/png."""
    found = outputs(notebook, "display_data") + outputs(notebook, "execute_result")
    return [kind for output in found for kind in output.data]


def code_cells(notebook: Any) -> list[str]:
    """The code as Python: without the magic of IPython."""
    transform = TransformerManager().transform_cell
    return [transform(cell.source) for cell in notebook.cells if cell.cell_type == "code"]


def definitions(code: str) -> list[str]:
    """What belongs into the package: classes, steps, gradients, and the libraries they need."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ClassDef):
            found.append(node.name)
        elif isinstance(node, ast.FunctionDef):
            found += [node.name] * ("step" in node.name)
        elif isinstance(node, ast.Attribute):
            found += [node.attr] * (node.attr in ("grad", "value_and_grad", "scan"))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            modules = names if isinstance(node, ast.Import) else [str(node.module)]
            found += [name for name in modules if name.split(".")[0] not in LIBRARIES]
    return found


@pytest.fixture(scope="module")
def mnist_notebook(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run_smoke("mnist", tmp_path_factory.mktemp("mnist"))


@pytest.fixture(scope="module")
def pod_notebook(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run_smoke("tpu_pod", tmp_path_factory.mktemp("tpu_pod"))


def test_the_parameters_by_hand_are_those_of_the_network(mnist_notebook):
    printed = stream(mnist_notebook, "stdout")
    assert "all: 347,146 by hand, 347,146 in the network" in printed
    assert "1,218,706" in printed
    assert "the sum of neurons: 32,522" in printed


def test_what_the_notebook_claims_is_so(mnist_notebook):
    printed = stream(mnist_notebook, "stdout")
    for claim in (
        "the same images as scikit-learn's split:",
        "a dark and a light picture have the same edges:",
        "the formula holds in every row:",
        "the network's own maps are the same:",
    ):
        assert f"{claim} True\n" in printed


def test_scikit_learn_finds_the_same_accuracy(mnist_notebook):
    printed = stream(mnist_notebook, "stdout")
    found = re.search(r"scikit-learn: (\S+)  mnist_jax: (\S+)  equal", printed)
    assert found
    theirs, ours = found.groups()
    assert theirs == ours
    assert 0.5 < float(ours) < 1
    assert f"diagonal / all: {ours}\n" in printed


def test_the_same_seed_gives_the_same_hash(mnist_notebook):
    printed = stream(mnist_notebook, "stdout")
    first, again, other = re.findall(
        r"^(?:first|again|another seed) +([0-9a-f]{64})$", printed, re.M
    )
    assert first == again != other


def test_the_curves_replace_the_message_while_it_trains(mnist_notebook):
    (cell,) = (c for c in mnist_notebook.cells if "picture.update(" in c.source)
    (curves,) = (o for o in cell.outputs if o.output_type == "display_data")
    assert "image/png" in curves.data


def test_everything_is_shown(mnist_notebook):
    kinds = shown(mnist_notebook)
    assert kinds.count("image/png") == 17
    # Spatial dimensions, advice, the edited idea, transfer.
    assert kinds.count("text/markdown") == 4


def test_an_edited_idea_is_tried_again(mnist_notebook):
    (cell,) = (c for c in mnist_notebook.cells if c.source == EDITED_IDEA)
    (table, *_) = (o for o in cell.outputs if o.output_type == "display_data")
    assert "| the reference |" in table.data["text/markdown"]


def test_the_report_is_shown(mnist_notebook):
    (frame,) = (o for o in outputs(mnist_notebook, "execute_result") if "text/html" in o.data)
    assert '<iframe srcdoc="&lt;!' in frame.data["text/html"]


def test_more_devices_train_the_same_network(pod_notebook):
    printed = stream(pod_notebook, "stdout")
    found = re.search(r"largest difference of a loss: (\S+)", printed)
    assert found
    assert float(found[1]) < (1e-5 if jax.default_backend() == "cpu" else 0.05)
    assert "all-reduce in the compiled program: True" in printed
    assert "different networks: True" in printed


@pytest.mark.skipif(
    jax.default_backend() != "cpu" and jax.device_count() > 1, reason="these devices are real"
)
def test_fake_devices_are_called_so(pod_notebook):
    printed = stream(pod_notebook, "stdout")
    assert "on 8 fake devices of the CPU" in printed
    assert "These devices are fake" in printed
    (table, *_) = outputs(pod_notebook, "execute_result")
    assert "| cpu 7 | `[0:2, 112:128, 0:28, 0:28, 0:1]` |" in table.data["text/markdown"]


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the devices are real")
def test_fake_devices_stay_fake_when_the_first_cells_run_again(tmp_path):
    notebook = read("tpu_pod")
    (last,) = (n for n, cell in enumerate(notebook.cells) if "jax.device_count()} {" in cell.source)
    codes = [cell.source for cell in notebook.cells[: last + 1] if cell.cell_type == "code"]
    notebook.cells = [nbformat.v4.new_code_cell(code) for code in 2 * codes]
    assert stream(execute(notebook, tmp_path), "stdout").count("on 8 fake devices of the CPU") == 2


def test_no_cell_warns(mnist_notebook, pod_notebook):
    assert stream(mnist_notebook, "stderr") == ""
    assert stream(pod_notebook, "stderr") == ""


@every_notebook
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="JAX finds the accelerator")
def test_a_tpu_that_jax_does_not_find_is_told_loudly(name, tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("COLAB_TPU_1VM", "1")
    notebook = read(name)
    (last,) = (n for n, cell in enumerate(notebook.cells) if BOX in cell.source)
    notebook.cells = notebook.cells[: last + 1]
    (box,) = outputs(execute(notebook, tmp_path), "display_data")
    assert BOX in box.data["text/html"]
    assert "this machine has a TPU" in box.data["text/html"]


@every_notebook
def test_a_stored_notebook_is_clean(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert {*notebook.metadata} == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in notebook.cells]
    assert len({*ids}) == len(ids)
    for cell in notebook.cells:
        assert {*cell.metadata} <= {"tags"}
        if cell.cell_type == "code":
            assert cell.execution_count is None
            for output in cell.outputs:
                assert {*output.data} <= {"image/png", "text/plain"}
                assert len(output.data["image/png"]) < PICTURE_BYTES


@every_notebook
def test_a_notebook_defines_no_model_and_no_step(name):
    assert [definitions(code) for code in code_cells(read(name)) if definitions(code)] == []


@pytest.mark.parametrize(
    "code",
    [
        "class Model(nn.Module): ...",
        "def train_step(state): ...",
        "import optax",
        "from flax import linen as nn",
        "grad = jax.grad(loss)",
    ],
)
def test_the_test_sees_a_definition(code):
    assert definitions(code)


@every_notebook
def test_a_badge_opens_this_notebook_in_colab(name):
    first = read(name).cells[0].source
    path = f"mnist-jax/mnist_jax/blob/main/notebooks/{name}.ipynb"
    assert f"(https://colab.research.google.com/github/{path})" in first


@every_notebook
def test_links_into_the_repository_lead_to_a_file(name):
    text = "\n".join(cell.source for cell in read(name).cells)
    targets = re.findall(r"mnist_jax/blob/main/([^)\s]+)", text)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []
