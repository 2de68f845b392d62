"""The installed package: a wheel with data, recipes and types."""

import ast
import json
import re
import sysconfig
import zipfile
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, python

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds the wheel, and unpacks it into the site-packages of a fresh environment."""
    root = tmp_path_factory.mktemp("wheel")
    done = python("-m", "pip", "wheel", "-q", "--no-deps", "-w", root, ROOT)
    if "No matching distribution found for hatchling" in done.stderr:
        pytest.skip("there is no package index, from which pip gets what builds a wheel")
    assert done.returncode == 0, done.stderr
    assert python("-m", "venv", "--without-pip", root / "venv").returncode == 0
    (site,) = root.glob("venv/lib/*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    (file,) = root.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(site)
    return site


def test_a_wheel_carries_data_and_recipes(site):
    assert (site / "mnist_jax/datasets/mnist_idx/train-images-idx3-ubyte.gz").exists()
    code = "import mnist_jax.config as c; print(c.load_config('configs/smoke.py').epochs)"
    done = python("-c", code, cwd=site, PYTHONPATH="")
    assert done.stdout == "4\n", done.stderr


PAGE = ROOT / "docs" / "change_it.md"
RUN = """
import doctest, sys
from pathlib import Path
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser
import mnist_jax

assert mnist_jax.__file__.startswith(sys.argv[2]), mnist_jax.__file__
parser = PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS)
for example in Sybil([parser]).parse(Path(sys.argv[1])).examples():
    example.evaluate()
"""


def test_programs_with_own_parts_run_outside_the_checkout(site, tmp_path):
    done = python("-c", RUN, PAGE, site, cwd=tmp_path, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr


def check_types(site: Path, directory: Path) -> list[dict[str, Any]]:
    """Returns pyright's strict diagnostics of a directory, by the types of a wheel."""
    pytest.importorskip("pyright")
    venv = site.parents[2]
    settings = {"typeCheckingMode": "strict", "venvPath": f"{venv.parent}", "venv": venv.name}
    (directory / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    found = json.loads(python("-m", "pyright", "--outputjson", "-p", directory).stdout)
    return found["generalDiagnostics"]


def span(node: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def call_sites(code: str) -> tuple[list[Any], list[Any]]:
    """Finds the spans of code with this package's types alone, and those of its calls."""
    tree = ast.parse(code)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours: list[ast.AST] = [node for node in imports if str(node.module).startswith("mnist_jax")]
    names = {alias.name for node in ours for alias in getattr(node, "names", [])}

    def is_ours(node: ast.AST) -> bool:
        while isinstance(node, ast.Attribute):
            node = node.value
        return isinstance(node, ast.Name) and node.id in names

    for node in tree.body:
        match node:
            case ast.Assign([ast.Name(name) as target], ast.Call(function)) if is_ours(function):
                names.add(name)
                ours.append(target)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and is_ours(node.func)]
    ours += [call.func for call in calls]
    return [span(node) for node in ours], [span(call) for call in calls]


def test_calls_in_programs_with_own_parts_are_strictly_typed(site, tmp_path):
    """Types that jax, optax and tfds leave unknown are theirs; a reader's typo is an error."""
    blocks = re.findall(r"(?ms)^```python\n(.*?)^```$", PAGE.read_text("utf-8"))
    code = "\n".join(block for block in blocks if not block.startswith(">>>"))
    (tmp_path / "right.py").write_text(code, encoding="utf-8")
    typo = 'from mnist_jax import Config, train\n\ntrain(Config(), "run", epochz=1)\n'
    (tmp_path / "wrong.py").write_text(typo, encoding="utf-8")
    own, calls = call_sites(code)
    assert len(calls) > 25
    said = check_types(site, tmp_path)

    def inside(each: dict[str, Any], spans: list[Any]) -> bool:
        start = each["range"]["start"]["line"] + 1, each["range"]["start"]["character"]
        return any(first <= start < last for first, last in spans)

    def in_file(name: str) -> list[dict[str, Any]]:
        return [each for each in said if Path(each["file"]).name == name]

    for each in in_file("right.py"):
        assert not inside(each, own), each
        assert each["rule"].startswith("reportUnknown") or not inside(each, calls), each
        assert each["rule"] != "reportOptionalMemberAccess", each
    assert [each["message"] for each in in_file("wrong.py")] == ['No parameter named "epochz"']
