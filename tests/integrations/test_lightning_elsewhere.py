"""Lightning beyond its Trainer's list of callbacks: Fabric, a YAML file, an entry point, and its other package."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from carbon_plugin.integrations import entry_points as ours
from carbon_plugin.ledger.reader import manifest_of, read_run
from carbon_plugin.ledger.records import Close
from tests.integrations.jobs.telling import told

JOBS = Path(__file__).parent / "jobs"
ROOT = Path(__file__).resolve().parents[2]
GROUPS = ("lightning.pytorch.callbacks_factory", "pytorch_lightning.callbacks_factory")


def test_nothing_is_offered_to_a_trainer_unless_the_user_has_opted_in(monkeypatch):
    for variable in (ours.AUTO_VARIABLE, ours.ARGUMENTS_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    assert ours.lightning_callbacks() == []
    monkeypatch.setenv(ours.AUTO_VARIABLE, "1")
    monkeypatch.setenv("CARBON_PLUGIN_DISABLED", "1")
    assert ours.lightning_callbacks() == []


def test_a_mistake_in_the_arguments_is_told_and_breaks_no_trainer(monkeypatch, capsys):
    monkeypatch.setenv(ours.ARGUMENTS_VARIABLE, '{"site": "FRX"}')

    assert ours.lightning_callbacks() == []
    assert "'FRX'" in capsys.readouterr().err


@pytest.fixture
def way(launcher, tmp_path) -> Callable[..., list[list[float]]]:
    """Run a way of `lightnings.py`: the losses of the fit without us, and of the one with us."""

    def run(name: str, package: str) -> list[list[float]]:
        if find_spec(package.partition(".")[0]) is None:
            pytest.skip(f"not installed: {package}")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CARBON")}
        done = launcher.run(
            JOBS / "lightnings.py", name, tmp_path, package, env=kept | {"TMPDIR": str(tmp_path)}, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        return told(done.stdout, "LOSSES")

    return run


@pytest.fixture
def installed(tmp_path) -> None:
    """Install the entry points of pyproject.toml where this package was installed before it had them."""
    if all(any("carbon_plugin" in one.value for one in entry_points(group=group)) for group in GROUPS):
        return
    folder = tmp_path / "site" / "carbon_entry_points-0.dist-info"
    folder.mkdir(parents=True)
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    sections = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in stated[group].items()) for group in GROUPS]
    (folder / "entry_points.txt").write_text("\n".join(sections))
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: carbon-entry-points\nVersion: 0\n")


def run_of(folder: Path) -> Any:
    (file,) = read_run(folder).files
    assert [(r.reason, r.steps) for r in file.records if isinstance(r, Close)] == [("closed", 8)]
    return manifest_of(file.records)


@pytest.mark.exhaustive
@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
class TestTrainerOf:
    def test_callback_imported_before_the_package_is_one_of_that_package(self, way, tmp_path, package):
        bare, measured = way("callback", package)

        assert len(bare) == 8
        assert measured == bare
        assert package.partition(".")[0] in run_of(tmp_path / "run").versions

    def test_callback_named_in_a_yaml_file_is_made_with_its_arguments(self, way, tmp_path, package):
        bare, measured = way("cli", package)
        manifest = run_of(tmp_path / "run")

        assert len(measured) == len(bare)
        assert manifest.factors["pue"]["value"] == 1.25
        assert manifest.effective["training.steps"]["declared"] == 16

    @pytest.mark.usefixtures("installed")
    def test_a_trainer_measures_itself_by_its_entry_point_after_opting_in(self, way, tmp_path, package):
        bare, measured = way("automatic", package)

        assert measured == bare
        assert run_of(tmp_path / "run").effective["model.parameters"]["value"] == 20

    @pytest.mark.usefixtures("installed")
    def test_the_automatic_callback_does_nothing_beside_the_users_own(self, way, tmp_path, package):
        bare, measured = way("automatic_beside_own", package)

        assert measured == bare
        run_of(tmp_path / "run")
        assert not (tmp_path / "automatic").exists()


@pytest.fixture(scope="module")
def fabric(run_loop) -> dict[str, Any]:
    return run_loop("fabric", needs=("lightning",), script=JOBS / "fabric.py")


@pytest.mark.exhaustive
class TestFabric:
    def test_steps_are_counted_and_checkpoints_are_a_phase(self, fabric):
        assert (fabric["step"], fabric["steps"]) == (16, 16)
        assert {"train", "checkpoint"} <= fabric["phases"]
        assert fabric["closed"] == ["closed"]
        assert fabric["verified"]

    def test_losses_of_both_ranks_are_bit_identical(self, fabric):
        assert len(fabric["losses"]) == 2
        for bare, measured in fabric["losses"]:
            assert len(bare) == 32
            assert measured == bare

    def test_nothing_of_ours_is_left_on_the_objects_of_the_script(self, fabric):
        assert fabric["traces"] == [[], []]

    def test_layout_precision_and_accumulation_are_seen_through_the_wrappers(self, fabric):
        effective = fabric["manifest"].effective

        assert effective["layout.dp_replicate"]["source"] == "detected: process group of DDP"
        assert effective["training.precision"]["value"] == "bf16"
        assert effective["training.micro_batches"]["value"] == 2
        assert effective["model.name"]["value"] == "Sequential"

    def test_figures_reach_the_loggers_of_the_fabric(self, fabric):
        assert "carbon/energy_kwh" in fabric["logged"]
