"""Sparse layers: the host's wait, overlapped all-to-all, DualPipe, and experts that are split themselves."""

from __future__ import annotations

import msgspec
import pytest

from carbon_plugin.errors import InfeasibleLayoutError
from carbon_plugin.predict.case import layout_of, shape_of, work_of
from carbon_plugin.predict.layer import HOST_OPS_WAIT
from carbon_plugin.predict.schedule import StepTime, device_parameters, step_time
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.model import MixtureOfExperts, TransformerModel
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import TrainingPlan

PLAN = TrainingPlan(seq_len=4096, global_batch_size=256, steps=1)


@pytest.fixture
def sparse(gpt) -> TransformerModel:
    return msgspec.structs.replace(gpt, moe=MixtureOfExperts(experts=64, top_k=4, expert_ffn=2560))


def step(model: TransformerModel, rates, **layout) -> StepTime:
    return step_time(shape_of(model), layout_of(ParallelLayout(**layout)), work_of(PLAN, Stack()), rates)


def test_device_and_host_wait_for_each_other_in_every_sparse_layer(sparse, rates) -> None:
    slow, graphs = rates(), rates(host_op_time=0.0)
    layout = {"dp_shard": 64, "zero_stage": 1, "ep": 8, "micro_batch_size": 4}

    lost = float(step(sparse, slow, **layout).total - step(sparse, graphs, **layout).total)

    waits = 2 * HOST_OPS_WAIT * 31e-6 * sparse.layers * 256 / 64 / 4
    assert lost > waits


def test_overlap_hides_expert_traffic_but_never_makes_it_free(sparse, rates) -> None:
    layout = {"dp_shard": 64, "zero_stage": 1, "ep": 64}

    plain, hidden = (step(sparse, rates(), **layout, expert_overlap=flag).terms["ep"] for flag in (False, True))

    assert 0 < float(hidden) < float(plain)


def test_dualpipe_has_a_smaller_bubble_and_overlaps_the_experts(sparse, rates) -> None:
    # DeepSeek-V3 (arXiv 2412.19437), table 2: (pp/2-1)(F&B+B-3W) against (pp-1)(F+B).
    layout = {"dp_shard": 8, "zero_stage": 1, "pp": 8, "ep": 8}

    plain, dual = (step(sparse, rates(), **layout, pipeline_schedule=kind) for kind in ("1f1b", "dualpipe"))

    assert float(dual.terms["pp_bubble"]) < 0.3 * float(plain.terms["pp_bubble"])
    assert float(dual.terms["ep"]) < float(plain.terms["ep"])
    assert float(sum(dual.terms.values())) == pytest.approx(float(dual.total))


def test_expert_tensor_parallelism_splits_the_experts_and_pays_for_it(sparse, rates) -> None:
    layout = {"tp": 4, "dp_shard": 16, "zero_stage": 1, "sequence_parallel": True}
    whole, split = ({**layout, "ep": 8, "expert_tp": degree} for degree in (1, 4))

    _, kept = device_parameters(shape_of(sparse), layout_of(ParallelLayout(**whole)))
    _, quarter = device_parameters(shape_of(sparse), layout_of(ParallelLayout(**split)))

    assert float(quarter) == pytest.approx(float(kept) / 4)
    assert float(step(sparse, rates(), **split).terms["ep"]) > float(step(sparse, rates(), **whole).terms["ep"])


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"expert_tp": 2}, "expert_tp 2 needs ep above 1"),
        ({"dp_replicate": 8, "ep": 4, "expert_tp": 4}, r"ep 4 \* expert_tp 4 = 16 does not divide .* = 8"),
        ({"pp": 3, "pipeline_schedule": "dualpipe"}, "dualpipe needs an even pp, got pp 3"),
    ],
)
def test_impossible_combinations_name_the_rule_and_the_numbers(layout, message) -> None:
    with pytest.raises(InfeasibleLayoutError, match=message):
        ParallelLayout(**layout)


def test_frozen_weights_need_no_gradient_of_their_own(gpt, rates) -> None:
    frozen = msgspec.structs.replace(gpt, trainable_fraction=1e-6)

    whole, dgrad = (float(step(model, rates(), micro_batch_size=4).terms["matmul"]) for model in (gpt, frozen))

    assert dgrad == pytest.approx(whole * 2 / 3, rel=0.03)


def test_muon_and_offload_take_longer_than_adam_on_the_device(gpt, rates) -> None:
    def optimizer(**plan) -> float:
        work = work_of(TrainingPlan(seq_len=2048, global_batch_size=64, steps=1, **plan), Stack())
        return float(step_time(shape_of(gpt), layout_of(ParallelLayout()), work, rates()).terms["optimizer"])

    assert optimizer(optimizer="muon") > optimizer(optimizer="adamw") > optimizer(optimizer="sgd")
    assert optimizer(optimizer_offload=True) > 10 * optimizer()
