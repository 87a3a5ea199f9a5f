"""What a user gets: the wheel of this package."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """Build a wheel from a copy of the sources, so that no old build folder takes part."""
    source = tmp_path_factory.mktemp("source")
    for folder in ("carbon_plugin", "integrations", "hardware_profiles"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__", "*.so*"))
    for file in ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "MANIFEST.in"):
        shutil.copy(ROOT / file, source / file)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--wheel-dir",
            str(source / "dist"),
            str(source),
        ],
        check=True,
    )
    (built,) = (source / "dist").glob("*.whl")
    return built
