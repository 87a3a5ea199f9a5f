"""What ordinary software adds: it moves bytes more slowly, and multiplies matrices as fast as any other."""

from __future__ import annotations

import msgspec
import pytest

from carbon_plugin.predict.rates.resolve import resolve_rates
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.hardware.profiles import default_node_for, load_accelerator
from carbon_plugin.spec.stack import STACKS, Stack


def rates_of(stack: Stack) -> dict[str, float]:
    device = load_accelerator("h100-sxm")
    cluster = Cluster(accelerator=device, node=default_node_for(device), nodes=2, devices_per_node=8)
    found, _ = resolve_rates(cluster, stack, "bf16")
    return {name: float(getattr(found, name)) for name in ("gemm_flops", "attention_flops", "memory", "scaleup", "nic")}


def test_an_overhead_divides_the_rates_of_bytes_and_leaves_the_products_alone() -> None:
    tuned = STACKS["torchtitan"]
    usual, slow = rates_of(tuned), rates_of(msgspec.structs.replace(tuned, overhead_factor=2.0))

    assert (slow["gemm_flops"], slow["attention_flops"]) == (usual["gemm_flops"], usual["attention_flops"])
    assert [usual[name] / slow[name] for name in ("memory", "scaleup", "nic")] == pytest.approx([2, 2, 2])


def test_software_of_which_nothing_is_known_has_the_overhead_of_ordinary_software() -> None:
    shipped = STACKS["ordinary"]

    assert rates_of(Stack(attention_kernel="flash2")) == rates_of(
        msgspec.structs.replace(shipped, attention_kernel="flash2")
    )
