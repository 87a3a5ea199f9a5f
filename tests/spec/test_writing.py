"""A run written as a file is read back as the same run."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.hardware.profiles import find_accelerator
from carbon_plugin.spec.loading import build_run_spec, load_run_spec
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.writing import write_run_spec

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "specs").glob("*.yaml"))
PROFILES = Path(__file__).parents[2] / "hardware_profiles" / "accelerators"


def round_trip(spec: RunSpec, path: Path) -> RunSpec:
    write_run_spec(spec, path)
    return msgspec.structs.replace(load_run_spec(path), assumptions=spec.assumptions)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_survives_being_written(example: Path, tmp_path: Path) -> None:
    spec = load_run_spec(example)
    assert round_trip(spec, tmp_path / "run.yaml") == spec


def test_unusual_fields_survive_too(tmp_path: Path) -> None:
    spec = build_run_spec(
        {
            "name": "unusual",
            "model": {"preset": "deepseek-v3", "moe": {"experts": 128}},
            "cluster": {"accelerator": "h100-sxm", "nodes": 2, "devices_per_node": 4, "power_cap_w": 500},
            "layout": {"tp": 4, "dp_shard": 2, "zero_stage": 1},
            "training": {
                "seq_len": 4096, "global_batch_size": 8, "steps": 10, "precision": "fp8", "optimizer": "muon",
                "evaluation": {"every_steps": 5, "sequences": 8}, "reliability": {"mtbf_device_hours": 1e5},
            },
            "site": {
                "zone": "NO", "instruments": [{"kind": "ppa", "g_per_kwh": 12, "source": "wind", "share": 0.5}],
                "intensity_series": "hours.csv",
            },
            "stack": "megatron-lm",
            "start": "2026-01-01T00:00Z",
        },
        origin="test",
    )  # fmt: skip
    back = round_trip(spec, tmp_path / "run.yaml")
    assert back.site.intensity_series == str(Path("hours.csv").absolute())
    assert msgspec.structs.replace(back, site=spec.site) == spec


def test_a_profile_of_the_user_comes_along_and_its_absence_is_noticed(tmp_path: Path) -> None:
    mine = tmp_path / "mine" / "accelerators"
    mine.mkdir(parents=True)
    shutil.copy(PROFILES / "h100-sxm.yaml", mine)
    (mine / "h100-sxm.yaml").write_text(
        (mine / "h100-sxm.yaml").read_text().replace("tdp_w: {value: 700", "tdp_w: {value: 650")
    )
    assert find_accelerator("h100-sxm", profile_dirs=[tmp_path / "mine"]).tdp_w.value == 650
    spec = load_run_spec(EXAMPLES[-1], profile_dirs=[tmp_path / "mine"])
    write_run_spec(spec, tmp_path / "run.yaml", profile_dirs=[tmp_path / "mine"])
    assert load_run_spec(tmp_path / "run.yaml").cluster == spec.cluster
    with pytest.raises(SpecError, match="is not read back as the run that was written"):
        write_run_spec(spec, tmp_path / "other.yaml")
