"""Sums over ledgers: each joule and each reserved second once, over nodes and attempts."""

from __future__ import annotations

import pytest

from carbon_plugin.ledger.held.expected import LEFT
from carbon_plugin.ledger.records import Close, DeviceEnergy, Manifest, Span, Window
from carbon_plugin.monitor.ledgers.file_totals import FileTotals
from carbon_plugin.monitor.run.totals import run_totals, without_copies
from carbon_plugin.spec.metered import DeviceIdentity


def gpu(key: str, share: float | None = None) -> DeviceIdentity:
    return DeviceIdentity(
        key=key, name="H100", rung="gpu", scope="gpu", meter="nvml", energy_kind="counter", share=share
    )


def host(key: str) -> DeviceIdentity:
    return DeviceIdentity(key=key, name="host", rung="host", scope="host", meter="model", energy_kind="modelled")


def ledger(
    *devices: DeviceIdentity,
    start: float = 0.0,
    windows: int = 3,
    node: int = 0,
    host_key: str = "boot",
    reserved: float | None = None,
    phase: str = "train",
    kind: str = "counter",
) -> FileTotals:
    """Return a node's ledger with windows of 10 s, in which every device draws 100 W and 5 steps end."""
    totals = FileTotals()
    totals.add(
        Manifest(
            version=1, run_id="r", attempt=0, node=node, nodes=2, host_key=host_key, hostname="h", world_size=4,
            started_unix_s=start, reserved_since_unix_s=reserved, devices=list(devices), effective={}, factors={},
            versions={}, host_share=0.5,
        )
    )  # fmt: skip
    for index in range(windows):
        energies = [
            DeviceEnergy(
                key=d.key, energy_j=None if kind == "absent" else 1000.0, low_j=950.0, high_j=1050.0,
                kind=kind if d.rung == "gpu" or kind == "absent" else "modelled",
            )
            for d in devices
        ]  # fmt: skip
        totals.add(
            Window(
                index=index, phase=phase, start_unix_s=start + 10 * index, duration_s=10.0, energies=energies, steps=5,
                last_step=5 * (index + 1), tokens=50, intensity_g_per_kwh=None, pue=None,
            )
        )  # fmt: skip
    return totals


def reserved_s(totals, scope: str) -> float:
    return sum(item.units * item.time_s for item in totals.reserved if item.scope == scope)


def test_own_ledger_is_of_this_attempt_even_if_it_ended_before_the_totals_were_first_asked_for():
    files = {"own": ledger(gpu("1")), "earlier": ledger(gpu("2"))}

    totals = run_totals(files, attempt_started_s=40.0, own="own")

    assert (totals.nodes_seen, totals.power_w, totals.gpus) == (1, 100.0, 1)


@pytest.mark.parametrize(("reason", "gpus"), [(LEFT, 2), ("closed", 1)])
@pytest.mark.parametrize("attempt_started_s", [29.0, 30.2])
def test_a_file_that_was_left_to_local_rank_0_is_of_the_attempt_of_that_rank(
    reason: str, gpus: int, attempt_started_s: float
) -> None:
    first = ledger(gpu("1"), gpu("2"), windows=3)
    first.add(Close(at_unix_s=30.0, reason=reason, steps=15, windows=3, energy_j=3000.0))
    files = {"first": first, "own": ledger(gpu("1"), start=30.4)}

    totals = run_totals(files, attempt_started_s=attempt_started_s, own="own")

    assert totals.gpus == (gpus if attempt_started_s > 30 else 2)
    assert totals.energy_j == 9000.0


def test_a_file_that_was_left_goes_on_to_its_end_although_no_step_ended_in_its_last_window() -> None:
    first = ledger(gpu("1"), gpu("2"), windows=3)
    first.add(
        Window(
            index=3, phase="train", start_unix_s=30.0, duration_s=10.0, energies=[], steps=0, last_step=15, tokens=0,
            intensity_g_per_kwh=None, pue=None,
        )
    )  # fmt: skip
    first.add(Close(at_unix_s=40.0, reason=LEFT, steps=15, windows=4, energy_j=3000.0))
    files = {"first": first, "own": ledger(gpu("1"), start=40.4)}

    assert run_totals(files, attempt_started_s=40.2, own="own").gpus == 2


def test_rates_are_those_of_the_file_that_took_over() -> None:
    left = ledger(gpu("1"), windows=3)
    left.add(Close(at_unix_s=30.0, reason=LEFT, steps=15, windows=3, energy_j=3000.0))

    totals = run_totals({"left": left, "own": ledger(gpu("1"), start=30.4)}, attempt_started_s=29.0, own="own")

    assert sum(item.energy.value for item in totals.steady) / totals.steady_s == 100.0


def test_a_file_that_was_left_in_an_earlier_attempt_is_not_of_this_one() -> None:
    left = ledger(gpu("1"), windows=3)
    left.add(Close(at_unix_s=30.0, reason=LEFT, steps=15, windows=3, energy_j=3000.0))
    files = {"left": left, "taker": ledger(gpu("1"), start=30.0), "own": ledger(gpu("1"), start=100.0)}

    assert run_totals(files, attempt_started_s=100.0, own="own").steady[0].energy.value == 3000.0


def test_two_nodes_add_up_and_run_in_parallel():
    files = {"a": ledger(gpu("1"), host("h1")), "b": ledger(gpu("2"), host("h2"), node=1, host_key="other")}

    totals = run_totals(files, attempt_started_s=0.0)

    assert totals.energy_j == 4 * 3000
    assert totals.power_w == 400
    assert (totals.gpus, totals.gpus_measured, totals.nodes_seen) == (2, 2, 2)
    assert (totals.steady_s, totals.steady_steps) == (30, 15)
    assert reserved_s(totals, "device") == 60
    assert reserved_s(totals, "host") == 30
    assert {item.scope: item.units * item.time_s for item in totals.reserved_now} == {
        "device": 2.0, "host": 1.0, "network": 2.0,
    }  # fmt: skip


def test_gpu_that_two_files_meter_at_once_counts_in_the_one_that_began_first():
    files = {"late": ledger(gpu("1"), start=5.0), "early": ledger(gpu("1"))}

    totals = run_totals(files, attempt_started_s=0.0)

    assert totals.energy_j == pytest.approx(3000 + 500)  # the late one was alone for the last 5 s
    assert totals.power_w == 100
    assert totals.gpus == 1
    assert reserved_s(totals, "device") == 35


def test_copies_of_a_ledger_are_left_out_of_the_totals_and_the_own_ledger_never_is():
    own, earlier = ledger(gpu("1"), start=100.0), ledger(gpu("1"), start=0.0)
    copies = {"a": ledger(gpu("1"), start=100.0, node=1), "b": ledger(gpu("1"), start=0.0, node=5)}
    kept = without_copies(
        {"a": copies["a"], "early": earlier, "b": copies["b"], "own": own, "new": FileTotals()}, "own"
    )
    assert set(kept) == {"own", "b", "new"}
    assert run_totals(kept, attempt_started_s=0.0).nodes_seen == 2


def test_gpu_of_two_attempts_counts_in_both_but_only_the_second_gives_rates():
    files = {"first": ledger(gpu("1")), "second": ledger(gpu("1"), start=100.0, windows=2)}

    totals = run_totals(files, attempt_started_s=90.0)

    assert totals.energy_j == 5000
    assert (totals.steady_s, totals.steady[0].energy.value) == (20, 2000)
    assert totals.power_w == 100


def test_time_of_one_reservation_over_two_attempts_is_counted_once():
    files = {
        "first": ledger(gpu("1"), reserved=-20.0),
        "second": ledger(gpu("1"), start=100.0, windows=2, reserved=-20.0),
    }

    assert reserved_s(run_totals(files, attempt_started_s=90.0), "device") == 140


def test_slices_of_a_gpu_are_charged_as_parts_of_it():
    totals = run_totals({"a": ledger(gpu("1", 0.25), gpu("2", 0.5))}, attempt_started_s=0.0)

    assert reserved_s(totals, "device") == reserved_s(totals, "network") == 0.75 * 30
    assert totals.gpus == 2


def test_start_up_is_spent_but_gives_no_rates():
    totals = run_totals({"a": ledger(gpu("1"), phase="startup")}, attempt_started_s=0.0)

    assert totals.energy_j == 3000
    assert (totals.steady_s, totals.steady_steps) == (0, 0)


def test_absent_gpu_is_in_the_denominator_of_the_coverage():
    files = {"a": ledger(gpu("1")), "b": ledger(gpu("2"), kind="absent", node=1, host_key="other")}

    totals = run_totals(files, attempt_started_s=0.0)

    assert (totals.gpus_measured, totals.gpus) == (1, 2)
    assert totals.energy_j == 3000


def test_node_that_fell_silent_no_longer_draws_power_but_its_joules_stay():
    files = {"a": ledger(gpu("1"), windows=20), "b": ledger(gpu("2"), node=1, host_key="other")}
    files["b"].times.heard_s -= 31.0  # more than three of its windows

    totals = run_totals(files, attempt_started_s=0.0)

    assert totals.power_w == 100
    assert totals.energy_j == 23_000


@pytest.mark.parametrize("skew_s", [-120.0, 120.0])
def test_a_clock_that_is_two_minutes_off_changes_no_total(skew_s):
    right, wrong = ledger(gpu("1"), start=1000.0), ledger(gpu("2"), start=1000.0 + skew_s, node=1, host_key="other")

    totals = run_totals({"a": right, "b": wrong}, attempt_started_s=0.0)

    assert (totals.energy_j, totals.power_w, totals.nodes_seen) == (6000, 200, 2)
    assert reserved_s(totals, "device") == 60


def test_a_node_that_joins_late_counts_from_when_it_joined():
    files = {"a": ledger(gpu("1"), windows=20), "late": ledger(gpu("2"), start=150.0, node=1, host_key="other")}

    totals = run_totals(files, attempt_started_s=0.0)

    assert (totals.energy_j, totals.nodes_seen) == (23_000, 2)
    assert reserved_s(totals, "device") == 230


def test_a_world_that_shrinks_keeps_what_was_spent_and_holds_what_is_left():
    before = {
        "node-0.attempt-0": ledger(gpu("1")),
        "node-1.attempt-0": ledger(gpu("2"), node=1, host_key="other"),
    }
    files = before | {"node-0.attempt-1": ledger(gpu("1"), start=100.0, windows=2)}

    totals = run_totals(files, attempt_started_s=90.0)

    assert totals.energy_j == 3000 + 3000 + 2000
    assert totals.nodes_seen == 1
    assert sum(item.units * item.time_s for item in totals.reserved_now if item.scope == "device") == 1


def test_every_rank_stands_for_a_device_where_no_gpu_is_metered():
    totals = run_totals({"a": ledger(host("h"))}, attempt_started_s=0.0)

    assert reserved_s(totals, "device") == 2 * 30


def test_range_and_quality_follow_the_devices():
    totals = run_totals({"a": ledger(gpu("1"), host("h"))}, attempt_started_s=0.0)

    by_rung = {rung: used for (rung, _), used in totals.spent.items()}
    assert (by_rung["gpu"].energy.low, by_rung["gpu"].energy.high) == (2850, 3150)
    assert (by_rung["gpu"].kind, by_rung["host"].kind) == ("measured", "modelled")


def test_spread_of_spans_is_their_standard_deviation():
    totals = FileTotals()
    for step_time in (1.0, 2.0, 4.0):
        totals.add(
            Span(
                first_step=1, last_step=2, start_unix_s=0, duration_s=2, step_time_s=step_time,
                predicted_step_time_s=None, gpu_energy_per_step_j=None, predicted_gpu_energy_per_step_j=None,
                boundary_error_s=0,
            )
        )  # fmt: skip

    assert totals.spans.log_sigma == pytest.approx(0.6931472)
    assert totals.spans.last.step_time_s == 4.0
