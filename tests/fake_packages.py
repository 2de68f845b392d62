"""Packages that are not there."""

from pathlib import Path

import pytest


def install(
    directory: Path, monkeypatch: pytest.MonkeyPatch, name: str, version: str, metadata: str = ""
) -> None:
    """Makes Python find the metadata of a package that is not there."""
    found = directory / f"{name.replace('-', '_')}-{version}.dist-info"
    found.mkdir()
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}"
    (found / "METADATA").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(directory))
