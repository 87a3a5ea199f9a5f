"""The whole monitor in real processes under a simulated driver: what is in the ledger, however the job ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from carbon_plugin.audit.summary import summarise
from carbon_plugin.ledger.reader import LedgerFile, manifest_of, read_run
from carbon_plugin.ledger.records import Close, Event, Projection, Span, Window
from carbon_plugin.ledger.verification.verify import verify_run
from tests.ledger.builder import waited_j
from tests.ledgers import assert_drawn, energy_of, ledger_of
from tests.monitor.launching import wait_until

ENDS = {
    "close": (0, "closed"),
    "falls through": (0, "exit"),
    "exit": (3, "exit"),
    "exception": (1, "exception: RuntimeError"),
    "SIGINT": (-2, "exception: KeyboardInterrupt"),
    "SIGKILL": (-9, None),
    "SIGTERM": (-15, None),
}


def records(file: LedgerFile, kind: type) -> list[Any]:
    return [record for record in file.records if isinstance(record, kind)]


def assert_metered(file: LedgerFile, output: str, powers_w: dict[str, float]) -> None:
    """Check that a ledger holds what each GPU drew, by the last digit of its UUID: at least that of its windows, and at
    most that of the time from the start to the end of monitoring, since the last reading may come late.
    """
    lasted_s = float(output.partition("lasted ")[2].split()[0])
    windows = records(file, Window)
    recorded_s = sum(window.duration_s for window in windows)
    # A step of the counter. It counts twice where the first window tells the energy of a time before the first reading,
    # which may be as long as the window on a busy machine.
    counter_step_s = 2 * 0.1
    for key, power_w in powers_w.items():
        energy = energy_of(windows, f"-00000000000{key}")
        assert_drawn(energy, power_w, recorded_s - counter_step_s, lasted_s + counter_step_s)


def windows_in(ledger: Path) -> int:
    return ledger.read_bytes().count(b'"type":"window"') if ledger.exists() else 0


def test_ledger_survives_every_end(job, tmp_path):
    jobs = {scenario: job(scenario, tmp_path / scenario, interpreter=True) for scenario in ENDS}

    for scenario, process in jobs.items():
        output, errors = process.communicate(timeout=240)
        code, reason = ENDS[scenario]
        file = ledger_of(tmp_path / scenario)
        assert process.returncode == code, errors
        assert output.strip().endswith("imported []\nno torch")
        assert file.intact
        assert not file.torn_tail
        assert verify_run(tmp_path / scenario).ok
        closes = records(file, Close)
        assert [close.reason for close in closes] == ([reason] if reason else [])
        last = closes[-1].steps if closes else max(window.last_step for window in records(file, Window))
        assert last > 0
        said = [line for line in errors.splitlines() if line.startswith("carbon_plugin:")]
        assert len(said) == (2 if reason else 1), errors  # a line at the start, and one at an orderly end


def test_phases_cut_windows_and_spans_leave_them_out(job, tmp_path):
    process = job("phases", tmp_path / "run")
    process.communicate(timeout=240)
    file = ledger_of(tmp_path / "run")
    windows, spans = records(file, Window), records(file, Span)

    assert {window.phase for window in windows} == {"startup", "train", "evaluation"}
    evaluation = [window for window in windows if window.phase == "evaluation"]
    assert sum(window.duration_s for window in evaluation) >= 0.6
    assert sum(window.steps for window in evaluation) <= 1
    assert spans
    for span in spans:
        end = span.start_unix_s + span.duration_s
        for window in evaluation:
            assert end <= window.start_unix_s + 0.02 or span.start_unix_s >= window.start_unix_s - 0.02
        assert span.step_time_s >= 0.02
        # The counters step every 100 ms, at either end of a span that may be 300 ms long.
        steps_of_the_counter = 2 * 0.1 / span.duration_s
        assert span.gpu_energy_per_step_j / span.step_time_s == pytest.approx(700, rel=0.05 + steps_of_the_counter)


def test_windows_hold_the_power_of_each_gpu_once_and_every_step(job, tmp_path):
    process = job("close", tmp_path / "run", 2.5, spec="gpus=2;power=300,400;counter_step=0.01")
    output, _ = process.communicate(timeout=240)
    file = ledger_of(tmp_path / "run")

    assert_metered(file, output, {"0": 300, "1": 400})
    (close,) = records(file, Close)
    windows = records(file, Window)
    assert close.energy_j == pytest.approx(sum(e.energy_j for window in windows for e in window.energies))
    assert close.steps == sum(window.steps for window in windows)
    assert close.steps * 100 == sum(window.tokens for window in windows)
    assert [window.index for window in windows] == list(range(len(windows)))
    assert f"head {file.head}" in output
    assert records(file, Projection)[-1].spent_energy_j == pytest.approx(close.energy_j + waited_j(tmp_path / "run"))
    manifest = manifest_of(file.records)
    assert manifest.factors["intensity"]["zone"] == "FRA"
    assert {device.profile for device in manifest.devices if device.rung == "gpu"} == {"h100-sxm"}


def test_ranks_of_a_host_write_one_ledger_and_rank_0_reads_it(job, tmp_path):
    uuid = "GPU-00000051-5133-4d00-8000-00000000000{}"
    enough, ledger = tmp_path / "enough", tmp_path / "run" / "node-0.attempt-0.jsonl"
    ranks = [
        job(
            "close", tmp_path / "run", 2.5, RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=2, LOCAL_WORLD_SIZE=2,
            JOB_TOGETHER=2, JOB_GPU=uuid.format(rank), JOB_UNTIL=enough,
        )
        for rank in (1, 0)
    ]  # fmt: skip
    # A rank that is held up says late which GPU it computes on.
    wait_until(lambda: ledger.exists() and all(b'"ranks":[%d]' % rank in ledger.read_bytes() for rank in range(2)))
    enough.touch()
    outputs = [process.communicate(timeout=240)[0] for process in ranks]
    file = ledger_of(tmp_path / "run")

    assert_metered(file, outputs[1], {"0": 300, "1": 400})
    assert "metrics 0" in outputs[0]
    assert "metrics 0" not in outputs[1]
    devices = manifest_of(file.records).devices
    assert {device.key: device.ranks for device in devices if device.rung == "gpu"} == {
        uuid.format(0): [0], uuid.format(1): [1],
    }  # fmt: skip


def test_gpus_that_the_launcher_dealt_out_are_all_metered(job, tmp_path):
    together = {"JOB_TOGETHER": 2, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    enough, ledger = tmp_path / "enough", tmp_path / "run" / "node-0.attempt-0.jsonl"
    together["JOB_UNTIL"] = enough
    ranks = [
        job("close", tmp_path / "run", RANK=rank, LOCAL_RANK=rank, CUDA_VISIBLE_DEVICES=rank, **together)
        for rank in (0, 1)
    ]
    wait_until(lambda: windows_in(ledger) >= 1)  # local rank 0 has heard of the other one, however late that began
    enough.touch()
    output, _ = [process.communicate(timeout=240)[0] for process in ranks]

    assert_metered(ledger_of(tmp_path / "run"), output, {"0": 300, "1": 400})


def test_rank_that_alone_sees_its_gpu_meters_it_in_a_ledger_of_its_own(job, tmp_path):
    together = {"JOB_TOGETHER": 2, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    ranks = [
        job(
            "close", tmp_path / "run", 5.0, spec=f"gpus=1;seed={90 + rank};power={300 + 100 * rank}", RANK=rank,
            LOCAL_RANK=rank, **together,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=240)[0] for process in ranks]
    files = read_run(tmp_path / "run").files

    assert [file.path.name for file in files] == ["node-0.attempt-0.jsonl", "node-0.rank-1.attempt-0.jsonl"]
    rungs = [sorted(device.rung for device in manifest_of(file.records).devices) for file in files]
    assert rungs == [["gpu", "host", "network"], ["gpu"]]
    for rank, (file, output) in enumerate(zip(files, outputs, strict=True)):
        assert_metered(file, output, {"0": 300 + 100 * rank})
    check = verify_run(tmp_path / "run")
    assert (check.state, check.missing) == ("unsealed", [])
    files[1].path.unlink()
    assert (
        verify_run(tmp_path / "run")
        .all_problems[0]
        .startswith("node-0.rank-1.attempt-0.jsonl: missing, but node-0.attempt-0.jsonl line")
    )


def test_another_rank_takes_over_when_the_leader_is_killed(job, tmp_path):
    together = {"JOB_TOGETHER": 2, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    enough, taken_over = tmp_path / "enough", tmp_path / "run" / "node-0.attempt-1.jsonl"
    second = job("close", tmp_path / "run", 2.0, RANK=1, LOCAL_RANK=1, JOB_UNTIL=enough, **together)
    first = job("SIGKILL", tmp_path / "run", 1.5, RANK=0, LOCAL_RANK=0, **together)
    first.communicate(timeout=240)
    wait_until(lambda: windows_in(taken_over) >= 5)
    enough.touch()
    output, _ = second.communicate(timeout=240)
    files = read_run(tmp_path / "run").files

    assert [file.path.name for file in files] == ["node-0.attempt-0.jsonl", "node-0.attempt-1.jsonl"]
    assert records(files[1], Close)[0].reason == "closed"
    assert_metered(files[1], output, {"0": 300, "1": 400})
    # The leader that follows has seen the end of the one that was killed, so that nothing is missing.
    check = verify_run(tmp_path / "run")
    assert (check.missing, check.all_problems) == ([], [])
    assert verify_run(tmp_path / "run", [files[1].head]).state == "verified"


def test_forked_child_does_nothing(job, tmp_path):
    process = job("fork", tmp_path / "run")
    _, errors = process.communicate(timeout=240)
    file = ledger_of(tmp_path / "run")

    assert process.returncode == 0, errors
    assert [close.reason for close in records(file, Close)] == ["closed"]
    assert verify_run(tmp_path / "run").ok


def test_lost_gpu_is_an_event_and_an_estimate_of_its_own_and_never_a_zero(job, tmp_path):
    armed, enough, ledger = tmp_path / "armed", tmp_path / "enough", tmp_path / "run" / "node-0.attempt-0.jsonl"
    spec = f"gpus=2;power=300,400;fault=1:lost@0;armed={armed}"
    process = job("close", tmp_path / "run", 2.5, spec=spec, JOB_UNTIL=enough)
    wait_until(lambda: windows_in(ledger) >= 3)
    armed.touch()
    wait_until(lambda: b'"kind":"meter_lost"' in ledger.read_bytes())
    seen = windows_in(ledger)
    wait_until(lambda: windows_in(ledger) >= seen + 2)
    enough.touch()
    output, _ = process.communicate(timeout=240)
    file = ledger_of(tmp_path / "run")
    last = records(file, Window)[-1]

    assert [event.data["key"][-1] for event in records(file, Event) if event.kind == "meter_lost"] == ["1"]
    assert {energy.key[-1]: energy.kind for energy in last.energies if energy.key.startswith("GPU")} == {
        "0": "counter", "1": "modelled",
    }  # fmt: skip
    lost = next(energy for energy in last.energies if energy.key.endswith("1") and energy.key.startswith("GPU"))
    assert lost.estimated_j == pytest.approx(lost.energy_j)
    assert lost.energy_j > 0
    assert "its energy is estimated at 400 W" in lost.note
    assert_metered(file, output, {"0": 300, "1": 400})


def test_disabled_by_the_environment_everything_is_silent(job, tmp_path):
    process = job("close", tmp_path / "run", 0.2, CARBON_PLUGIN_DISABLED=1)
    output, errors = process.communicate(timeout=240)

    assert process.returncode == 0, errors
    assert not (tmp_path / "run").exists()
    assert "head None metrics 0" in output


def test_run_directory_that_cannot_be_written_is_a_warning_at_either_end(job, tmp_path):
    (tmp_path / "file").write_text("not a directory")

    process = job("close", tmp_path / "file" / "run", 0.5)
    _, errors = process.communicate(timeout=240)

    assert process.returncode == 0
    begins, ends = (
        line for line in errors.strip().splitlines() if "metering 2 GPUs" not in line and "report:" not in line
    )
    assert "Training and metering go on" in begins
    assert "this run has no record" in ends
    assert f"no report: nothing could be written in {tmp_path / 'file' / 'run'}" in errors


def test_a_rank_that_starts_after_its_leader_has_ended_is_of_its_attempt_and_meters_nothing_twice(job, tmp_path):
    ranks = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    for rank in range(2):
        process = job("close", tmp_path / "run", 0.6, **ranks, RANK=rank, LOCAL_RANK=rank)
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors

    first, *later = read_run(tmp_path / "run").files
    assert manifest_of(first.records).world_size == 2
    assert not any(isinstance(record, Window) for file in later for record in file.records)
    assert [manifest_of(file.records).follows for file in later] in ([], [[first.path.name]])  # it says how much later
    assert len(summarise(tmp_path / "run").period.attempts) == 1
    assert verify_run(tmp_path / "run").ok
