"""What DeepSpeed's configuration names, one by one, on a stand-in engine. test_frameworks.py has real engines."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from carbon_plugin.detect.job import Findings, Job
from carbon_plugin.detect.readers.deepspeed import read


@pytest.fixture
def findings(monkeypatch):
    """Read a stand-in engine that answers like a plain one of stage 3, but for what is given."""
    plain = {
        "zero_optimization_stage": 3, "autotp_size": 0, "gradient_accumulation_steps": 2,
        "train_micro_batch_size_per_gpu": 4, "bfloat16_enabled": True, "fp16_enabled": False,
        "zero_offload_optimizer": None, "zero_offload_param": None, "zero_hpz_partition_size": 1,
        "zero_quantized_weights": False, "zero_quantized_gradients": False,
    }  # fmt: skip

    def seen(**answers: Any) -> Findings:
        sizes = {"dp_world_size": 8, "sequence_parallel_size": 1, "mp_world_size": 1}
        stated = {name: answers.pop(name, value) for name, value in sizes.items()}
        methods = {name: (lambda self, value=value: value) for name, value in (plain | answers).items()}
        engine = type("DeepSpeedEngine", (), methods | stated)
        module = ModuleType("deepspeed.runtime.engine")
        vars(module)["DeepSpeedEngine"] = engine
        monkeypatch.setitem(sys.modules, "deepspeed.runtime.engine", module)
        monkeypatch.delitem(sys.modules, "deepspeed.utils.groups", raising=False)
        found = read(Job(model=SimpleNamespace(), world_size=8, framework=engine()))
        assert found is not None
        return found

    return seen


def test_a_plain_engine_has_no_remark(findings):
    assert findings().problems == ()


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"zero_hpz_partition_size": 4}, "hpZ of ZeRO++ keeps second shards among 4 ranks"),
        ({"zero_quantized_weights": True}, "qwZ of ZeRO++ quantises the weights"),
        ({"zero_quantized_nontrainable_weights": True}, "qwZ of ZeRO++ quantises the frozen weights"),
        ({"zero_quantized_gradients": True}, "qgZ of ZeRO++ quantises the gradients"),
    ],
)
def test_parts_of_zero_plus_plus_are_named_one_by_one(findings, answers, said):
    ((kind, sentence),) = findings(**answers).problems

    assert kind == "layout"
    assert sentence.startswith(said)


def test_auto_tp_and_ulysses_are_named_where_they_are_in_use(findings):
    fields = findings(autotp_size=2, sequence_parallel_size=4).fields

    assert (fields["layout.tp"].value, fields["layout.tp"].source) == (2, "AutoTP of DeepSpeed, engine.autotp_size()")
    assert fields["layout.cp"].value == 4
    assert fields["layout.context_parallel_kind"].source == "DeepSpeed-Ulysses"
