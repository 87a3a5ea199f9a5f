"""Records of schedulers as they are found: pods that wait, names that come again, parts of GPUs, quotes in names."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from carbon_plugin.audit.allocation.gpu_resources import held_of, slice_share
from carbon_plugin.audit.allocation.kubernetes import read_kubernetes
from carbon_plugin.audit.allocation.slurm import read_sacct
from carbon_plugin.audit.findings.reserved import Allocation
from carbon_plugin.errors import ReportError

DATA = Path(__file__).parent / "data" / "scheduler"
NOON_UNIX_S = datetime.fromisoformat("2026-11-28T12:00:00Z").timestamp()


def pods_in(path: Path) -> list[Allocation]:
    return read_kubernetes(path, gpus_by_host={"w-0": 8}, until_unix_s=NOON_UNIX_S)


def gpu_hours(allocations: list[Allocation]) -> float:
    return sum(one.gpus * one.duration_s for one in allocations) / 3600


@pytest.mark.parametrize(
    ("name", "hours"),
    [
        ("pending", 0.0),
        ("reborn", 16.0),
        ("namespaces", 24.0),
        ("mig", 2 / 7),
        ("shared", 1.0),
        ("micro", 8 * (1 - 0.123456 / 3600)),
    ],
)
def test_each_pod_holds_its_gpus_from_its_node_to_its_end(name: str, hours: float) -> None:
    assert gpu_hours(pods_in(DATA / f"{name}.json")) == pytest.approx(hours, abs=1e-9)


def test_a_pod_that_is_gone_had_the_gpus_of_the_one_that_has_its_name_now() -> None:
    elsewhere = read_kubernetes(DATA / "reborn.json", gpus_by_host={"node-7": 2}, until_unix_s=NOON_UNIX_S)

    assert gpu_hours(elsewhere) == pytest.approx(16.0)


def test_parts_of_gpus_say_what_they_are() -> None:
    (mig,), (shared,) = pods_in(DATA / "mig.json"), pods_in(DATA / "shared.json")

    assert (mig.sized, mig.notes) == (True, ["2 x nvidia.com/mig-1g.10gb, 0.143 of a GPU each"])
    assert (shared.sized, len(shared.notes)) == (False, 1)
    assert "others may have shared" in shared.notes[0]


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("nvidia.com/mig-3g.40gb", 3 / 7),
        ("nvidia.com/mig-1c.3g.20gb", 1 / 7),
        ("nvidia.com/mig-2g.12gb", 2 / 4),
        ("a100_1g.5gb", 1 / 7),
        ("nvidia.com/gpu", None),
    ],
)
def test_a_mig_profile_is_its_share_of_compute_slices(name: str, share: float | None) -> None:
    assert slice_share(name) == share


def test_devices_of_every_vendor_count_and_other_resources_do_not() -> None:
    counts = [
        ("amd.com/gpu", 8),
        ("gpu.intel.com/xe", 2),
        ("habana.ai/gaudi", 1),
        ("rdma/hca", 8),
        ("example.com/x", 4),
    ]

    assert held_of(counts).gpus == 11.0


def pod(tmp_path: Path, spec: dict[str, Any], status: dict[str, Any] | None = None, *more: Any) -> list[Allocation]:
    item = {
        "kind": "Pod",
        "metadata": {"name": "w-0", "namespace": "ml", "uid": "u1"},
        "spec": spec,
        "status": {
            "phase": "Running",
            "startTime": "2026-11-28T10:00:00Z",
            "containerStatuses": [{"state": {"running": {}}}],
            **(status or {}),
        },
    }
    (tmp_path / "pods.json").write_text(json.dumps({"items": [item, *more]}), encoding="utf-8")
    return pods_in(tmp_path / "pods.json")


def container(gpus: int, **fields: Any) -> dict[str, Any]:
    return {"resources": {"requests": {"nvidia.com/gpu": gpus}}, **fields}


def test_init_containers_run_before_the_others_and_sidecars_beside_them(tmp_path: Path) -> None:
    first, sidecar = container(8), container(1, restartPolicy="Always")

    (alone,) = pod(tmp_path, {"initContainers": [first], "containers": [container(4)]})
    (beside,) = pod(tmp_path, {"initContainers": [sidecar, first], "containers": [container(4)]})

    assert (alone.gpus, beside.gpus) == (8.0, 9.0)


@pytest.mark.parametrize("content", ["{}", '{"version": 1}', '{"items": [{"kind": "ConfigMap"}, {}]}'])
def test_a_document_of_something_else_states_no_allocation(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content, encoding="utf-8")

    with pytest.raises(ReportError, match=r"other\.json: expected the output of kubectl"):
        read_kubernetes(path, gpus_by_host={}, until_unix_s=NOON_UNIX_S)


def test_a_namespace_without_objects_has_no_allocation(tmp_path: Path) -> None:
    path = tmp_path / "none.json"
    path.write_text('{"kind": "List", "items": []}', encoding="utf-8")

    assert read_kubernetes(path, gpus_by_host={}, until_unix_s=NOON_UNIX_S) == []


def test_a_resource_claim_is_the_devices_that_it_was_given_else_one(tmp_path: Path) -> None:
    spec = {"containers": [{}], "resourceClaims": [{"name": "gpus", "resourceClaimTemplateName": "four"}]}
    status = {"resourceClaimStatuses": [{"name": "gpus", "resourceClaimName": "w-0-gpus-x7"}]}
    claim = {
        "kind": "ResourceClaim",
        "metadata": {"name": "w-0-gpus-x7", "namespace": "ml"},
        "status": {"allocation": {"devices": {"results": [{"device": f"gpu-{n}"} for n in range(4)]}}},
    }

    (known,) = pod(tmp_path, spec, status, claim)
    (unknown,) = pod(tmp_path, spec, status)

    assert (known.gpus, unknown.gpus) == (4.0, 1.0)
    assert "counted as one device" in unknown.notes[0]


def test_a_container_that_is_killed_and_started_again_does_not_end_its_pod(tmp_path: Path) -> None:
    about = {"kind": "Pod", "name": "w-0", "namespace": "ml", "uid": "u1"}
    killing = {
        "kind": "Event", "reason": "Killing", "involvedObject": about, "lastTimestamp": "2026-11-28T10:30:00Z",
    }  # fmt: skip

    (running,) = pod(tmp_path, {"containers": [container(8)]}, None, killing)
    over = {"phase": "Failed", "containerStatuses": [], "reason": "Evicted"}
    (evicted,) = pod(tmp_path, {"containers": [container(8)]}, over, killing)

    assert (running.duration_s, evicted.duration_s) == (7200.0, 1800.0)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"phase": 7}, r"items\[0\]\.status\.phase is 7, expected text"),
        ({"startTime": "soon"}, r"items\[0\]\.status\.startTime is 'soon', expected a moment such as"),
        ({"startTime": "9999-12-31T23:59:59Z"}, "expected a moment in the years 2000 to 2099"),
        ({"containerStatuses": [{"state": {"terminated": "yes"}}]}, r"terminated is 'yes', expected a mapping"),
        ({"containerStatuses": "none"}, r"items\[0\]\.status\.containerStatuses is 'none', expected a list"),
    ],
)
def test_a_field_that_cannot_be_read_is_named_with_its_place(
    tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ReportError, match=rf"pods\.json: .*{problem}"):
        pod(tmp_path, {"containers": [container(8)]}, change)


@pytest.mark.parametrize(
    ("name", "jobs", "hours"), [("quote", 3, 24.0), ("quote2", 3, 24.0), ("pipe", 1, 120 * 2 / 3600)]
)
def test_sacct_is_read_as_the_tool_writes_it(name: str, jobs: int, hours: float) -> None:
    found = read_sacct(DATA / f"{name}.txt")

    assert (len(found), gpu_hours(found)) == (jobs, pytest.approx(hours))


def test_outputs_of_sacct_that_overlap_count_each_start_of_a_job_once(tmp_path: Path) -> None:
    header = "JobID|Start|ElapsedRaw|AllocTRES|"
    first, again = "7|2026-11-20T08:00:00|3600|gres/gpu=8|", "7|2026-11-20T10:00:00|3600|gres/gpu=8|"
    (tmp_path / "jobs").write_bytes("\r\n".join([header, first, again, first, ""]).encode())

    assert gpu_hours(read_sacct(tmp_path / "jobs")) == 16.0


def test_slices_of_slurm_count_as_their_share(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("JobID|ElapsedRaw|AllocTRES\n7|3600|gres/gpu=3,gres/gpu:a100_1g.5gb=2\n")

    (found,) = read_sacct(tmp_path / "jobs")

    assert (found.gpus, found.sized) == (pytest.approx(1 + 2 / 7), True)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("7||²|gres/gpu=8", r"jobs:2: job 7 has ElapsedRaw '²', expected seconds"),
        (f"7||{10**20}|gres/gpu=8", r"jobs:2: job 7 has ElapsedRaw '1000+', expected seconds"),
        ("7||9999999999|gres/gpu=8", r"jobs:2: job 7 ran for 9,999,999,999 s, expected at most 20 years"),
        (f"7||60|gres/gpu={'9' * 400}", r"jobs:2: AllocTRES has 'gres/gpu=9+\.\.\., expected a number of GPUs"),
        ("7||60", r"jobs:2: 3 cells, expected 4"),
    ],
)
def test_a_row_that_cannot_be_is_named_with_its_line(tmp_path: Path, row: str, problem: str) -> None:
    (tmp_path / "jobs").write_text(f"JobID|State|ElapsedRaw|AllocTRES\n{row}\n", encoding="utf-8")

    with pytest.raises(ReportError, match=problem):
        read_sacct(tmp_path / "jobs")


def test_a_blank_state_and_a_cell_of_any_length_are_read(tmp_path: Path) -> None:
    row = f"7| |60|gres/gpu=8|{'x' * 200_000}"
    (tmp_path / "jobs").write_text(f"JobID|State|ElapsedRaw|AllocTRES|JobName\n{row}\n", encoding="utf-8")

    (found,) = read_sacct(tmp_path / "jobs")

    assert (found.state, found.gpus, found.duration_s) == ("UNKNOWN", 8.0, 60.0)
