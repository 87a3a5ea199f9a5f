"""What a user's runs of a layout say of plans of the same layout, of like ones and of others."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbon_plugin.calibrate.rows.rows import PublishedRow
from carbon_plugin.calibrate.user_fit import calibrate
from carbon_plugin.calibrate.user_profile import user_profile, user_stacks
from carbon_plugin.errors import SpecError
from carbon_plugin.plan.search.layouts import search_layout
from carbon_plugin.predict.own_runs import OwnRuns
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.hardware.cluster import OwnLayout, OwnLayouts
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.run import RunSpec

LAYOUT = {"tp": 2, "dp_shard": 8, "zero_stage": 3, "micro_batch_size": 1, "recompute": "none"}
NEARER = {"dp_shard": 8, "tp": 2, "micro_batch_size": 2}
FARTHER = {"dp_shard": 2, "tp": 8, "micro_batch_size": 4}


def spec_of(layout: Any, **training: Any) -> RunSpec:
    return build_run_spec(
        {
            "model": "llama-3.1-8b",
            "cluster": {"accelerator": "h100-sxm", "nodes": 2},
            "layout": layout,
            "training": {"seq_len": 4096, "global_batch_size": 64, "steps": 10, "precision": "bf16", **training},
            "stack": "ordinary",
            "site": {"zone": "FRA"},
        }
    )


def learned(spec: RunSpec, *ran: tuple[RunSpec, float]) -> RunSpec:
    """Return a spec on the cluster that runs told of, where each took so many times its prediction."""
    rows = [
        PublishedRow(
            id=f"own-{number}", source="own", origin="own", collection="first", accelerator="h100-sxm",
            framework="ordinary", model_key="m", spec=one,
            measured_step_time_s=times * predict_step(one).step_time_s.value,
        )
        for number, (one, times) in enumerate(ran)
    ]  # fmt: skip
    result = calibrate(rows)
    cluster = msgspec.structs.replace(spec.cluster, accelerator=user_profile(rows, result, "runs"))
    return msgspec.structs.replace(spec, cluster=cluster, stack=user_stacks(rows, result.fitted)["ordinary"])


def factor(spec: RunSpec, *ran: tuple[RunSpec, float]) -> float:
    """Return how much longer a step is planned after the runs."""
    return predict_step(learned(spec, *ran)).step_time_s.value / predict_step(spec).step_time_s.value


@pytest.mark.parametrize("times", [0.85, 1.18, 1.6])
def test_a_plan_of_the_layout_that_ran_takes_about_what_the_run_took(times: float) -> None:
    spec = spec_of(LAYOUT)
    longer = spec_of(LAYOUT, steps=100_000)
    assert factor(spec, (spec, times)) == pytest.approx(times, rel=0.25 * abs(times - 1))
    assert factor(longer, (spec, times)) == factor(spec, (spec, times))


def test_the_range_of_the_layout_that_ran_is_narrower_than_that_of_another_one() -> None:
    spec, other = spec_of(LAYOUT), spec_of(LAYOUT | FARTHER)

    def width(planned: RunSpec) -> float:
        figure = predict_step(planned).step_time_s
        return figure.high / figure.low

    again, unlike = (width(learned(one, (spec, 1.1))) for one in (spec, other))
    assert again < 0.8 * unlike
    assert unlike < width(other)


def test_the_deviation_of_a_layout_is_carried_over_less_the_farther_another_one_is() -> None:
    spec = spec_of(LAYOUT)
    others = [spec_of(LAYOUT | change) for change in ({}, NEARER, FARTHER)]
    same, near, far = (math.log(factor(one, (spec, 1.3))) for one in others)
    assert same > near > far > 0


def test_runs_of_one_layout_that_disagree_widen_its_range() -> None:
    spec = spec_of(LAYOUT)
    apart, alike = (learned(spec, (spec, 1.2 + by), (spec, 1.2 - by)) for by in (0.4, 0.02))
    planned = predict_step(apart).step_time_s
    predicted_s = predict_step(spec).step_time_s.value
    assert planned.low < 0.85 * predicted_s
    assert planned.high > 1.55 * predicted_s
    closer = predict_step(alike).step_time_s
    assert closer.high / closer.low < 0.7 * planned.high / planned.low


@pytest.mark.parametrize("times", [3.0, 6.0, 20.0])
def test_a_run_that_took_many_times_as_long_says_little_of_like_layouts_and_all_of_its_own(times: float) -> None:
    spec, like = spec_of(LAYOUT), spec_of(LAYOUT | NEARER)
    assert factor(spec, (spec, times)) == pytest.approx(times, rel=0.15)
    assert 1 < factor(like, (spec, times)) < 1.9


def test_more_runs_that_agree_make_the_range_of_a_layout_that_ran_no_wider() -> None:
    spec = spec_of(LAYOUT)
    changes: list[dict[str, int]] = [{}, NEARER, FARTHER, {"micro_batch_size": 4}, {"tp": 4, "dp_shard": 4}]
    ran = [(spec_of(LAYOUT | change), 1.28) for change in changes]
    figures = [predict_step(learned(spec, *ran[:count])).step_time_s for count in (1, 2, 3, 5)]
    widths = [figure.high / figure.low for figure in figures]
    assert all(later <= 1.02 * earlier for earlier, later in pairwise(widths))


def test_a_plan_says_by_how_much_own_runs_of_its_layout_move_it() -> None:
    spec = spec_of(LAYOUT)
    named = [item for item in predict_step(learned(spec, (spec, 1.6))).assumptions if "own_software" in item.field]
    (said,) = named
    assert "this layout takes 1." in said.value
    assert not [item for item in predict_step(spec).assumptions if "own_software" in item.field]


def test_runs_that_took_what_was_predicted_move_nothing_and_narrow_the_range() -> None:
    spec = spec_of(LAYOUT)
    planned = predict_step(learned(spec, (spec, 1.0))).step_time_s
    before = predict_step(spec).step_time_s
    assert planned.value == pytest.approx(before.value, rel=0.02)
    assert planned.high / planned.low < 0.7 * before.high / before.low


def test_the_terms_of_a_step_add_up_with_what_own_runs_say() -> None:
    spec = spec_of(LAYOUT)
    step = predict_step(learned(spec, (spec, 1.3)))
    assert sum(step.breakdown_s.values()) == pytest.approx(step.step_time_s.value)


def test_a_search_times_layouts_as_a_plan_of_each_does() -> None:
    spec = learned(spec_of("auto"), (spec_of(LAYOUT), 1.4), (spec_of(LAYOUT | FARTHER), 0.9))
    found = search_layout(spec)
    planned = predict_step(msgspec.structs.replace(spec, layout=found.layout))
    assert found.step_time_s == pytest.approx(planned.step_time_s.value, rel=1e-6)


def own(*runs: tuple[float, float], spread: float = 0.2, smooth: float = 0.15) -> OwnRuns:
    layouts = [OwnLayout(place={"tp": place}, deviation=deviation) for place, deviation in runs]
    return OwnRuns(OwnLayouts(spread=spread, smooth=smooth, usual=spread, repeated=0.05, layouts=tuple(layouts)))


places = st.floats(-6, 6, allow_nan=False)
several = st.lists(st.tuples(places, st.floats(-1, 1)), min_size=1, max_size=6)


@settings(deadline=None)
@given(several, places)
def test_runs_never_widen_a_range(runs: list[tuple[float, float]], place: float) -> None:
    found = own(*runs).deviation({"tp": place})
    assert 0 <= found.within <= 1
    assert 0 <= found.between <= 1


@settings(deadline=None)
@given(several)
def test_far_from_all_runs_a_layout_is_that_of_a_cluster_without_any(runs: list[tuple[float, float]]) -> None:
    found = own(*runs).deviation({"tp": 200.0})
    assert found == pytest.approx((0.0, 1.0, 1.0), abs=1e-9)


@settings(deadline=None)
@given(several, st.lists(places, min_size=1, max_size=5))
def test_many_layouts_are_moved_as_each_alone(runs: list[tuple[float, float]], tried: list[float]) -> None:
    known = own(*runs)
    together = np.broadcast_to(known.shift({"tp": np.array(tried)}), len(tried))
    assert together == pytest.approx([known.deviation({"tp": place}).shift for place in tried])


@settings(deadline=None)
@given(st.floats(0.05, 1), places)
def test_a_layout_that_ran_twice_alike_is_known_better_than_one_that_ran_once(deviation: float, place: float) -> None:
    once, twice = own((0.0, deviation)), own((0.0, deviation), (0.5, deviation))
    assert twice.deviation({"tp": place}).within <= once.deviation({"tp": place}).within + 1e-12


def test_a_profile_whose_like_layouts_have_more_in_common_than_there_is_is_refused() -> None:
    with pytest.raises(SpecError, match="smooth"):
        own((0.0, 0.1), spread=0.1, smooth=0.2)


@pytest.mark.parametrize(("change", "said"), [({"depth": 1.0}, "has depth"), ({"tp": None}, "lacks tp")])
def test_places_of_another_release_are_refused_in_words(change: dict[str, float | None], said: str) -> None:
    spec = spec_of(LAYOUT)
    after = learned(spec, (spec, 1.3))
    device = after.cluster.accelerator
    (software,) = device.own_software
    assert software.like is not None
    place = {name: value for name, value in (software.like.layouts[0].place | change).items() if value is not None}
    like = msgspec.structs.replace(software.like, layouts=(OwnLayout(place=place, deviation=0.2),))
    device = msgspec.structs.replace(device, own_software=(msgspec.structs.replace(software, like=like),))
    for planned in (after, learned(spec_of("auto"), (spec, 1.3))):
        on_it = msgspec.structs.replace(planned.cluster, accelerator=device)
        changed = msgspec.structs.replace(planned, cluster=on_it)
        with pytest.raises(SpecError, match=f"own_software of ordinary: a place in like {said}"):
            predict_step(changed) if changed.layout is not None else search_layout(changed)


@pytest.mark.parametrize("accelerator", ["a10", "l4", "l40s", "a40", "h100-pcie", "h100-sxm", "mi300x"])
def test_a_plan_of_the_layout_that_ran_has_the_time_that_the_calibration_says_on_cards_with_and_without_links(
    accelerator: str,
) -> None:
    layout = {"tp": 2, "dp_shard": 4, "zero_stage": 3, "micro_batch_size": 1, "recompute": "full"}
    training = {"seq_len": 2048, "global_batch_size": 64, "steps": 10, "precision": "bf16"}
    cluster = {"accelerator": accelerator, "nodes": 1, "devices_per_node": 8}
    document = {"cluster": cluster, "layout": layout, "training": training, "stack": "ordinary"}
    spec = build_run_spec({"model": "llama-3.1-8b", "site": {"zone": "FRA"}, **document})
    measured_s = 1.2 * predict_step(spec).step_time_s.value
    row = PublishedRow(
        id="own", source="own", origin="own", collection="first", accelerator=accelerator,
        framework="ordinary", model_key="m", spec=spec, measured_step_time_s=measured_s,
    )  # fmt: skip
    result = calibrate([row])
    own = msgspec.structs.replace(spec.cluster, accelerator=user_profile([row], result, "runs"))
    stack = user_stacks([row], result.fitted)["ordinary"]
    after = predict_step(msgspec.structs.replace(spec, cluster=own, stack=stack)).step_time_s

    assert after.value == pytest.approx(result.rows[0].after_s, rel=1e-3)
    assert after.value == pytest.approx(measured_s, rel=0.05)
