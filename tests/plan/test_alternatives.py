"""The search over clusters and places: a front of the forecast's own numbers, deadlines, help when nothing is left."""

from __future__ import annotations

import re

import msgspec
import numpy as np
import pytest

from carbon_plugin.errors import FootprintError, InfeasibleLayoutError, SpecError
from carbon_plugin.plan.alternatives import Question, SearchReport, search_alternatives
from carbon_plugin.plan.forecast import make_forecast
from carbon_plugin.plan.search.fullness import expected_slowdown
from carbon_plugin.plan.search.slow_network import network_slowdown
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.numbers.units import SECONDS_PER_DAY
from carbon_plugin.spec.run import RunSpec


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    return build_run_spec(
        {
            "model": "llama3-8b",
            "cluster": {"accelerator": "h100-sxm", "nodes": 4},
            "training": {"seq_len": 4096, "global_batch_size": 256, "steps": 50_000},
            "site": {"zone": "FRA", "pue": 1.2},
            "price_usd_per_device_hour": 2.0,
        },
        origin="test",
    )


def objectives(report: SearchReport, specs: tuple[RunSpec, ...]) -> np.ndarray:
    """Return expected time, energy and carbon of every option."""
    values = np.array([(o.run_time_s.value, o.energy_j.value, o.total_kg.value) for o in report.options])
    slower = expected_slowdown([o.memory_bytes / o.memory_capacity_bytes for o in report.options], "ordinary")
    networks = [network_slowdown(spec, predict_step(spec).step_time_s.value) for spec in specs]
    return values * (slower * networks)[:, None]


def test_no_option_is_beaten_in_time_energy_and_carbon_and_each_best_is_named(spec: RunSpec) -> None:
    question = Question(nodes=(1, 4, 32), accelerators=("h100-sxm", "a100-sxm-80gb"), zones=("FRA", "POL"))
    report, specs = search_alternatives(spec, question)
    values = objectives(report, specs)
    assert len(values) >= 2
    assert (np.diff(values[:, 0]) >= 0).all()
    for one in values:
        assert not ((values <= one).all(axis=1) & (values < one).any(axis=1)).any()
    for column, name in enumerate(("time", "energy", "carbon")):
        best = [rank for rank, option in enumerate(report.options) if name in option.best]
        assert best == [values[:, column].argmin()]
    assert report.clusters == 6
    assert report.considered > report.fitting > 0
    assert {option.zone for option in report.options} == {"FRA"}  # a cleaner grid at the same speed beats the other


def test_every_option_has_the_numbers_that_plan_gives_for_its_spec(spec: RunSpec) -> None:
    answer = search_alternatives(spec, Question(nodes=(4, 32)))
    for option, found in zip(answer.report.options, answer.specs, strict=True):
        forecast = make_forecast(found)
        assert option.layout == found.layout
        assert option.run_time_s == forecast.run_time_s
        assert option.energy_j == forecast.footprint.energy_j["facility"]
        assert option.total_kg == forecast.footprint.total_kg
        assert option.cost_usd == forecast.cost_usd


def test_other_accelerators_come_in_their_usual_nodes_and_as_many(spec: RunSpec) -> None:
    answer = search_alternatives(spec, Question(accelerators=("gb200-nvl72",)))
    cluster = answer.specs[0].cluster
    assert (cluster.node.name, cluster.nodes, cluster.devices_per_node) == ("gb200-nvl72", 8, 4)
    named = search_alternatives(spec, Question(accelerators=("gb200-nvl72",), nodes=(3,))).specs[0].cluster
    assert (named.nodes, named.devices_per_node) == (3, 4)


def test_a_power_cap_that_another_accelerator_comes_without_is_said(spec: RunSpec) -> None:
    capped = msgspec.structs.replace(spec, cluster=msgspec.structs.replace(spec.cluster, power_cap_w=500))

    found = search_alternatives(capped, Question(accelerators=("h100-sxm", "b200-sxm")))

    for option, run in zip(found.report.options, found.specs, strict=True):
        lost = run.cluster.power_cap_w is None
        assert option.notes == (("without the power cap of 500 W",) if lost else ())
    assert {run.cluster.accelerator.name for run in found.specs} >= {"b200-sxm"}


def test_a_deadline_leaves_out_what_ends_later(spec: RunSpec) -> None:
    free = search_alternatives(spec, Question(nodes=(4, 32))).report
    between = (free.options[0].run_time_s.value + free.options[-1].run_time_s.value) / 2
    held = search_alternatives(spec, Question(nodes=(4, 32), deadline_s=between)).report
    assert {option.nodes for option in free.options} == {4, 32}
    assert {option.nodes for option in held.options} == {32}
    assert [one.cluster for one in held.skipped] == ["4 x dgx-h100 with 8 h100-sxm"]
    assert held.skipped[0].reason.startswith("deadline: the fastest of ")


def test_a_deadline_that_nothing_meets_says_which_one_or_how_many_nodes_would_do(spec: RunSpec) -> None:
    least = search_alternatives(spec, Question()).report.options[0].run_time_s.value
    with pytest.raises(InfeasibleLayoutError, match=r"^deadline: .*; \d+ nodes \(") as raised:
        search_alternatives(spec, Question(deadline_s=0.6 * least))
    words = str(raised.value)
    nodes = re.search(r"; (\d+) nodes", words)
    days = re.search(r"a deadline of ([\d.]+) days", words)
    assert nodes is not None
    assert days is not None
    assert search_alternatives(spec, Question(nodes=(int(nodes[1]),), deadline_s=0.6 * least)).report.options
    assert search_alternatives(spec, Question(deadline_s=float(days[1]) * SECONDS_PER_DAY)).report.options


def test_where_no_cluster_is_left_the_nearest_says_what_is_in_the_way(spec: RunSpec) -> None:
    model = msgspec.structs.replace(spec.model, layers=640)
    with pytest.raises(InfeasibleLayoutError, match=r"^none of 2 clusters can run it; nearest is: memory: .* 2 nodes"):
        search_alternatives(msgspec.structs.replace(spec, model=model), Question(nodes=(1, 2)))


def test_a_cluster_that_lacks_the_precision_is_left_out_with_the_reason(spec: RunSpec) -> None:
    training = msgspec.structs.replace(spec.training, precision="fp8")
    question = Question(accelerators=("h100-sxm", "a100-sxm-80gb"))
    report = search_alternatives(msgspec.structs.replace(spec, training=training), question).report
    assert {option.accelerator for option in report.options} == {"h100-sxm"}
    assert "fp8" in report.skipped[0].reason


def test_what_is_asked_for_wrongly_is_refused(spec: RunSpec) -> None:
    with pytest.raises(SpecError, match="nodes is 0"):
        Question(nodes=(0,))
    with pytest.raises(SpecError, match="is -1, expected a positive number of days"):
        Question(deadline_s=-SECONDS_PER_DAY)
    with pytest.raises(SpecError, match="unknown accelerator"):
        search_alternatives(spec, Question(accelerators=("h101",)))
    with pytest.raises(FootprintError, match="zone 'XXQ' is unknown"):
        search_alternatives(spec, Question(zones=("XXQ",)))
