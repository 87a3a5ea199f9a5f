"""What a user installs: every package, profile and template, and nothing that lies around in a checkout."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LINKED = {"carbon_plugin.integrations": "integrations", "carbon_plugin.hardware_profiles": "hardware_profiles"}
"""Packages whose files lie at the top of the checkout; in `carbon_plugin/` they are links to those folders."""
DATA_SUFFIXES = {".yaml", ".j2", ".typed", ".csv", ".json", ".css", ".js", ".LICENSE"}


def shipped_files() -> dict[str, Path]:
    """Name in the wheel → file in the checkout, for everything that a wheel should hold."""
    trees = {"carbon_plugin": "carbon_plugin"} | {name.replace(".", "/"): folder for name, folder in LINKED.items()}
    return {
        f"{name}/{path.relative_to(ROOT / folder)}": path
        for name, folder in trees.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and (path.suffix == ".py" or path.suffix in DATA_SUFFIXES) and "__pycache__" not in path.parts
    }


def test_every_package_folder_is_listed_in_pyproject():
    packages = (ROOT / "carbon_plugin").rglob("__init__.py")
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in packages}
    for name, folder in LINKED.items():  # which `rglob` does not enter
        below = (path.parent.relative_to(ROOT / folder).parts for path in (ROOT / folder).rglob("__init__.py"))
        folders |= {".".join((name, *parts)) for parts in below}
    assert sorted(folders | set(LINKED)) == sorted(PROJECT["tool"]["setuptools"]["packages"])


@pytest.mark.parametrize(("name", "folder"), LINKED.items())
def test_folder_at_the_top_is_a_package_of_ours(name, folder):
    inside = ROOT.joinpath(*name.split("."))

    assert {path.name for path in inside.iterdir()} == {path.name for path in (ROOT / folder).iterdir()}


def test_every_folder_with_code_is_a_package():
    bare = {path.parent for path in shipped_files().values() if path.suffix == ".py"}

    assert not [folder for folder in bare if not (folder / "__init__.py").is_file()]


@pytest.mark.exhaustive
def test_the_wheel_holds_every_module_profile_and_template_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}

    expected = set(shipped_files())
    assert sorted(expected - names) == []
    assert sorted(names - expected) == []


@pytest.mark.exhaustive
def test_the_wheel_carries_its_licence_and_its_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        info = [name for name in archive.namelist() if ".dist-info/" in name]
        (entry_points,) = (name for name in info if name.endswith("entry_points.txt"))
        commands = archive.read(entry_points).decode()

    assert any(name.endswith("licenses/LICENSE") for name in info)
    assert any(name.endswith("licenses/NOTICE") for name in info)
    assert "carbon-plugin = carbon_plugin.cli.main:main" in commands


@pytest.mark.exhaustive
def test_the_installed_wheel_finds_its_profiles_without_the_checkout(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    script = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import carbon_plugin
from carbon_plugin.spec.hardware.profiles import load_accelerator
assert carbon_plugin.__file__.startswith({str(tmp_path)!r}), carbon_plugin.__file__
print(load_accelerator("h100").name)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)

    assert done.stdout.strip() == "h100-sxm"


def test_torch_is_never_required_by_the_package_itself():
    required = [requirement.split(">")[0] for requirement in PROJECT["project"]["dependencies"]]

    assert not {"torch", "lightning", "transformers"} & set(required)
