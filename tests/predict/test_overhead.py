"""What ordinary software adds: it moves bytes more slowly, and multiplies matrices as fast as any other."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest

from carbon_plugin.predict.rates.resolve import resolve_constants, resolve_rates
from carbon_plugin.spec.hardware.cluster import Cluster
from carbon_plugin.spec.hardware.profiles import default_node_for, list_accelerators, load_accelerator
from carbon_plugin.spec.stack import STACKS, Maker, Stack


def rates_of(stack: Stack, device_name: str = "h100-sxm") -> dict[str, float]:
    device = load_accelerator(device_name)
    node = default_node_for(device)
    cluster = Cluster(accelerator=device, node=node, nodes=2, devices_per_node=node.accelerators)
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


@pytest.mark.parametrize(
    ("device", "stack", "ported"),
    [
        ("mi300x", "torchtitan", True),
        ("mi355x", "megatron-core", True),
        ("max-1550-tile", "torchtitan", True),
        ("h100-sxm", "torchtitan", False),
        ("gaudi2", "megatron-core", False),  # its maker's compiler writes the kernels
        ("trainium2", "megatron-core", False),
        ("tpu-v5p", "compiled", False),
        ("mi355x", "maxtext", False),  # and XLA those of what it compiles
        ("mi300x", "tuned", False),
    ],
)
def test_software_that_was_tuned_for_nvidia_moves_bytes_on_other_gpus_as_ordinary_software_does(
    device: str, stack: str, ported: bool
) -> None:
    known = STACKS[stack]
    found, at_home = rates_of(known, device), rates_of(msgspec.structs.replace(known, tuned_for=None), device)
    overhead = STACKS["ordinary"].overhead_factor if ported else 1

    assert (found["gemm_flops"], found["attention_flops"]) == (at_home["gemm_flops"], at_home["attention_flops"])
    assert at_home["memory"] / found["memory"] == pytest.approx(overhead)


def test_a_plan_says_that_its_software_was_tuned_for_another_maker_unless_an_overhead_is_stated() -> None:
    device, stack = load_accelerator("mi300x"), STACKS["torchtitan"]
    stated = msgspec.structs.replace(stack, overhead_factor=1.2)

    found, said = resolve_constants(device, stated, "bf16")
    assert float(found.overhead) == 1.2
    assert "stack.overhead_factor" not in {one.field for one in said}

    _, said = resolve_constants(device, stack, "bf16")
    (why,) = (one.source for one in said if one.field == "stack.overhead_factor")
    assert "tuned for devices of nvidia" in why


def test_software_can_be_tuned_for_the_maker_of_any_device_and_for_nobody_else() -> None:
    assert {device.vendor for device in list_accelerators()} == set(get_args(Maker))

    with pytest.raises(msgspec.ValidationError, match="tuned_for"):
        msgspec.convert({"tuned_for": "amdd"}, Stack)
