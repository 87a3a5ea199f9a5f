"""The scheduler's account beside the ledgers': 100 GPU-hours allocated and 90 observed are 10 reported and modelled."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from carbon_plugin.audit.allocation.kubernetes import read_kubernetes
from carbon_plugin.audit.allocation.reconcile import reconcile
from carbon_plugin.audit.allocation.slurm import read_sacct
from carbon_plugin.audit.findings.reserved import Allocation, Reserved
from carbon_plugin.audit.report.text import render_text
from carbon_plugin.audit.report.write import write_audit
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.summary import summarise
from carbon_plugin.errors import ReportError
from carbon_plugin.footprint.values import Factors
from carbon_plugin.spec.hardware.profiles import load_accelerator, load_node
from tests.launcher.client import CommandLine
from tests.ledger.builder import RUN_START_UNIX_S, Attempt, Job

HOUR_S = 3600.0

SACCT = """JobID|State|Start|End|ElapsedRaw|AllocTRES
4711|NODE_FAIL|2026-11-20T08:00:00|2026-11-20T10:00:00|7200|billing=96,cpu=96,gres/gpu=8,gres/gpu:h100=8,mem=1T,node=1
4711.batch|CANCELLED|2026-11-20T08:00:00|2026-11-20T10:00:00|7200|cpu=96,gres/gpu=8,mem=1T,node=1
4711.0|FAILED|2026-11-20T08:01:00|2026-11-20T10:00:00|7140|cpu=96,gres/gpu:h100=8,mem=1T,node=1
4711|COMPLETED|2026-11-20T11:00:00|2026-11-20T12:00:00|3600|cpu=96,gres/gpu:h100=4,gres/gpu:a100=2,node=1
4712|PENDING|Unknown|Unknown|0|
4713|CANCELLED by 1000|2026-11-20T12:00:00|2026-11-20T12:00:30|30|cpu=4,mem=8G,node=1
"""


def stamp(after_s: float) -> str:
    return datetime.fromtimestamp(RUN_START_UNIX_S + after_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def job_of(factors: Factors) -> Job:
    return Job(
        factors=msgspec.to_builtins(factors),
        intensity_g_per_kwh=factors.intensity.figure.value,
        attempts=[Attempt(0, 12, reserved_before_s=60.0)],
    )


@pytest.fixture(scope="module")
def run_dir(factors: Factors, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reconciled") / "run"
    job_of(factors).write(folder)
    return folder


@pytest.fixture(scope="module")
def summary(run_dir: Path) -> AuditSummary:
    return summarise(run_dir)


def hours(device_hours: float) -> list[Allocation]:
    return [Allocation(name="job 1", state="COMPLETED", gpus=8.0, duration_s=device_hours * HOUR_S / 8)]


def test_100_allocated_and_90_observed_gpu_hours_are_10_reported_and_modelled_as_idle(summary: AuditSummary) -> None:
    reserved = Reserved(device_s=92 * HOUR_S, before_first_record_s=2 * HOUR_S, host_s=20 * HOUR_S, devices_from="test")
    summary = msgspec.structs.replace(summary, reserved=reserved)
    account = reconcile(summary, hours(100), "sacct")
    assert account.allocated_device_s == pytest.approx(100 * HOUR_S)
    assert account.observed_device_s == pytest.approx(90 * HOUR_S)
    assert account.unobserved_device_s == pytest.approx(10 * HOUR_S)
    assert account.uncharged_device_s == pytest.approx(8 * HOUR_S)
    assert account.footprint is not None
    assert account.power_w is not None
    assert summary.factors is not None
    gpu = account.footprint.energy_j["gpu"]
    assert gpu.value == pytest.approx(load_accelerator("h100-sxm").idle_power_w.value * 10 * HOUR_S)
    assert gpu.low <= gpu.value
    assert gpu.high > 3 * gpu.value  # a GPU that nobody observed may have worked at the 400 W of the run
    assert account.footprint.energy_j["it"].value == pytest.approx(account.power_w.value * 10 * HOUR_S)
    years = 8 * HOUR_S / (365.25 * 86_400) / summary.factors.lifetime_years.value
    assert account.footprint.embodied_parts_kg["device"].value == pytest.approx(160.0 * years, rel=1e-3)
    assert account.footprint.embodied_parts_kg["host"].value == pytest.approx(
        3000.0 * years / load_node("hgx-h100").accelerators, rel=1e-3
    )
    assert [assumption.field for assumption in account.assumptions] == ["power of unobserved devices"]


def test_slices_that_the_scheduler_counts_as_gpus_are_parts_of_gpus(factors: Factors, tmp_path: Path) -> None:
    job = job_of(factors)
    job.gpu_share = 0.25
    job.write(tmp_path)
    summary = summarise(tmp_path)
    whole_s = summary.reserved.device_s / 0.25
    held = [Allocation(name="job 1", state="COMPLETED", gpus=4.0, duration_s=whole_s / 4 + 100.0)]

    account = reconcile(summary, held, "sacct")

    assert account.uncharged_device_s == pytest.approx(0.25 * 400.0)
    first = account.assumptions[0]
    assert (first.field, first.value) == ("GPUs of the scheduler", "0.25 of a GPU each")


def test_what_was_observed_beyond_the_allocation_is_an_assumption_and_nothing_negative(summary: AuditSummary) -> None:
    account = reconcile(summary, hours(0.01), "sacct")
    assert account.unobserved_device_s == account.uncharged_device_s == 0.0
    assert account.footprint is not None
    assert account.footprint.total_kg.value == 0.0
    assert account.assumptions[0].field == "observed beyond allocated"


def test_a_run_without_a_site_has_hours_and_power_and_no_carbon(summary: AuditSummary) -> None:
    bare = msgspec.structs.replace(summary, factors=None, no_carbon_reason="the run was given no site")
    account = reconcile(bare, hours(100), "sacct")
    assert account.footprint is None
    assert account.power_w is not None
    assert account.not_modelled_reason == "the run was given no site"


def test_a_device_without_a_profile_has_hours_and_no_energy(summary: AuditSummary) -> None:
    devices = [
        msgspec.structs.replace(device, identity=msgspec.structs.replace(device.identity, profile=None))
        for device in summary.devices
    ]
    account = reconcile(msgspec.structs.replace(summary, devices=devices), hours(100), "sacct")
    assert account.power_w is None
    assert account.not_modelled_reason == "no hardware profile knows the idle power of the run's device"


def test_sacct_counts_every_allocation_once_and_no_step(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text(SACCT)
    found = read_sacct(tmp_path / "jobs")
    assert [(one.name, one.state, one.gpus, one.duration_s) for one in found] == [
        ("job 4711", "NODE_FAIL", 8.0, 7200.0),
        ("job 4711", "COMPLETED", 6.0, 3600.0),
        ("job 4713", "CANCELLED", 0.0, 30.0),
    ]


def test_sacct_may_tell_elapsed_in_words(tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("JobID|Elapsed|AllocTRES\n7|1-02:03:04|gres/gpu=2\n")
    assert read_sacct(tmp_path / "jobs")[0].duration_s == 86_400 + 2 * 3600 + 3 * 60 + 4


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "expected the output of sacct -P"),
        ("JobID|State\n1|COMPLETED\n", "the columns JobID, ElapsedRaw and AllocTRES"),
        ("JobID|ElapsedRaw|AllocTRES\n1|soon|gres/gpu=2\n", "job 1 has ElapsedRaw 'soon', expected seconds"),
    ],
)
def test_another_file_is_one_readable_error(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "jobs").write_text(content)
    with pytest.raises(ReportError) as raised:
        read_sacct(tmp_path / "jobs")
    assert words in str(raised.value)


@pytest.mark.parametrize("held", [[], [Allocation(name="job 1", state="COMPLETED", gpus=0.0, duration_s=60.0)]])
def test_jobs_that_held_no_gpu_were_allocated_nothing(summary: AuditSummary, held: list[Allocation]) -> None:
    account = reconcile(summary, held, "sacct")

    assert account.allocated_device_s == account.unobserved_device_s == account.uncharged_device_s == 0.0
    assert account.footprint is not None
    assert account.footprint.total_kg.value == 0.0
    assert account.assumptions[0].source == "the scheduler's file lacks any job with GPUs that was started"


def pod(name: str, *, scheduled_s: float, finished_s: float | None, gpus: int) -> dict[str, Any]:
    state = {"running": {}} if finished_s is None else {"terminated": {"finishedAt": stamp(finished_s)}}
    return {
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": str(gpus), "cpu": "8"}}}]},
        "status": {
            "phase": "Running" if finished_s is None else "Succeeded",
            "conditions": [{"type": "PodScheduled", "lastTransitionTime": stamp(scheduled_s)}],
            "containerStatuses": [{"state": state}],
        },
    }


def event(name: str, reason: str, at_s: float) -> dict[str, Any]:
    about = {"kind": "Pod", "name": name}
    return {"kind": "Event", "reason": reason, "involvedObject": about, "firstTimestamp": stamp(at_s)}


def test_pods_and_events_of_kubernetes_are_allocations(tmp_path: Path) -> None:
    items = [
        pod("train-0", scheduled_s=0, finished_s=3600, gpus=8),
        pod("train-1", scheduled_s=100, finished_s=None, gpus=4),
        pod("waiting", scheduled_s=0, finished_s=None, gpus=0),
        event("gone-0", "Scheduled", 0),
        event("gone-0", "Evicted", 600),
        event("gone-1", "Scheduled", 50),
        event("gone-1", "Killing", 60),
        {"kind": "Event", "reason": "NodeNotReady", "involvedObject": {"kind": "Node", "name": "n7"}},
    ]
    (tmp_path / "pods.json").write_text(json.dumps({"kind": "List", "items": items}))
    found = read_kubernetes(
        tmp_path / "pods.json", gpus_by_host={"gone-0": 2, "elsewhere": 8}, until_unix_s=RUN_START_UNIX_S + 1000
    )
    assert [(one.name, one.state, one.gpus, one.duration_s) for one in found] == [
        ("pod train-0", "Succeeded", 8.0, 3600.0),
        ("pod train-1", "Running", 4.0, 900.0),
        ("pod gone-0", "Gone", 2.0, 600.0),
        ("pod gone-1", "Gone", 8.0, 10.0),
    ]


@pytest.mark.parametrize("content", ["", "[]", "not JSON", '{"items": 3}'])
def test_something_else_than_kubernetes_lists_is_one_readable_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "pods.json").write_text(content)
    with pytest.raises(ReportError, match="expected the output of kubectl get pods,events -o json"):
        read_kubernetes(tmp_path / "pods.json", gpus_by_host={}, until_unix_s=0.0)


def test_the_report_states_it_beside_the_totals(run_dir: Path, summary: AuditSummary, tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("JobID|ElapsedRaw|AllocTRES\n1|3600|gres/gpu=4\n")
    written = write_audit(run_dir, tmp_path, sacct=tmp_path / "jobs")
    assert written.summary.reconciliation is not None
    assert written.summary.energy == summary.energy
    assert written.summary.footprint == summary.footprint
    assert "allocated, not observed" in written.html.read_text()
    assert "of 4.00 h of allocated device time were observed by no ledger" in written.text.read_text()


def test_allocated_time_that_is_in_the_totals_as_idle_is_not_said_to_be_in_no_total(
    run_dir: Path, summary: AuditSummary, tmp_path: Path
) -> None:
    """The run held 4 GPUs for 60 s before its first record, and the job was allocated for exactly that and the run."""
    allocated_s = round(summary.reserved.device_s / 4, 3)
    jobs = [Allocation(name="job 1", state="COMPLETED", gpus=4.0, duration_s=allocated_s)]
    summary = msgspec.structs.replace(summary, reconciliation=reconcile(summary, jobs, "sacct"))
    text = render_text(summary)
    assert summary.reconciliation is not None
    assert summary.reconciliation.unobserved_device_s == pytest.approx(240.0, rel=1e-3)
    assert "were observed by no ledger; they are in the totals, modelled as idle." in text
    assert "observed by no ledger; modelled as idle they add" not in text


def test_a_pod_that_was_never_scheduled_is_no_gpu_hours_and_no_error(
    run_dir: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    pending = Path(__file__).parent / "data" / "scheduler" / "pending.json"
    done = command_line("audit", run_dir, "--out", tmp_path, "--kubernetes", pending)

    assert done.returncode == 0, done.stderr
    assert "0 GPU-hours were allocated (Kubernetes, pending.json)" in done.stdout.replace("\n", " ")


def test_the_command_takes_one_schedulers_account(run_dir: Path, tmp_path: Path, command_line: CommandLine) -> None:
    pods = {"items": [pod("train-0", scheduled_s=0, finished_s=7200, gpus=8)]}
    (tmp_path / "pods.json").write_text(json.dumps(pods))
    account = ("--kubernetes", tmp_path / "pods.json")
    done = command_line("audit", run_dir, *account, "--json")
    assert json.loads(done.stdout)["reconciliation"]["allocated_device_s"] == 16 * HOUR_S
    refused = command_line("audit", run_dir, *account, "--sacct", "jobs")
    assert refused.returncode != 0
    assert "one scheduler's account at a time" in refused.stderr


def test_time_of_ranks_without_a_gpu_is_no_time_of_allocated_gpus(summary: AuditSummary) -> None:
    """A run on CPUs inside of an allocation of GPUs observed none of them."""
    on_cpus = [device for device in summary.devices if device.identity.rung != "gpu"]
    allocation = Allocation(name="4711", state="COMPLETED", gpus=8, duration_s=3 * HOUR_S, sized=True)

    found = reconcile(msgspec.structs.replace(summary, devices=on_cpus), [allocation], "sacct")

    assert (found.observed_device_s, found.unobserved_device_s) == (0.0, 24 * HOUR_S)
    assert any("no ledger names a GPU" in one.source for one in found.assumptions)
