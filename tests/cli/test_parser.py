"""The words of the command line: help, hints, plain arguments and recipes by name."""

import json
import shlex
from pathlib import Path

import pytest
from helpers import python
from hypothesis import assume, given
from hypothesis import strategies as st

from mnist_jax.cli.commands import COMMANDS
from mnist_jax.cli.main import main, parse
from mnist_jax.cli.parser import nearest_option, recipe_options
from mnist_jax.config import Config, load_config, recipe_names

OPTIONS = {
    name: [
        option.name
        for option in (*command.options, *(recipe_options() if command.takes_recipe else ()))
        if option.name.startswith("--")
    ]
    for name, command in COMMANDS.items()
}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        *[(words, 0) for words in ("", "--version", "--help", "train --help-all", "recipes")],
        *[(words, 2) for words in ("trian", "train --epochs many", "train --epochs 0")],
    ],
)
def test_help_and_the_answer_to_a_mistake_need_no_jax(words, code):
    check = (
        f"import sys; from mnist_jax.cli.main import main; code = main({shlex.split(words)});"
        "print([name for name in ('jax', 'flax', 'numpy') if name in sys.modules], code)"
    )
    done = python("-c", check)
    assert done.stdout.splitlines()[-1] == f"[] {code}", done.stderr


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_on_a_screen_with_examples(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([name, "--help"] if name else []) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 40
    assert max(map(len, text.splitlines())) <= 80
    assert f"  mnist-jax {name}" in text
    if not name or COMMANDS[name].takes_recipe:
        assert ", ".join(recipe_names()) in " ".join(text.split())


@pytest.mark.parametrize("words", ["", "train --help", "predict --help", "recipes", "summary"])
def test_text_fits_a_narrow_terminal(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert main(words.split()) == 0
    for line in capsys.readouterr().out.splitlines():
        assert len(line) <= 40 or "mnist-jax" in line or "|" in line  # a command is never divided


@pytest.mark.parametrize("name", COMMANDS)
def test_help_all_has_every_option_once(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([name, "--help-all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    heads = [line.split()[0] for line in lines if line.startswith("  --")]
    assert sorted(heads) == sorted(OPTIONS[name])
    assert "None" not in "".join(lines)
    assert "Config(" not in "".join(lines)


def test_examples_and_usage_in_help_are_valid():
    for command in COMMANDS.values():
        for line in command.example.splitlines():
            assert parse(shlex.split(line)[1:])


def is_one_slip(typed: str, meant: str) -> bool:
    """Tells whether one letter is missing, added or wrong, or two neighbours are swapped."""
    if len(typed) != len(meant):
        short, long = sorted((typed, meant), key=len)
        return any(long[:place] + long[place + 1 :] == short for place in range(len(long)))
    wrong = [place for place in range(len(typed)) if typed[place] != meant[place]]
    if len(wrong) == 2 and wrong[1] == wrong[0] + 1:
        return typed[wrong[0]] == meant[wrong[1]] and typed[wrong[1]] == meant[wrong[0]]
    return len(wrong) <= 1


@given(st.data())
def test_a_slip_of_one_letter_is_answered_with_the_option(data):
    known = OPTIONS[data.draw(st.sampled_from([*COMMANDS]))]
    name = data.draw(st.sampled_from(known))
    place = data.draw(st.integers(3, len(name)))
    letter = data.draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz-."))
    begin, last, end = name[: place - 1], name[place - 1], name[place:]
    slips = [begin + last + letter + end, begin + letter + end, begin + end]
    slips.append(begin[:-1] + last + begin[-1:] + end)
    slip = data.draw(st.sampled_from(slips))
    assume(slip not in known and name[-3:] not in (".b1", ".b2"))
    assert is_one_slip(slip, nearest_option(slip, known))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train --epoch 3", "unknown option --epoch; did you mean --epochs 3? (see mnist-jax tr"),
        ("train --batch_siz 64", "did you mean --batch-size 64?"),
        ("train --lr 0.1", "did you mean --optimizer.learning-rate 0.1?"),
        ("train --learning-rate=0.1", "did you mean --optimizer.learning-rate 0.1?"),
        ("train --optimizer adam", "did you mean --optimizer.name adam?"),
        ("train --model resnet", "did you mean --model.name resnet?"),
        ("train --model.dropout 0.1", "did you mean --model.dropout-rate 0.1?"),
        ("train --output-dir x", "did you mean --workdir x?"),
        ("train --no-tset", "did you mean --no-test?"),
        ("train --resume", "unknown option --resume: to resume, run the same command again"),
        ("train --gpu", "JAX uses a GPU or TPU if it finds one, as mnist-jax doctor reports"),
        ("train -v", "did you mean --debug?"),
        ("train runs/x", "unexpected argument 'runs/x'; did you mean --workdir runs/x?"),
        ("train fast", "did you mean --config fast?"),
        ("train --overwrite yes", "'yes': --overwrite takes no value"),
        ("train --optimizer.name Adam", "lion, muon, got 'Adam' (did you mean adam?)"),
        ("train --epochs many", "--epochs must be a whole number, got 'many' (see"),
        ("train --label-smoothing a", "--label-smoothing must be a number, got 'a' (see"),
        ("import x y --size 28", "--size: expected 2 arguments; type --size HEIGHT WIDTH (see"),
        ("train --model.batch-norm=true", "--model.batch-norm takes no value"),
        ("train --no-batch-norm", "did you mean --model.no-batch-norm?"),
        ("train --dropout 0.1", "did you mean --model.dropout-rate 0.1?"),
        ("train -e 3", "did you mean --epochs 3?"),
        ("report --out x.html", "did you mean --output x.html?"),
        ("report --epochs 3", "unknown option --epochs"),
        ("import", "import needs NAME, SOURCE... (see mnist-jax import --help)"),
        ("verify a b", "verify takes one workdir, got 'b' too (see"),
        ("help", "did you mean --help?"),
        ("help train", "did you mean train --help?"),
        ("test", "unknown command 'test'; did you mean evaluate? (see"),
        ("-v", "did you mean --version?"),
        ("trian", "unknown command 'trian'; did you mean train? (see mnist-jax --help)"),
        ("Train", "did you mean train?"),
        ("--quiet train", "unknown option --quiet before the command; a command comes first"),
        ("export --output x", "export needs --format stablehlo|onnx (see mnist-jax export --help)"),
    ],
)
def test_mistakes_are_answered_with_what_was_meant(words, message, capsys):
    assert main(shlex.split(words)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_workdir_is_a_plain_argument_or_an_option():
    for name in ("evaluate", "report"):
        assert parse([name]).workdir == [Path("runs/default")]
        assert parse([name, "a", "--quiet", "b"]).workdir == [Path("a"), Path("b")]
        assert parse([name, "--workdir", "a", "b"]).workdir == [Path("a"), Path("b")]
    for name in ("verify", "serve"):
        assert parse([name]).workdir == Path("runs/default")
        assert parse([name, "a"]).workdir == parse([name, "--workdir=a"]).workdir == Path("a")
    predict = parse(["predict", "a.png", "--workdir", "run", "b.png", "--", "-c.png"])
    assert predict.workdir == Path("run")
    assert predict.images == [*map(Path, ("a.png", "b.png", "-c.png"))]


def test_underscores_may_stand_for_hyphens_and_a_flag_switches_a_recipe_off():
    assert parse(["train", "--batch_size=64"]).recipe.batch_size == 64
    assert parse(["train", "--config", "deep_cnn"]).recipe.model.batch_norm
    off = parse(["train", "--config", "deep_cnn", "--model.no-batch-norm"])
    assert not off.recipe.model.batch_norm


def test_recipes_are_found_by_name_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("fast", "fast.py", "configs/fast.py"):
        assert load_config(name).epochs == 2
    (tmp_path / "fast").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match=r"fast is not a recipe; expected a .py file or a config"):
        load_config("fast")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"recipe, name run/config.json"):
        load_config("run")
    with pytest.raises(FileNotFoundError, match=r"did you mean fast.*; the recipes are accurate, "):
        load_config("fasst")
    assert load_config("run/config.json") == Config()


def test_recipes_are_listed_with_their_results(capsys):
    assert main(["recipes", "--json"]) == 0
    listed = {recipe["name"]: recipe for recipe in json.loads(capsys.readouterr().out)}
    assert [*listed] == recipe_names()
    assert listed["default"]["accuracy"] == "98.6 %"
    assert all(recipe["purpose"] for recipe in listed.values())
    assert all(listed[name]["time"] for name in {*listed} - {"sweep"})
    assert main(["recipes"]) == 0
    assert "fast          99.1 %  2 s " in capsys.readouterr().out


def test_a_platform_without_devices_is_named():
    code = "import sys; from mnist_jax.cli.main import main; sys.exit(main(['summary']))"
    done = python("-c", code, JAX_PLATFORMS="xyz")
    assert done.returncode == 2, done
    assert "JAX_PLATFORMS is xyz, but JAX finds no such device; unset it" in done.stderr
