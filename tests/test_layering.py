"""A file imports only from layers below its own: see CONTRIBUTING.md."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "mnist_jax"
LAYERS = [
    "accelerator augment calibration clock config datasets devices exported extras hashing ink "
    "metrics onnx_graph ops optimizer pictures plots rng sharding signals state",
    "clusters comparison compilation_cache distributed handwriting loader model_card models "
    "onnx_primitives origin stablehlo steps transfer",
    "features history onnx_file peers population_program program summary",
    "checkpoint doctor events rules trials",
    "console loop workdir",
    "evaluate export members network start tensorboard",
    "predict reporting train",
    "population report serving sweep verify",
    "serve",
    "commands",
    "cli",
    "__init__ __main__",
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names.split()}


def imported(file: Path) -> set[str]:
    """The modules of the package that a file imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            spelled = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            spelled = [alias.name for alias in node.names]
        else:
            continue
        names |= {name.split(".")[1] for name in spelled if name.startswith("mnist_jax.")}
    return names


def test_every_file_of_the_package_has_a_layer():
    packages = ("datasets", "models", "reporting", "serving")
    found = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.name in packages
    }
    assert found == set(LAYER)


def test_imports_point_downward():
    upward = []
    for file in PACKAGE.rglob("*.py"):
        importer = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        upward += [
            f"{importer} imports {name}"
            for name in imported(file)
            if name != importer and LAYER[name] >= LAYER[importer]
        ]
    assert not upward


def test_the_search_for_imports_finds_them(tmp_path):
    (tmp_path / "ops.py").write_text(
        "def f():\n    from mnist_jax.train import train", encoding="utf-8"
    )
    assert imported(tmp_path / "ops.py") == {"train"}
    (tmp_path / "ops.py").write_text("from mnist_jax import cli", encoding="utf-8")
    assert imported(tmp_path / "ops.py") == {"cli"}
