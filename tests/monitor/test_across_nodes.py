"""Jobs of several nodes when something is not as it should be: every node a real process, one run directory."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

import pytest

from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.sentences.narrative import warnings
from carbon_plugin.audit.summary import summarise
from carbon_plugin.ledger.held.launches import SKEW_EVENT
from carbon_plugin.ledger.held.outline import find_events, outline_of
from carbon_plugin.ledger.reader import LedgerFile, manifest_of, read_run
from carbon_plugin.ledger.records import Close, Event, Projection, Window
from carbon_plugin.ledger.verification.verify import verify_run
from tests.ledger.builder import recorded_j, waited_j
from tests.ledgers import assert_drawn
from tests.monitor.launching import Launch, Process, Start, wait_until

BUSY, SPARE = (f"GPU-00000051-5133-4d00-8000-00000000000{index}" for index in range(2))
REDONE = 20


def records(file: LedgerFile, kind: type) -> list[Any]:
    return [record for record in file.records if isinstance(record, kind)]


def files_of(run_dir: Path) -> dict[str, LedgerFile]:
    return {file.path.name.removesuffix(".jsonl"): file for file in read_run(run_dir).files}


def gpu_j(file: LedgerFile) -> float:
    windows = records(file, Window)
    return sum(e.energy_j for w in windows for e in w.energies if e.key.startswith("GPU") and e.energy_j is not None)


def last_projection(file: LedgerFile) -> Projection:
    projection: Projection = records(file, Projection)[-1]
    return projection


@pytest.fixture(scope="module")
def runs(node: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run all jobs of this file side by side. Each has a folder of its own."""
    top = tmp_path_factory.mktemp("runs")
    both = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "JOB_GPU": BUSY, "spec": "gpus=2;power=300,60"}
    alone = Launch(node, top / "regrown").node(0, 1)
    skewed = Launch(node, top / "skewed").node(0, 3).node(1, 3, CLOCK_AHEAD_S=120, interpreter=True)
    full = Launch(node, top / "full").node(0, 3)
    full_for_good = Launch(node, top / "full for good").node(0, 1)
    plain = [
        Launch(node, top / "one GPU", **both).rank(RANK=0, LOCAL_RANK=0).rank(RANK=1, LOCAL_RANK=1),
        Launch(node, top / "apart").node(0, 2).node(1, 2),
        Launch(node, top / "shared").node(0, 2, spec="gpus=1;power=300").node(1, 2, spec="gpus=1;power=300"),
    ]
    first = [alone, skewed, full, full_for_good, *plain]
    for launch in first:
        launch.await_ready()
    for launch in first:
        launch.begin()
    for name in ("regrown", "skewed", "full", "full for good"):
        wait_until(lambda name=name: count(top / name, b'"type":"projection"') >= 1)
    time.sleep(1.5)

    # Two nodes in the place of one, from a checkpoint, and one of them new, with a clock that is behind.
    alone.end()
    reached = outline_of(top / "regrown" / "node-0.attempt-0.jsonl")
    assert reached is not None
    regrown = (
        Launch(node, top / "regrown", JOB_STEP=reached.last_step - REDONE)
        .node(0, 2)
        .node(1, 2, CLOCK_AHEAD_S=-120, interpreter=True)
    )
    # The third of three, late, and its clock is behind.
    skewed.node(2, 3, CLOCK_AHEAD_S=-120, interpreter=True)
    limits = {
        launch: fill(launch.processes[0], top / name)
        for launch, name in ((full, "full"), (full_for_good, "full for good"))
    }
    regrown.await_ready()
    regrown.begin()
    wait_until(lambda: {"node-1.attempt-0.jsonl", "node-2.attempt-0.jsonl"} <= noticed(top / "skewed").keys())
    time.sleep(1.5)
    for file, limit_bytes in limits.values():
        wait_until(lambda file=file, limit_bytes=limit_bytes: file.stat().st_size >= limit_bytes)
    limit_files(full.processes[0], resource.RLIM_INFINITY)
    for launch in [skewed, regrown, full, full_for_good, *plain]:
        launch.end()
    return top


def count(run_dir: Path, words: bytes) -> int:
    """Return how often some words are in the ledger of the first node."""
    file = run_dir / "node-0.attempt-0.jsonl"
    return file.read_bytes().count(words) if file.exists() else 0


def noticed(run_dir: Path) -> dict[str, float]:
    """Return the clock offsets that rank 0 has recorded, s, by file name."""
    events = find_events(run_dir / "node-0.attempt-0.jsonl", SKEW_EVENT)
    return {name: offset_s for event in events for name, offset_s in event.data["offsets_s"].items()}


def fill(process: Process, run_dir: Path) -> tuple[Path, int]:
    """Leave room for half a record, as a disk does that is full; the ledger, and the size at which that is."""
    file = run_dir / "node-0.attempt-0.jsonl"
    wait_until(lambda: count(run_dir, b'"window"') >= 2)
    limit_bytes = file.stat().st_size + 100
    limit_files(process, limit_bytes)
    return file, limit_bytes


def limit_files(process: Process, size_bytes: int) -> None:
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size_bytes, hard))


@pytest.fixture(scope="module")
def audits(runs: Path) -> dict[str, AuditSummary]:
    return {folder.name: summarise(folder) for folder in runs.iterdir() if (folder / "run.json").exists()}


def test_clocks_two_minutes_apart_are_an_event_and_change_no_total(runs, audits):
    files, summary = files_of(runs / "skewed"), audits["skewed"]
    events = [event for event in records(files["node-0.attempt-0"], Event) if event.kind == SKEW_EVENT]
    said = noticed(runs / "skewed")

    # The steps of a span count as equally long, which those of a node that was held up for some seconds are not.
    assert said == pytest.approx({"node-1.attempt-0.jsonl": 120, "node-2.attempt-0.jsonl": -120}, abs=20)
    assert events[0].message.startswith("clocks of other nodes are up to 1")
    assert summary.verification.ok
    assert summary.coverage.clock_offsets_s == pytest.approx(said)
    assert any(warning.startswith("Clocks of ledgers were up to ") for warning in warnings(summary))
    assert recorded_j(summary, "gpu") == pytest.approx(sum(map(gpu_j, files.values())))
    assert summary.period.wall_s < float((runs / "skewed.lasted").read_text()) + 60
    assert (summary.waste.redone_steps, summary.coverage.overlaps) == (0, [])


def test_a_node_that_joins_late_counts_from_when_it_joined(runs, audits):
    files = files_of(runs / "skewed")
    first, late = (records(files[f"node-{number}.attempt-0"], Window) for number in (0, 2))
    projections = records(files["node-0.attempt-0"], Projection)

    assert late[-1].last_step == first[-1].last_step
    assert late[0].last_step - late[0].steps > 50
    assert [projection.nodes_seen for projection in projections][-1] == 3
    assert min(projection.nodes_seen for projection in projections) < 3
    assert audits["skewed"].coverage.nodes_seen == 3
    closes = [records(file, Close)[0].energy_j for file in files.values()]
    assert projections[-1].spent_energy_j == pytest.approx(sum(closes) + waited_j(runs / "skewed"), rel=0.15)


def test_an_attempt_with_another_number_of_nodes_continues_the_run(runs, audits):
    files, summary = files_of(runs / "regrown"), audits["regrown"]

    assert sorted(files) == ["node-0.attempt-0", "node-0.attempt-1", "node-1.attempt-0"]
    assert summary.verification.ok
    assert recorded_j(summary, "gpu") == pytest.approx(sum(map(gpu_j, files.values())))
    assert summary.coverage.gpus_measured == 2
    assert last_projection(files["node-0.attempt-1"]).nodes_seen == 2
    assert last_projection(files["node-0.attempt-1"]).spent_energy_j > 1.1 * gpu_j(files["node-0.attempt-1"])


def test_steps_done_again_are_waste_also_on_a_new_node_whose_clock_is_behind(runs, audits):
    files, waste = files_of(runs / "regrown"), audits["regrown"].waste
    again = [files["node-0.attempt-1"], files["node-1.attempt-0"]]

    assert waste.redone_steps == REDONE
    startups = [w for file in again for w in records(file, Window) if w.phase == "startup"]
    assert waste.restart_energy_j == pytest.approx(sum(e.energy_j or 0 for w in startups for e in w.energies))
    assert waste.redone_energy_j > 0


def test_a_node_that_never_appears_makes_it_n_of_m(runs, audits):
    projection = last_projection(files_of(runs / "full")["node-0.attempt-0"])

    assert (projection.nodes_seen, projection.nodes) == (1, 3)
    assert (audits["full"].coverage.nodes_seen, audits["full"].coverage.nodes) == (1, 3)
    assert warnings(audits["full"])[0] == "Ledgers of 2 nodes of 3 are missing; their energy is in no total."


def test_records_of_a_full_disk_are_written_when_there_is_room_again(runs):
    (file,) = files_of(runs / "full").values()
    windows = records(file, Window)

    assert [window.index for window in windows] == list(range(len(windows)))
    assert len([event for event in records(file, Event) if event.kind == "ledger_trouble"]) == 1
    assert records(file, Close)[0].windows == len(windows)
    assert verify_run(runs / "full").ok


def test_a_disk_that_stays_full_keeps_what_was_written(runs):
    (file,) = files_of(runs / "full for good").values()

    assert file.intact
    assert len(records(file, Window)) >= 2
    assert not records(file, Close)
    assert verify_run(runs / "full for good").ok


def test_containers_of_a_host_with_gpus_of_their_own_add_up(runs, audits):
    files, summary = files_of(runs / "apart"), audits["apart"]

    assert len({manifest_of(file.records).host_key for file in files.values()}) == 1
    assert recorded_j(summary, "gpu") == pytest.approx(sum(map(gpu_j, files.values())))
    assert (summary.coverage.gpus_measured, summary.reserved.host_s) == (
        2, pytest.approx(summary.reserved.device_s / 8),
    )  # fmt: skip
    assert [overlap.key for overlap in summary.coverage.overlaps if overlap.key.startswith("GPU")] == []


def test_a_gpu_that_two_containers_see_is_counted_once(runs, audits):
    files, summary = files_of(runs / "shared"), audits["shared"]
    joules = sorted(map(gpu_j, files.values()))
    live_j = last_projection(files["node-0.attempt-0"]).spent_energy_j

    assert summary.coverage.gpus_measured == summary.coverage.gpus_seen == 1
    # Two meters cut the same second a little differently: by 80 ms of these few seconds where the machine is busy.
    assert 0.95 * joules[1] <= recorded_j(summary, "gpu") < 0.75 * sum(joules)
    assert BUSY in {overlap.key for overlap in summary.coverage.overlaps}
    assert live_j == pytest.approx(summary.energy.energy_j, rel=0.2)


def test_two_ranks_on_one_gpu_count_it_once_and_the_idle_one_is_charged(runs, audits):
    files = files_of(runs / "one GPU")  # a rank that began before local rank 0 has a ledger of its own until then
    summary = audits["one GPU"]
    manifest = manifest_of(files["node-0.attempt-0"].records)
    seconds = sum(window.duration_s for file in files.values() for window in records(file, Window))
    by_key = {device.identity.key: device for device in summary.devices}

    assert {device.key: device.ranks for device in manifest.devices if device.rung == "gpu"} == {
        BUSY: [0, 1],
        SPARE: [],
    }
    # Where the machine is busy, the last reading comes late.
    lasted_s = float((runs / "one GPU.lasted").read_text())
    for key, power_w in ((BUSY, 300), (SPARE, 60)):
        assert_drawn(by_key[key].energy.range, power_w, seconds, lasted_s)
    assert summary.reserved.device_s >= 2 * seconds * 0.99
