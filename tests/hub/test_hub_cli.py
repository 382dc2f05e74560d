"""The verbs: what they say, and which settings reach push."""

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import evaluation.cli
import hub.cli
import hub.pull
import hub.push
from hub.pull import Pulled
from hub.push import Pushed

app = typer.Typer()
hub.cli.register(app)
evaluation.cli.register(app)


def test_push_takes_its_manners_from_the_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[Any, ...]] = []

    def stand_in(*args: Any) -> Pushed:
        calls.append(args)
        return Pushed(args[2], "abc", True, ["README.md"], [], [], "v1.0.0")

    monkeypatch.setattr(hub.push, "push", stand_in)
    said = CliRunner().invoke(app, ["push", "data", str(tmp_path)])
    assert said.exit_code == 0 and "coprov2/coprov2-emoji-world at abc, tag v1.0.0" in said.output
    assert "new repository, 1 files sent" in said.output
    CliRunner().invoke(
        app, ["push", "adapter", str(tmp_path), "--to", "me/mine", "--public", "--yes", "--open", "--tag", "v1.0.0"]
    )
    CliRunner().invoke(app, ["push", "adapter", str(tmp_path), "--set", "publish.namespace=lab"])
    assert calls == [
        ("data", tmp_path, "coprov2/coprov2-emoji-world", True, True, None),
        ("adapter", tmp_path, "me/mine", False, False, "v1.0.0"),
        ("adapter", tmp_path, "lab/coprov2-emoji-world-safety", True, True, None),
    ]
    assert CliRunner().invoke(app, ["push", "model", str(tmp_path)]).exit_code == 2


def test_pull_says_what_it_got(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pulled = Pulled("org/data", "abc", "v1.0.0", tmp_path, 9, 123456, 8, ["contributions/a.parquet"])
    monkeypatch.setattr(hub.pull, "pull", lambda kind, source, out: pulled)
    said = CliRunner().invoke(app, ["pull", "data", "org/data@v1.0.0", "--out", str(tmp_path)]).output
    for part in (
        "org/data at abc, version v1.0.0",
        "9 files, 123,456 bytes",
        "8 with those",
        "contributions/a.parquet",
    ):
        assert part in said


def test_an_adapter_option_names_a_model(tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["evaluate", "--out", str(tmp_path), "--adapter", "nonsense"])
    assert said.exit_code == 1 and "expected NAME=DIR" in str(said.exception)
