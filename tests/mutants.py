"""Mutants of the core, one changed expression each, and those that no quick test notices.

    python tests/mutants.py --mutants 60 --seed 1

Each mutant is a copy of the checkout with one change, drawn at random. The tests that import its
file run first, then all of `make test`; the mutant is killed by the first one that fails, or where
they take many times as long. A mutant that computes the same as the original cannot be killed: SAME
has those that were found, and why. The exit code is 1 where more than 5 % of the others survive.
"""

import argparse
import ast
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
MODULES = [
    *("augment", "loader", "loop", "metrics", "optimizer", "program", "rng", "rules", "steps"),
    *("training", "workdir/checkpoint", "workdir/hashing", "laboratory/members"),
    *("laboratory/population", "laboratory/member_program"),
]
PATIENCE = 5  # times as long as without a mutant: then it hangs, and so is noticed
MOST_SURVIVE = 0.05

# Mutants that compute the same, by file and change, and why they do.
SAME = {
    ("metrics", "-1 -> (1)"): "logits have two axes",
    ("metrics", "dtype=jnp.int32 -> **{}"): "the type of a sum of truth values is int32 anyway",
    ("hashing", "key=lambda leaf: leaf[0] -> **{}"): "no two leaves have the same path",
    ("optimizer", "weight_decay_mask=mask -> **{}"): "Muon's part is kernels only",
}

# Keywords that ask for a check, or say where a warning points: they change no result.
CHECKS = {"check_vma", "stacklevel", "strict"}

OTHER = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt},
    **{ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In},
    **{ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult},
    **{ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult},
    **{ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd},
}
OTHER_NAME = {"min": "max", "any": "all", "ceil": "floor", "minimum": "maximum", "argmax": "argmin"}
OTHER_NAME |= {new: old for old, new in OTHER_NAME.items()}


class Mutant(NamedTuple):
    """A change of one expression: the bytes from `start` to `end` of a file become `new`."""

    path: Path
    line: int
    start: int
    end: int
    new: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.change()}"

    def change(self) -> str:
        old = (ROOT / self.path).read_bytes()[self.start : self.end].decode()
        return " ".join(f"{old} -> {self.new}".split())


def mutants(path: Path) -> Iterator[Mutant]:
    source = (ROOT / path).read_bytes()
    starts = [0, *(match.end() for match in re.finditer(b"\n", source))]
    for old, new in changes(ast.parse(source)):
        start = starts[old.lineno - 1] + old.col_offset
        end = starts[old.end_lineno - 1] + old.end_col_offset
        yield Mutant(path, old.lineno, start, end, new)


def changes(node: ast.AST) -> Iterator[tuple[Any, str]]:
    """Yields the nodes of a tree that have another one, and its text.

    What people read stays (docstrings, errors), and so do annotations, imports and decorators.
    """
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom | ast.arg) or (
        isinstance(node, ast.keyword) and node.arg in CHECKS
    ):
        return
    children = ast.iter_child_nodes(node)
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        children = node.body
        if isinstance(node, ast.FunctionDef):
            children = [*node.args.defaults, *filter(None, node.args.kw_defaults), *node.body]
    elif isinstance(node, ast.AnnAssign):
        children = [node.value] if node.value else []
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    for child in children:
        yield from changes(child)

    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield node, "..."
    elif isinstance(node, ast.AugAssign):
        yield node, f"{ast.unparse(node.target)} = {ast.unparse(node.value)}"
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        yield node.test, f"(not ({ast.unparse(node.test)}))"
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in OTHER:
        other = OTHER[type(node.ops[0])]()
        yield node, spelled(ast.Compare(node.left, [other, *node.ops[1:]], node.comparators))
    elif isinstance(node, ast.BoolOp):
        yield node, spelled(ast.BoolOp(OTHER[type(node.op)](), node.values))
    elif isinstance(node, ast.BinOp) and type(node.op) in OTHER:
        yield node, spelled(ast.BinOp(node.left, OTHER[type(node.op)](), node.right))
    elif isinstance(node, ast.UnaryOp):
        yield node, spelled(node.operand)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        value = node.value
        yield node, repr(not value if isinstance(value, bool) else 2 * value or 1)
    elif isinstance(node, ast.Name) and node.id in OTHER_NAME:
        yield node, OTHER_NAME[node.id]
    elif isinstance(node, ast.Attribute) and node.attr in OTHER_NAME:
        yield node, f"{ast.unparse(node.value)}.{OTHER_NAME[node.attr]}"
    elif isinstance(node, ast.Call):
        named = (keyword for keyword in node.keywords if keyword.arg and keyword.arg not in CHECKS)
        yield from ((keyword, "**{}") for keyword in named)


def spelled(node: ast.expr) -> str:
    return f"({ast.unparse(ast.fix_missing_locations(node))})"


def end_of(mutant: Mutant, checkout: Path, limit: float) -> str:
    """Tests a mutant in a checkout; returns killed, killed by time, or SURVIVES."""
    source = (ROOT / mutant.path).read_bytes()
    changed = source[: mutant.start] + mutant.new.encode() + source[mutant.end :]
    (checkout / mutant.path).write_bytes(changed)
    try:
        for tests in (own_tests(mutant.path), []):
            if failed(checkout, tests, limit):
                return "killed"
    except subprocess.TimeoutExpired:
        return "killed by time"
    finally:
        (checkout / mutant.path).write_bytes(source)
    return "SURVIVES"


def own_tests(path: Path) -> list[str]:
    """Lists the test files that import a module, the one of its name first."""
    package, module = ".".join(path.parent.parts), path.stem
    imports = re.compile(rf"{package}\.{module}\b|from {package} import [\w, ]*\b{module}\b")
    paths = (ROOT / "tests").rglob("test_*.py")
    own = [path for path in paths if imports.search(path.read_text(encoding="utf-8"))]
    own.sort(key=lambda path: (path.stem != f"test_{module}", path))
    return [str(path.relative_to(ROOT)) for path in own]


def failed(checkout: Path, tests: list[str], limit: float | None = None) -> bool:
    """Returns True if a quick test of these (or all) files fails; TimeoutExpired after a limit."""
    options = ["-x", "-q", "-m", "not slow", "-p", "no:randomly", "-p", "no:cacheprovider"]
    options += ["--numprocesses=auto", "--maxprocesses=4", "--dist=loadfile"]  # as `make test`
    # Programs that tests start elsewhere import the copy, too, and not an installed package.
    paths = f"{checkout}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *tests],
        cwd=checkout,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": paths},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            return process.wait(limit) not in (0, 5)  # 5: there is no such test
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with what hangs in it


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("modules", nargs="*", default=MODULES, help="such as workdir/hashing")
    parser.add_argument("--mutants", type=int, default=60, help="how many to draw")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    files = [Path("mnist_jax", f"{module}.py") for module in args.modules]
    all_mutants = [mutant for path in files for mutant in mutants(path)]
    drawn = random.Random(args.seed).sample(all_mutants, min(args.mutants, len(all_mutants)))
    drawn = [mutant for mutant in drawn if (mutant.path.stem, mutant.change()) not in SAME]

    with tempfile.TemporaryDirectory() as directory:
        ignore = shutil.ignore_patterns(".git", ".venv", "runs", "build", "__pycache__")
        checkout = shutil.copytree(ROOT, Path(directory, "checkout"), ignore=ignore)
        began, survived = time.monotonic(), 0
        if failed(checkout, []):
            sys.exit("error: the quick tests fail without a mutant")
        limit = PATIENCE * (time.monotonic() - began)
        for mutant in drawn:
            end = end_of(mutant, checkout, limit)
            survived += end == "SURVIVES"
            print(f"{end:14} {mutant}", flush=True)
    print(f"{survived} of {len(drawn)} survive, of {len(all_mutants)} possible; seed {args.seed}")
    sys.exit(survived > MOST_SURVIVE * len(drawn))


if __name__ == "__main__":
    main()
