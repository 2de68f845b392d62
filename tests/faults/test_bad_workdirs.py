"""Bad workdirs: exit code 2, one line on standard error that names it, and nothing written."""

import os

import pytest
from helpers import some_slow

RECIPE = "@../tiny.json"  # that of conftest.py
LONG = "x" * 200
DEEP = "[" * 100_000
ARABIC_NINE = os.fsdecode("٩".encode())  # whatever the file names of this locale are
NOT_JSON, NO_CONFIG = "config.json is not JSON", "config.json is not a config of this version"
# Contents of config.json, with a part of the message.
CONFIGS: dict[str, tuple[str | bytes, str]] = {
    "list": ("[]", NO_CONFIG),
    "wrong": ('{"epochs": -1}', f"{NO_CONFIG}: epochs must be"),
    "empty": ("", NOT_JSON),
    "deep": (DEEP, NOT_JSON),
    "binary": (bytes(range(256)), NOT_JSON),
    "unreadable": ("@/proc/self/mem", NOT_JSON),
}
FOREIGN: dict[str, str | bytes] = {
    "foreign-checkpoints/checkpoints/model.pt": "precious",
    "foreign-checkpoints-file/checkpoints": "precious",
    "foreign-metrics/metrics.jsonl": "precious",
    "foreign-metrics-directory/metrics.jsonl/precious": "",
    "foreign-result/result.json": "precious",
    "foreign-result-directory/result.json/": "",
}
# Beside a good config.json.
WRONG: dict[str, str | bytes] = {
    "not-started/notes": "",
    "no-checkpoints/result.json": '{"steps": 8, "test_accuracy": 0.1}',
    "no-step/checkpoints/": "",
    "checkpoints-file/checkpoints": "precious",
    "checkpoints-dangling/checkpoints": "@nothing",
    "checkpoints-loop/checkpoints": "@checkpoints",
    "metrics-directory/metrics.jsonl/": "",
    "metrics-directory-of-run/metrics.jsonl/": "",
    "file-step/checkpoints/8": "precious",
    "negative-step/checkpoints/-8/": "",
    "empty-step/checkpoints/8/": "",
    "step-0/checkpoints/0/": "",
    "padded-step/checkpoints/0008/": "",
    f"arabic-step/checkpoints/{ARABIC_NINE}/": "",
    f"huge-step/checkpoints/{LONG.replace('x', '9')}/": "",
}
FILES: dict[str, str | bytes] = {
    "loop": "@loop",
    "dangling": "@nothing",
    **{f"{name}-config/config.json": content for name, (content, _) in CONFIGS.items()},
    "directory-config/config.json/": "",
    "null-config-of-run/config.json": "null",
    "null-config-of-run/checkpoints/": "",
    "metrics-directory-of-run/checkpoints": "@../run/checkpoints",
    **FOREIGN,
    **WRONG,
    **{f"{name.split('/')[0]}/config.json": RECIPE for name in WRONG},
}

# The commands that read or write a workdir, up to its name.
READERS = {
    "evaluate": "evaluate --workdir",
    "export": "export --format stablehlo --output new.stablehlo --workdir",
    "predict": "predict --output new.npz --workdir",
    "report": "report --output new.html --workdir",
    "serve": "serve --port 0 --workdir",
    "verify": "verify --workdir",
}
TRAIN = "train --config tiny.json --workdir"
OVERWRITE = "train --config tiny.json --overwrite --workdir"

# What is wrong, with a part of the message.
UNUSABLE = {
    **{name: f"the workdir {name} is a file" for name in ("a-file", "/dev/null")},
    **{name: name for name in ("a-file/below", "/proc/none", "/proc", "loop", "loop/below")},
    **{name: name for name in ("dangling", "null-config-of-run")},
    LONG + LONG: LONG,
    "directory-config": "directory-config/config.json",
    **{f"{name}-config": f"{name}-config/{message}" for name, (_, message) in CONFIGS.items()},
    **{workdir: workdir for workdir in (name.split("/")[0] for name in FOREIGN)},
}


COMMANDS = READERS | {"train": TRAIN, "overwrite": OVERWRITE}


@pytest.mark.parametrize("name", some_slow(("evaluate", "overwrite"), COMMANDS))
def test_workdirs_that_no_command_can_use_are_named(name, refuse_each):
    start = COMMANDS[name]
    refuse_each({f"{start} {workdir}": message for workdir, message in UNUSABLE.items()})


NOTHING = ("nowhere", "not-started", "no-checkpoints")
NOTHING += ("checkpoints-file", "checkpoints-dangling", "checkpoints-loop")
NO_NETWORK = {
    **{workdir: f"there is no trained network in {workdir}" for workdir in NOTHING},
    "no-step": "no-step/checkpoints holds no checkpoint yet",
    "file-step": "file-step/checkpoints/8 is damaged and left out: its SHA256SUMS cannot be read",
    "negative-step": "negative-step/checkpoints holds no checkpoint yet",
    "empty-step": "empty-step/checkpoints/8 is damaged and left out: its SHA256SUMS cannot be read",
    "step-0": "step-0/checkpoints/0 is damaged",
    **dict.fromkeys(["padded-step", "arabic-step", "huge-step"], "holds no checkpoint yet"),
}


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_workdirs_without_a_network_are_named(command, refuse_each):
    refuse_each({f"{READERS[command]} {workdir}": said for workdir, said in NO_NETWORK.items()})


@pytest.mark.slow
def test_workdirs_that_cannot_be_continued_are_named(refuse_each):
    said = {
        "checkpoints-file": "checkpoints-file/checkpoints must be a directory",
        "checkpoints-dangling": "checkpoints-dangling/checkpoints",
        "checkpoints-loop": "checkpoints-loop/checkpoints",
        "metrics-directory": "metrics-directory/metrics.jsonl",
        "metrics-directory-of-run": "metrics-directory-of-run/metrics.jsonl",
    }
    refuse_each({f"{TRAIN} {workdir}": message for workdir, message in said.items()})


def test_a_run_with_another_config_is_named(refuse_each):
    told = "run holds a run with another config ({} is "
    changes = {"--epochs 3": "epochs", "--seed 1": "seed", "--optimizer.b1 0.5": "optimizer.b1"}
    refuse_each({f"{TRAIN} run {change}": told.format(name) for change, name in changes.items()})
