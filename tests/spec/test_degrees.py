"""Degrees that would do: divisors of the devices that the model's own numbers allow, and messages that name them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.errors import InfeasibleLayoutError
from carbon_plugin.plan.search.layouts import search_layout
from carbon_plugin.spec.degrees import MOST_NAMED, allowed_degrees, divisors, listed, what_would_do
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.hardware.profiles import load_accelerator, load_node
from carbon_plugin.spec.layout import DEGREES, ParallelLayout
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.models.presets import load_preset
from carbon_plugin.spec.run import RunSpec, check_layout

MODELS = ("llama3-8b", "gpt2", "deepseek-v3", "mistral-7b", "mixtral-8x7b")


def cluster(nodes: int) -> Cluster:
    return Cluster(
        accelerator=load_accelerator("h100-sxm"), node=load_node("dgx-h100"), nodes=nodes, devices_per_node=8
    )


@given(number=st.integers(1, 100_000))
def test_divisors_are_all_numbers_that_leave_no_rest(number: int) -> None:
    assert divisors(number) == [d for d in range(1, number + 1) if number % d == 0]


@given(name=st.sampled_from(MODELS), axis=st.sampled_from(["tp", "pp", "ep"]), nodes=st.integers(1, 96))
def test_a_degree_is_allowed_where_a_layout_with_it_breaks_no_rule(name: str, axis: str, nodes: int) -> None:
    """`check_layout` decides on a whole layout, so that the two cannot drift apart."""
    model, machine = load_preset(name), cluster(nodes)
    kept = []
    for degree in divisors(machine.devices):
        rest = machine.devices if axis == "ep" else machine.devices // degree
        try:
            check_layout(model, machine, ParallelLayout(dp_replicate=rest, **{axis: degree}))
        except InfeasibleLayoutError:
            continue
        kept.append(degree)

    assert allowed_degrees(axis, model, machine.devices) == kept


def test_context_parallelism_divides_the_sequence() -> None:
    model = load_preset("gpt2")

    assert allowed_degrees("cp", model, 24, seq_len=1026) == [1, 2, 3, 6]
    assert allowed_degrees("cp", model, 24) == divisors(24)


def test_a_list_of_many_degrees_names_those_around_what_was_asked_for() -> None:
    assert listed([4], 3) == "4"
    assert listed([1, 2, 4, 8], 3) == "1, 2, 4 or 8"
    many = listed(divisors(5040), 100)
    assert many.endswith(f"(the nearest of {len(divisors(5040))})")
    assert "90, 105" in many
    assert many.count(",") == MOST_NAMED - 2


def planned(**held: int) -> RunSpec:
    spec = build_run_spec(
        {
            "model": "llama3-8b",
            "cluster": {"accelerator": "h100-sxm", "nodes": 3},
            "training": {"seq_len": 1024, "global_batch_size": 240, "steps": 10},
            "site": {"zone": "FRA"},
        }
    )
    return msgspec.structs.replace(spec, layout=None, layout_held=held)


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({"tp": 3}, "heads 32; 24 devices and llama3-8b's heads 32, kv_heads 8 and ffn 14336 allow tp 1, 2, 4 or 8"),
        ({"tp": 5}, "5 does not divide the 24 devices of the cluster; 24 devices and llama3-8b's heads 32"),
        ({"cp": 3}, "24 devices and seq_len 1024 allow cp 1, 2, 4 or 8"),
        ({"pp": 48}, "24 devices and llama3-8b's 32 layers allow pp 1, 2, 3, 4, 6, 8, 12 or 24"),
        ({"dp_shard": 5}, "24 devices allow dp_shard 1, 2, 3, 4, 6, 8, 12 or 24"),
        ({"tp": 8, "pp": 8}, "expected a product of 1, 2, 3, 4, 6, 8, 12 or 24"),
        ({"tp": 5, "pp": 7}, "allow tp 1, 2, 4 or 8; 24 devices and llama3-8b's 32 layers allow pp"),
        ({"ep": 5}, "= 24; 24 devices and no experts in llama3-8b allow ep 1"),
    ],
    ids=str,
)
def test_a_degree_that_cannot_be_is_refused_with_the_reason_and_those_that_can(held: dict[str, int], said: str) -> None:
    with pytest.raises(InfeasibleLayoutError) as refused:
        search_layout(planned(**held))

    assert said in str(refused.value)
    assert str(refused.value).count("layout:") == 1


def test_experts_that_do_not_divide_name_those_that_do() -> None:
    model = load_preset("deepseek-v3")

    assert what_would_do("ep", 3, model, 12) == "12 devices and deepseek-v3's 256 experts allow ep 1, 2 or 4"
    with pytest.raises(InfeasibleLayoutError, match="deepseek-v3's 256 experts allow ep 1, 2, 4 or 8"):
        check_layout(model, cluster(3), ParallelLayout(dp_replicate=24, ep=3))


def test_whole_heads_beside_tp_are_named_for_an_all_to_all() -> None:
    layout = ParallelLayout(cp=8, dp_replicate=1, context_parallel_kind="all_to_all")

    with pytest.raises(InfeasibleLayoutError, match="heads 12; beside tp 1 they allow cp 1, 2 or 4; a ring"):
        check_layout(load_preset("gpt2"), cluster(1), layout)


def test_the_degrees_are_fields_of_a_layout() -> None:
    assert set(DEGREES) <= set(ParallelLayout.__struct_fields__)
