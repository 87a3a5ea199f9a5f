"""Ingest: the audit's own values, each run once, whatever lies in the directories and wherever a run is killed."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from msgspec.structs import replace

from benchmarks.fleet_generator import Shape, write_fleet, write_run
from carbon_plugin.audit.programme import read_programme
from carbon_plugin.audit.run_carbon import carbon_in
from carbon_plugin.audit.summary import summarise
from carbon_plugin.cli.main import run as command_line
from carbon_plugin.errors import FleetError
from carbon_plugin.fleet import ingest as ingest_module
from carbon_plugin.fleet.ingest import ingest
from carbon_plugin.fleet.report import Asked, report
from carbon_plugin.fleet.rows import reading as reading_module
from carbon_plugin.fleet.store.catalogue import read_catalogue
from carbon_plugin.fleet.store.places import open_place
from carbon_plugin.fleet.store.schema import STORE_VERSION, SUMS, TABLES, schema_of
from carbon_plugin.fleet.store.segments import arrow_table
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.ledger import chain
from carbon_plugin.ledger.records import DeviceEnergy, Window
from carbon_plugin.spec.numbers.figure import Figure
from carbon_plugin.spec.site import Site
from tests.fleet.conftest import RUNS
from tests.ledger.builder import Attempt, Job


def table(store: Path, name: str) -> list[dict[str, Any]]:
    """Return all rows of a table of a store, as its newest catalogue names them."""
    import pyarrow.parquet as pq

    catalogue = read_catalogue(open_place(str(store)))
    assert catalogue is not None
    found = [pq.read_table(store / file.path, partitioning=None) for file in catalogue.files(name)]
    return [row for one in found for row in one.to_pylist()]


def totals(store: Path) -> dict[str, int]:
    return {name: sum(row[name] for row in table(store, "hour")) for name in SUMS}


def test_each_run_has_the_values_of_its_own_audit(store: Path) -> None:
    rows = table(store, "run")
    hours: dict[int, dict[str, int]] = {}
    for row in table(store, "hour"):
        sums = hours.setdefault(row["run"], dict.fromkeys(SUMS, 0))
        for name in SUMS:
            sums[name] += row[name]

    assert len(rows) == RUNS
    assert sum(row["attempts"] > 1 for row in rows) > 0
    for row in rows:
        audit = summarise(row["place"])
        of_hours = hours[row["run"]]
        assert audit.footprint is not None
        assert {name: row[f"run_{name}"] for name in SUMS} == of_hours
        assert of_hours["energy_mj"] == round(1e3 * audit.energy.energy_j)
        assert of_hours["measured_mj"] == round(1e3 * audit.energy.measured_j)
        assert of_hours["device_ms"] == round(1e3 * audit.reserved.device_s)
        assert of_hours["central_ug"] == pytest.approx(1e9 * audit.footprint.operational_kg.value, abs=1)
        assert of_hours["facility_mj"] == pytest.approx(1e3 * audit.footprint.energy_j["facility"].value, rel=1e-9)
        assert of_hours["redone_mj"] == pytest.approx(1e3 * audit.waste.redone_energy_j, abs=1)
        assert of_hours["restart_mj"] == pytest.approx(1e3 * audit.waste.restart_energy_j, abs=1)
        assert of_hours["lifecycle_ug"] == pytest.approx(1e9 * audit.footprint.operational_kg.value, abs=1)
        assert of_hours["embodied_ug"] == pytest.approx(1e9 * audit.footprint.embodied_kg.value, abs=1)
        direct = carbon_in(audit, "direct").operational
        assert direct is not None
        assert of_hours["direct_ug"] == pytest.approx(1e9 * direct.value, abs=1)
        unobserved = audit.by_phase["unobserved"].energy_j
        assert unobserved > 0
        assert of_hours["idle_mj"] >= round(1e3 * unobserved)
        assert (row["run_id"], row["steps"]) == (audit.run.run_id, audit.progress.steps)


def test_a_second_ingest_reads_no_run_again_and_writes_nothing(runs: Path, store: Path, monkeypatch: Any) -> None:
    before = sorted(path.name for path in store.rglob("*"))
    monkeypatch.setattr(reading_module, "rows_of", lambda *_: pytest.fail("a run was read again"))

    again = ingest([str(runs)], str(store))

    assert (again.found, again.unchanged, again.added, again.held) == (RUNS, RUNS, 0, RUNS)
    assert sorted(path.name for path in store.rglob("*")) == before


def test_without_the_extra_an_ingest_names_it_and_writes_nothing(runs: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(FleetError, match=r"pip install 'carbon-plugin\[fleet\]'"):
        ingest([str(runs)], str(tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_any_number_of_processes_writes_the_same_store(runs: Path, store: Path, tmp_path: Path) -> None:
    several = ingest([str(runs)], str(tmp_path), processes=2)

    assert (several.added, several.skipped) == (RUNS, [])
    for name in TABLES:
        assert table(tmp_path, name) == table(store, name)


def test_a_process_that_ends_loses_no_run(runs: Path, store: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(reading_module.sys, "executable", shutil.which("true"))

    done = ingest([str(runs)], str(tmp_path), processes=2)

    assert (done.added, done.skipped) == (RUNS, [])
    assert totals(tmp_path) == totals(store)


def test_a_run_in_a_directory_whose_name_is_no_unicode_is_ingested_once(tmp_path: Path) -> None:
    write_fleet(tmp_path / os.fsdecode(b"L\xe4ufe"), 1)

    first, second = (ingest([str(tmp_path)], str(tmp_path.parent / "store")) for _ in range(2))

    assert (first.added, first.skipped) == (1, [])
    assert (second.added, second.unchanged) == (0, 1)


def test_a_touched_run_is_recognised_by_its_content(tmp_path: Path) -> None:
    (first, *_) = write_fleet(tmp_path / "runs", 3)
    ingest([str(tmp_path / "runs")], str(tmp_path / "store"))
    (first / "node-0.attempt-0.jsonl").touch()

    again = ingest([str(tmp_path / "runs")], str(tmp_path / "store"))

    assert (again.unchanged, again.added, again.replaced, again.held) == (2, 0, 0, 3)


def test_a_run_that_went_on_replaces_its_rows(tmp_path: Path) -> None:
    runs, store = tmp_path / "runs", tmp_path / "store"
    write_fleet(runs, 3)
    ledger = runs / "language" / "run-000000" / "node-0.attempt-0.jsonl"
    whole = ledger.read_bytes()
    ledger.write_bytes(b"".join(whole.splitlines(keepends=True)[:8]))
    ingest([str(runs)], str(store))
    early = totals(store)["energy_mj"]
    ledger.write_bytes(whole)

    again = ingest([str(runs)], str(store))

    assert (again.replaced, again.held) == (1, 3)
    ingest([str(runs)], str(tmp_path / "fresh"))
    assert totals(store) == totals(tmp_path / "fresh")
    assert totals(store)["energy_mj"] > early


def test_copies_of_a_run_count_once_wherever_they_lie(tmp_path: Path) -> None:
    runs, store = tmp_path / "runs", tmp_path / "store"
    (first, second, _) = write_fleet(runs, 3)
    ingest([str(runs)], str(store))
    alone = totals(store)
    shutil.copytree(first, tmp_path / "elsewhere" / "a copy")
    shorter = tmp_path / "elsewhere" / "an early copy"
    shutil.copytree(second, shorter)
    ledger = shorter / "node-0.attempt-0.jsonl"
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:9]))

    again = ingest([str(runs), str(tmp_path / "elsewhere")], str(store))

    assert (again.found, again.copies, again.held, again.skipped) == (5, 2, 3, [])
    assert totals(store) == alone


def test_the_longer_copy_of_a_run_counts_whichever_comes_first(tmp_path: Path) -> None:
    whole = write_run(tmp_path / "whole", 1, Shape())
    early = tmp_path / "early"
    shutil.copytree(whole, early / "run")
    ledger = early / "run" / "node-0.attempt-0.jsonl"
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(keepends=True)[:9]))

    ingest([str(early)], str(tmp_path / "store"))
    ingest([str(tmp_path / "whole")], str(tmp_path / "store"))
    ingest([str(tmp_path / "whole")], str(tmp_path / "fresh"))

    assert totals(tmp_path / "store") == totals(tmp_path / "fresh")


def spoil(root: Path) -> dict[str, str]:
    """Add directories that are no sound runs, and return a word of the reason that each must get."""
    good = write_run(root / "good", 7, Shape())
    spoiled = {}
    for name in ("edited", "of another version", "foreign", "empty", "cut at the start", "bad identity"):
        shutil.copytree(good, root / name)
        spoiled[name] = ""
    ledger = "node-0.attempt-0.jsonl"
    lines = (good / ledger).read_bytes().splitlines(keepends=True)
    edited = [line.replace(b'"steps":10', b'"steps":11') for line in lines]
    (root / "edited" / ledger).write_bytes(b"".join(edited))
    spoiled["edited"] = "does not follow"
    payload = lines[0].split(b" ", 1)[1].strip().replace(b'"version":1', b'"version":99', 1)
    seed = chain.seed(json.loads(payload)["run_id"])
    (root / "of another version" / ledger).write_bytes(chain.join_line(chain.extend(seed, payload), payload))
    spoiled["of another version"] = "version 99"
    (root / "foreign" / ledger).write_bytes(b'{"epoch": 1, "loss": 2.5}\n' * 20)
    spoiled["foreign"] = "manifest"
    (root / "empty" / ledger).write_bytes(b"")
    spoiled["empty"] = "manifest"
    (root / "cut at the start" / ledger).write_bytes(b"".join(lines)[100:])
    spoiled["cut at the start"] = "manifest"
    (root / "bad identity" / "run.json").write_bytes(b"\xff\xfe")
    spoiled["bad identity"] = "run.json"
    shutil.rmtree(root / "good")
    return spoiled


def test_what_is_no_sound_run_is_named_counted_and_skipped(tmp_path: Path, capsys: Any) -> None:
    runs, store = tmp_path / "runs", tmp_path / "store"
    write_fleet(runs, 3)
    ingest([str(runs)], str(tmp_path / "sound"))
    reasons = spoil(runs)

    code = command_line(["fleet", "ingest", str(runs), "--into", str(store)])
    told = capsys.readouterr()
    again = ingest([str(runs)], str(store))

    assert code == 1
    assert f"{len(reasons)} skipped" in told.out
    for name, word in reasons.items():
        line = next(line for line in told.err.splitlines() if f"/{name}:" in line)
        assert word in line
    assert totals(store) == totals(tmp_path / "sound")
    assert again.unchanged == again.found
    assert {Path(one.place).name for one in again.skipped} == set(reasons)


def test_a_run_that_is_repaired_enters_the_totals(tmp_path: Path) -> None:
    runs, store = tmp_path / "runs", tmp_path / "store"
    directory = write_run(runs, 0, Shape())
    ledger = directory / "node-0.attempt-0.jsonl"
    whole = ledger.read_bytes()
    ledger.write_bytes(whole.replace(b'"steps":10', b'"steps":11'))
    assert len(ingest([str(runs)], str(store)).skipped) == 1
    ledger.write_bytes(whole)

    again = ingest([str(runs)], str(store))

    assert (again.skipped, again.held) == ([], 1)


@pytest.mark.parametrize("harm", ["edited", "lines are gone"])
def test_a_run_that_is_harmed_later_keeps_what_was_ingested_and_is_named(tmp_path: Path, harm: str) -> None:
    runs, store = tmp_path / "runs", tmp_path / "store"
    directory = write_run(runs, 0, Shape())
    ingest([str(runs)], str(store))
    before = totals(store)
    ledger = directory / "node-0.attempt-0.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    edited = b"".join(lines).replace(b'"steps":10', b'"steps":11')
    ledger.write_bytes(edited if harm == "edited" else b"".join(lines[:5]))

    again = ingest([str(runs)], str(store))

    assert totals(store) == before
    assert len(again.skipped) == 1
    assert "keeps what it held before" in again.skipped[0].reason


def test_an_ingest_that_is_killed_loses_a_batch_at_most_and_the_next_goes_on(tmp_path: Path, monkeypatch: Any) -> None:
    runs, store = tmp_path / "runs", tmp_path / "store"
    write_fleet(runs, 9)
    ingest([str(runs)], str(tmp_path / "whole"))
    monkeypatch.setattr(ingest_module, "BATCH_RUNS", 3)
    commits = []
    real = ingest_module.commit

    def killed(*arguments: Any) -> None:
        if commits:
            raise KeyboardInterrupt  # all files of the second batch are written, and no catalogue names them
        commits.append(arguments)
        real(*arguments)

    monkeypatch.setattr(ingest_module, "commit", killed)
    with pytest.raises(KeyboardInterrupt):
        ingest([str(runs)], str(store))
    assert len(table(store, "run")) == 3
    monkeypatch.setattr(ingest_module, "commit", real)

    again = ingest([str(runs)], str(store))

    assert (again.unchanged, again.added, again.held) == (3, 6, 9)
    assert totals(store) == totals(tmp_path / "whole")


def test_of_two_ingests_at_once_one_is_told_to_run_again(tmp_path: Path, monkeypatch: Any) -> None:
    runs, store = tmp_path / "runs", tmp_path / "store"
    write_fleet(runs, 2)
    real = reading_module.rows_of

    def slow(*arguments: Any) -> Any:
        monkeypatch.setattr(reading_module, "rows_of", real)
        ingest([str(runs)], str(store))  # another process is faster
        return real(*arguments)

    monkeypatch.setattr(reading_module, "rows_of", slow)
    with pytest.raises(FleetError, match="run it again"):
        ingest([str(runs)], str(store))

    assert ingest([str(runs)], str(store)).unchanged == 2
    assert len(table(store, "run")) == 2


def test_a_run_over_the_end_of_a_month_is_divided_at_its_hours(tmp_path: Path) -> None:
    midnight_s = 1_764_547_200.0  # 2025-12-01 00:00 UTC
    job = Job(nodes=1, gpus=1, host_power_w=None, noise=0.0, attempts=[Attempt(0, 6)], window_s=600.0)
    job.write(tmp_path / "runs" / "one", start_unix_s=midnight_s - 3000.0)  # start-up takes 900 s, each window 600 s

    ingest([str(tmp_path / "runs")], str(tmp_path / "store"))

    rows = {row["hour"]: row for row in table(tmp_path / "store", "hour")}
    hour = int(midnight_s // 3600)
    assert sorted(rows) == [hour - 1, hour]
    assert {row["month"] for row in rows.values()} == {202511, 202512}
    # 900 s of start-up at a quarter of 400 W, then four windows that begin before midnight, as in the audit's months.
    assert rows[hour - 1]["energy_mj"] == round(1e3 * 400 * (0.25 * 900 + 2400))
    months = summarise(tmp_path / "runs" / "one").months
    assert [month.energy_j for month in months] == [1e-3 * rows[place]["energy_mj"] for place in (hour - 1, hour)]


MIDNIGHT_S = 1_764_547_200.0  # 2025-12-01 00:00 UTC


class Waited(Job):
    """A job whose devices were reserved for 90 seconds before each of its attempts."""

    def records(self, *of_attempt: Any) -> list[Any]:
        manifest, *rest = super().records(*of_attempt)
        return [replace(manifest, reserved_since_unix_s=manifest.started_unix_s - 90.0), *rest]


def assert_two_months_of_the_audit(folder: Path) -> None:
    """Ingest a run with unrecorded reserved time, and check the energy of each of its two months."""
    ingest([str(folder / "runs")], str(folder / "store"))

    audit = summarise(folder / "runs" / "one")
    assert audit.by_phase["unobserved"].energy_j > 0
    assert len(audit.months) == 2
    for month in audit.months:
        number = 100 * month.year + month.month
        mine = [row for row in table(folder / "store", "hour") if row["month"] == number]
        assert sum(row["energy_mj"] for row in mine) == pytest.approx(1e3 * month.energy_j, abs=2)
        assert sum(row["idle_mj"] for row in mine) <= sum(row["energy_mj"] for row in mine)


def test_reserved_time_without_records_lies_in_the_months_of_the_audit(tmp_path: Path) -> None:
    midnight_s = 1_764_547_200.0  # 2025-12-01 00:00 UTC
    job = Waited(nodes=1, attempts=[Attempt(0, 6, closed=False), Attempt(300, 6)])
    job.write(tmp_path / "runs" / "one", start_unix_s=midnight_s + 20.0)

    assert_two_months_of_the_audit(tmp_path)


class JoinedLate(Job):
    """A job whose node 1 failed in the first attempt and was reserved for long before it joined the second one."""

    began_s: ClassVar[dict[int, float]] = {}

    def records(self, run_id: str, node: int, number: int, attempt: Attempt, start_s: float) -> list[Any]:
        start_s = self.began_s.setdefault(number, start_s)  # both nodes begin an attempt together
        manifest, *rest = super().records(run_id, node, number, attempt, start_s)
        if node == 0:
            return [manifest, *rest]
        if number == 0:
            return [manifest, *[record for record in rest if isinstance(record, Window)][:2]]
        return [replace(manifest, reserved_since_unix_s=MIDNIGHT_S - 50.0), *rest]


def test_reserved_time_of_one_node_lies_in_its_months_while_another_node_records(tmp_path: Path) -> None:
    job = JoinedLate(nodes=2, attempts=[Attempt(0, 30), Attempt(2, 6)])
    job.write(tmp_path / "runs" / "one", start_unix_s=MIDNIGHT_S - 200.0)

    assert_two_months_of_the_audit(tmp_path)


def test_a_run_that_was_killed_before_its_first_window_is_named(tmp_path: Path) -> None:
    write_fleet(tmp_path / "runs", 2)
    killed = tmp_path / "runs" / "killed"
    (ledger,) = Job(nodes=1, attempts=[Attempt(0, 6)]).write(killed)
    ledger.write_bytes(ledger.read_bytes().splitlines(keepends=True)[0])

    done = ingest([str(tmp_path / "runs")], str(tmp_path / "store"))
    found = report(str(tmp_path / "store"), Asked())

    assert (done.held, found.totals.runs) == (3, 2)
    (note,) = [note for note in found.notes if "killed before its first window" in note]
    assert str(killed) in note


class Unread(Job):
    """A job whose meters never answered."""

    def records(self, *of_attempt: Any) -> list[Any]:
        manifest, *rest = super().records(*of_attempt)
        return [manifest, *(self.unread(one) if isinstance(one, Window) else one for one in rest)]

    def unread(self, window: Window) -> Window:
        absent = [DeviceEnergy(key=one.key, energy_j=None, kind="absent") for one in window.energies]
        return replace(window, energies=absent)


def test_a_run_of_unknown_energy_is_in_no_sum_of_a_fleet_or_a_programme(tmp_path: Path) -> None:
    runs, store = tmp_path / "runs", tmp_path / "store"
    kg = {scope: Figure(100.0, 50.0, 200.0, "kgCO2e", "assumed", "test") for scope in ("device", "host", "network")}
    factors = msgspec.to_builtins(replace(resolve_factors(Site(zone="FRA", pue=1.2), None), embodied_kg=kg))
    Job(nodes=1, attempts=[Attempt(0, 6)], factors=factors).write(runs / "known")
    Unread(nodes=1, attempts=[Attempt(0, 6, closed=False)], factors=factors).write(runs / "unread", MIDNIGHT_S)

    ingest([str(runs)], str(store))
    found, programme = report(str(store), Asked()), read_programme([runs])

    audit = summarise(runs / "known")
    assert audit.footprint is not None
    assert found.totals.runs == 1
    assert found.totals.device_hours * 3600 == pytest.approx(audit.reserved.device_s, abs=1e-3)
    assert programme.device_s == programme.roles[0].device_s == audit.reserved.device_s
    assert found.totals.embodied_kg == pytest.approx(audit.footprint.embodied_kg.value, abs=2e-9)
    assert any("energy of run simulated" in note and str(runs / "unread") in note for note in found.notes)


def test_a_store_of_unknown_energy_alone_says_so(tmp_path: Path) -> None:
    Unread(nodes=1, attempts=[Attempt(0, 6, closed=False)]).write(tmp_path / "runs" / "unread")
    ingest([str(tmp_path / "runs")], str(tmp_path / "store"))

    with pytest.raises(FleetError, match="1 run of unknown energy is in no total"):
        report(str(tmp_path / "store"), Asked())


def test_a_source_without_runs_is_an_error_of_one_line(tmp_path: Path, capsys: Any) -> None:
    assert command_line(["fleet", "ingest", str(tmp_path), "--into", str(tmp_path / "store")]) == 2
    assert "no run directory" in capsys.readouterr().err
    assert command_line(["fleet", "ingest", str(tmp_path / "nowhere"), "--into", str(tmp_path / "store")]) == 2
    assert "no such directory" in capsys.readouterr().err


def test_a_store_among_its_own_runs_is_refused(tmp_path: Path, capsys: Any) -> None:
    write_fleet(tmp_path, 1)

    assert command_line(["fleet", "ingest", str(tmp_path), "--into", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "expected a directory of the store's own" in error
    assert error.count("\n") == 1


def test_a_damaged_store_and_a_missing_file_of_factors_are_named_in_one_line(tmp_path: Path, capsys: Any) -> None:
    write_fleet(tmp_path / "runs", 1)
    store = tmp_path / "store"
    ingest([str(tmp_path / "runs")], str(store))
    assert command_line(["fleet", "report", str(store), "--factors", str(tmp_path / "none.yaml")]) == 2
    absent = capsys.readouterr().err
    assert "none.yaml" in absent
    assert "engine" not in absent
    damaged = next((store / "hour").rglob("*.parquet"))
    damaged.write_bytes(damaged.read_bytes()[:40])

    assert command_line(["fleet", "report", str(store)]) == 2
    error = capsys.readouterr().err
    assert f"{damaged}: this file of the store is missing or damaged; ingest the runs into a new store" in error


@pytest.mark.parametrize(
    ("version", "next_step"), [(STORE_VERSION - 1, "ingest the runs into a new store"), (99, "upgrade it")]
)
def test_a_catalogue_of_another_version_is_refused(version: int, next_step: str, tmp_path: Path) -> None:
    write_fleet(tmp_path / "runs", 1)
    store = tmp_path / "store"
    store.mkdir()
    (store / "catalogue-00000001.json").write_bytes(msgspec.json.encode({"version": version}))

    said = f"version {version}, but this carbon-plugin reads version {STORE_VERSION}; {next_step}$"
    with pytest.raises(FleetError, match=said):
        ingest([str(tmp_path / "runs")], str(store))
    with pytest.raises(FleetError, match=said):
        report(str(store), Asked())


def test_columns_are_put_into_arrow_as_arrow_itself_reads_them() -> None:
    pa = pytest.importorskip("pyarrow")
    texts = ["", "Zürich 👍", None, "x" * 300]
    numbers = [0, -(2**62), None, 2**62]
    of_kind = {"text": texts, "real": [0.5, math.pi, None, -1e300], "short": [1, -2, None, 2**31 - 1], "int": numbers}
    columns = {name: of_kind[kind] for name, kind in TABLES["run"].items()}

    table = arrow_table("run", columns)

    table.validate(full=True)
    assert table.equals(pa.Table.from_pydict(columns, schema_of("run")))
    assert arrow_table("factor", {"factors": [], "document": []}).num_rows == 0


def test_an_ingest_loads_no_pandas(tmp_path: Path) -> None:
    write_fleet(tmp_path / "runs", 2)
    script = (
        "import sys; from carbon_plugin.fleet.ingest import ingest; "
        f"ingest([{str(tmp_path / 'runs')!r}], {str(tmp_path / 'store')!r}); assert 'pandas' not in sys.modules"
    )

    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
