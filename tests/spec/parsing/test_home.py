"""Home directories: where none is known, a path with ~ is refused in one line and the cache has no folder."""

from __future__ import annotations

import pwd
from pathlib import Path
from typing import Any

import pytest

from carbon_plugin.cli.main import run as command_line
from carbon_plugin.errors import FleetError, SpecError
from carbon_plugin.fleet.query.engine import default_cache
from carbon_plugin.spec.parsing.home import cache_folder, expanded


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let this process have no home directory, as in a container that runs under any user id."""

    def no_entry(user: object) -> None:
        raise KeyError(user)

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("getpwuid", "getpwnam"):
        monkeypatch.setattr(pwd, name, no_entry)
    monkeypatch.chdir(tmp_path)


def test_a_path_below_home_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/scratch/me")

    assert expanded("~/runs") == Path("/scratch/me/runs")
    assert expanded("runs/~") == Path("runs/~")
    assert cache_folder({}) == Path("/scratch/me/.cache")
    assert cache_folder({"XDG_CACHE_HOME": "/scratch/cache"}) == Path("/scratch/cache")


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize("path", ["~", "~/runs", "~somebody/runs"])
def test_the_home_directory_of_nobody_is_refused(path: str) -> None:
    with pytest.raises(SpecError, match=f"{path}: the home directory of this ~ is not known"):
        expanded(path)
    assert cache_folder({}) is None


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize(
    "command",
    [
        [
            "plan",
            "--model",
            "~/config.json",
            "--accelerator",
            "h100-sxm",
            "--nodes",
            "1",
            "--steps",
            "9",
            "--zone",
            "FRA",
        ],
        ["fleet", "ingest", "~/runs", "--into", "store"],
        ["fleet", "report", "~/store"],
    ],
    ids=["model", "source", "store"],
)
def test_a_command_without_a_home_directory_says_so_in_one_line(
    command: list[str], capsys: Any, tmp_path: Path
) -> None:
    pytest.importorskip("ibis")

    assert command_line(command) == 2

    error = capsys.readouterr().err
    assert "the home directory of this ~ is not known" in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("homeless")
def test_copies_of_an_object_store_need_a_folder_that_is_named() -> None:
    with pytest.raises(FleetError, match="set XDG_CACHE_HOME to a folder"):
        default_cache()
