"""A user's own project is type-checked against this package, whichever way the package is installed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PLAIN = """\
from typing import Any

from carbon_plugin import Site, audit, load_run_spec, predict, watch


def train(model: Any, writer: Any) -> None:
    with watch(model, site=Site(zone="FRA"), total_steps=10) as carbon:
        with carbon.phase("evaluation"):
            carbon.step(tokens=4096)
    watch(model, total_steps="ten")  # wrong
    watch(model, sites="FRA")  # wrong
    carbon.step(tokens="many")  # wrong


step = predict(load_run_spec("run.yaml"))
print(step.step_time_s.value + 1.0, audit("runs/a").verification.ok)
step.step_time_s.value.upper()  # wrong
Site(zone=3)  # wrong
"""

WITH_FRAMEWORKS = """\
from lightning.pytorch import Trainer
from torch import nn

from carbon_plugin import watch
from carbon_plugin.integrations.lightning import CarbonCallback

trainer = Trainer(callbacks=[CarbonCallback(site="FRA", run_dir="runs/a")])
print(CarbonCallback(site="FRA").monitor.metrics()["carbon/energy_kwh"] + 1.0)
with watch([nn.Linear(2, 2), nn.Linear(2, 2)]):
    pass
CarbonCallback(window_s="10 s")  # wrong
watch("a model")  # wrong
"""


def wrong_lines(source: str) -> set[int]:
    return {number for number, line in enumerate(source.splitlines(), 1) if line.endswith("# wrong")}


def folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def bare_environment(folder: Path, *paths: Path) -> Path:
    """Make an environment whose packages are what lies in these folders, and return its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "found.pth").write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
    return folder / "bin" / "python"


def editable_path(folder: Path) -> Path:
    """Return the folder that an editable installation puts on the path of modules, as its wheel names it."""
    script = f"from setuptools import build_meta; build_meta.build_editable({str(folder)!r})"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (pointer,) = (name for name in archive.namelist() if name.endswith(".pth"))
        return Path(archive.read(pointer).decode().strip())


def mypy_errors(source: Path, python: Path) -> set[int]:
    """Return the lines in which mypy finds an error. The test fails with mypy's words if it ends in another way."""
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(python), source.name]
    done = subprocess.run(command, cwd=source.parent, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    lines = [line.split(":") for line in done.stdout.splitlines() if ": error:" in line]
    assert all(line[0] == source.name for line in lines), done.stdout
    return {int(line[1]) for line in lines}


def pyright_errors(source: Path, python: Path) -> set[int]:
    command = [sys.executable, "-m", "pyright", "--pythonpath", str(python), "--outputjson", source.name]
    done = subprocess.run(command, cwd=source.parent, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {one["range"]["start"]["line"] + 1 for one in found if one["severity"] == "error"}


@pytest.fixture(scope="module")
def plain_project(tmp_path_factory) -> Path:
    source = tmp_path_factory.mktemp("user") / "train.py"
    source.write_text(PLAIN, encoding="utf-8")
    return source


@pytest.mark.exhaustive
def test_editable_install_is_a_path_that_type_checkers_follow(plain_project, tmp_path):
    site = editable_path(tmp_path)

    assert (site / "carbon_plugin" / "py.typed").is_file()
    assert (site / "carbon_plugin" / "integrations" / "lightning.py").is_file()
    needed = tmp_path / "needed"
    needed.mkdir()
    (needed / "msgspec").symlink_to(folder_of("msgspec"))
    assert mypy_errors(plain_project, bare_environment(tmp_path / "venv", site, needed)) == wrong_lines(PLAIN)


@pytest.mark.exhaustive  # reading the types of torch and Lightning takes minutes
@pytest.mark.parametrize("kind", ["editable", "wheel"])
@pytest.mark.parametrize("errors", [mypy_errors, pyright_errors], ids=["mypy", "pyright"])
def test_type_checkers_find_what_is_wrong_and_nothing_else(kind, errors, wheel, tmp_path):
    if errors is pyright_errors and importlib.util.find_spec("pyright") is None:
        pytest.skip("pyright is not installed (pip install pyright; it needs node)")
    site = tmp_path / "site"
    if kind == "editable":
        site = editable_path(tmp_path)
    else:
        zipfile.ZipFile(wheel).extractall(site)
    python = bare_environment(tmp_path / "venv", site, folder_of("lightning").parent)
    for name, source in (("train", PLAIN), ("fit", WITH_FRAMEWORKS)):
        file = tmp_path / f"{name}.py"
        file.write_text(source, encoding="utf-8")
        assert errors(file, python) == wrong_lines(source)
