"""The types and bytes of a count under autocast, against a real forward pass under it and published runs."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from carbon_plugin.detect.shape.autocast import as_autocast, narrow_copies
from carbon_plugin.detect.shape.counting import Counts, count_forward
from carbon_plugin.detect.shape.factory import count_target
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.models.model import CountedModel
from carbon_plugin.spec.writing import _model
from tests.networks import UNet, resnet50


def counted(module: nn.Module, *sizes: int) -> Counts:
    batch = torch.empty(sizes, device="meta")
    return count_forward(module, lambda copy: copy(batch), time.thread_time() + 120)


def kept_under_autocast(module: nn.Module, batch: torch.Tensor) -> int:
    """Return the bytes of the storages that a real forward pass under autocast keeps, without parameters and their
    16-bit copies.
    """
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16):
        module(batch)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers())}
    copies = {tuple(parameter.shape) for parameter in module.parameters()}
    copies |= {shape[::-1] for shape in copies if len(shape) == 2}
    return sum(
        tensor.untyped_storage().nbytes()
        for place, tensor in kept.items()
        if place not in own and (tensor.dtype == torch.float32 or tuple(tensor.shape) not in copies)
    )


# Networks of operations that the lists of CPUs and of GPUs have alike: layer norms are in those of GPUs alone.
@pytest.mark.parametrize(
    ("build", "sizes"),
    [
        (resnet50, (2, 3, 64, 64)),
        (UNet, (2, 3, 32, 32)),
        (lambda: nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 10)), (8, 64)),
    ],
    ids=["ResNet-50", "U-Net", "perceptron"],
)
def test_what_is_kept_under_autocast_is_what_a_real_pass_keeps(build: Callable[[], nn.Module], sizes) -> None:
    module = build()

    found = counted(module, *sizes)

    assert found.autocast_saved_bytes == pytest.approx(kept_under_autocast(module, torch.randn(sizes)), rel=0.02)
    assert found.autocast_saved_bytes < 0.6 * found.saved_bytes
    assert found.autocast_activation_bytes < 0.65 * found.activation_bytes


def attended(x: torch.Tensor) -> torch.Tensor:
    with torch.device("meta"):
        return nn.MultiheadAttention(8, 2, batch_first=True)(x, x, x)[0]


def recurrent(x: torch.Tensor) -> torch.Tensor:
    with torch.device("meta"):
        return nn.LSTM(8, 8, batch_first=True)(x)[0]


NARROW, WIDE = torch.bfloat16, torch.float32


@pytest.mark.parametrize(
    ("run", "of_wide", "of_narrow"),
    [
        (lambda x: F.linear(x, torch.empty(8, 8, device="meta")), NARROW, NARROW),
        (lambda x: x @ x.mT, NARROW, NARROW),
        (lambda x: torch.einsum("abc,abd->acd", x, x), NARROW, NARROW),
        (lambda x: F.conv1d(x, torch.empty(8, 4, 3, device="meta")), NARROW, NARROW),
        (lambda x: F.scaled_dot_product_attention(x, x, x), NARROW, NARROW),
        (attended, NARROW, NARROW),
        (recurrent, NARROW, NARROW),
        (lambda x: F.layer_norm(x, (8,)), WIDE, WIDE),
        (lambda x: F.group_norm(x, 2), WIDE, WIDE),
        (lambda x: x.softmax(-1), WIDE, WIDE),
        (lambda x: F.softmax(x, -1), WIDE, WIDE),
        (lambda x: F.mse_loss(x, x), WIDE, WIDE),
        (lambda x: x**2, WIDE, WIDE),
        (lambda x: 1 / x, WIDE, WIDE),
        (lambda x: x.sum(), WIDE, WIDE),
        (lambda x: F.interpolate(x, scale_factor=2), WIDE, WIDE),
        (lambda x: x.softmax(-1, dtype=torch.float16), torch.float16, torch.float16),
        (F.gelu, WIDE, NARROW),
        (lambda x: F.batch_norm(x, *torch.empty(2, 4, device="meta"), training=True), WIDE, NARROW),
        (lambda x: F.max_pool1d(x, 2), WIDE, NARROW),
        (lambda x: torch.addcmul(x, x, torch.empty_like(x, dtype=torch.float32)), WIDE, WIDE),
        (lambda x: torch.cat([x, torch.empty_like(x, dtype=torch.float32)]), WIDE, WIDE),
        (lambda x: x.double() @ x.double().mT, torch.float64, torch.float64),
    ],
)
def test_operations_have_the_types_of_pytorchs_lists_for_gpus(run, of_wide, of_narrow) -> None:
    with as_autocast({}):
        found = [run(torch.empty(2, 4, 8, dtype=dtype, device="meta")).dtype for dtype in (WIDE, NARROW)]

    assert found == [of_wide, of_narrow]


def test_a_parameter_is_copied_once_for_all_that_use_it() -> None:
    layer = nn.Linear(64, 64, bias=False, device="meta")
    copies = narrow_copies(layer.parameters())

    with as_autocast(copies):
        layer(torch.empty(8, 64, device="meta"))

    assert [copy.dtype for copy in copies.values()] == [torch.bfloat16]
    # Twice through the layer: two results, and the batch, which is cast to 16 bit.
    assert counted(nn.Sequential(layer, layer), 8, 64).autocast_activation_bytes == 3 * 8 * 64 * 2


@pytest.mark.parametrize("bias", [True, False])
def test_the_result_of_a_product_of_many_dimensions_is_counted_once(bias) -> None:
    found = counted(nn.Linear(64, 32, bias=bias), 2, 8, 64)

    assert (found.activation_bytes, found.kernels) == (2 * 8 * 32 * 4, 1)


class Attention(nn.Module):
    """Attention between the samples' own positions, in heads of 16."""

    def __init__(self, masked: bool, key_heads: int) -> None:
        super().__init__()
        self.masked, self.key_heads = masked, key_heads
        self.query, self.key = nn.Linear(64, 64), nn.Linear(64, 16 * key_heads)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = [part(x).unflatten(-1, (-1, 16)).transpose(1, 2) for part in (self.query, self.key)]
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device) if self.masked else None
        query, key = heads
        return F.scaled_dot_product_attention(query, key, key, mask, enable_gqa=self.key_heads < 4)


@pytest.mark.parametrize("masked", [True, False])
def test_attention_under_autocast_keeps_no_scores(masked) -> None:
    module = Attention(masked, key_heads=4)

    short, long = (counted(module, 2, length, 64).autocast_saved_bytes for length in (512, 1024))

    assert long == pytest.approx(2 * short, rel=0.01)


def test_attention_of_fewer_keys_than_queries_is_counted_too() -> None:
    assert counted(Attention(masked=False, key_heads=2), 2, 32, 64).autocast_saved_bytes > 0


class OnlyWide(nn.Linear):
    """A layer that refuses what autocast would give it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        if y.dtype != torch.float32:
            raise TypeError("expected fp32")
        return y


def test_what_cannot_run_under_autocast_or_has_16_bit_itself_is_counted_as_it_is() -> None:
    refused, narrow = OnlyWide(64, 64), nn.Linear(64, 64, dtype=torch.bfloat16)

    for module in (refused, narrow):
        batch = torch.empty(8, 64, device="meta", dtype=module.weight.dtype)
        found = count_forward(module, lambda copy, batch=batch: copy(batch), time.thread_time() + 60)
        assert found.activation_bytes == batch.element_size() * 8 * 64
        assert (found.autocast_activation_bytes, found.autocast_saved_bytes) == (None, None)


def predicted(model: CountedModel | dict, accelerator: str, precision: str, samples: int, seq_len: int = 1):
    return predict_step(
        build_run_spec(
            {
                "model": _model(model) if isinstance(model, CountedModel) else model,
                "cluster": {"accelerator": accelerator, "nodes": 1, "devices_per_node": 1},
                "site": {"zone": "FRA"},
                "layout": {"dp_replicate": 1, "micro_batch_size": samples},
                "training": {
                    "global_batch_size": samples, "steps": 1, "precision": precision, "seq_len": seq_len
                },
            }
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("precision", "images_per_s"),
    # NVIDIA/DeepLearningExamples, PyTorch/Classification/ConvNets/resnet50v1.5/README.md: one A100 80GB, batches of 256
    [("fp16", 2470), ("tf32", 938)],
)
def test_the_range_of_a_counted_resnet50_holds_what_nvidia_published(precision, images_per_s) -> None:
    model = count_target("tests.networks:resnet50", ["8,3,224,224"])

    found = predicted(model, "a100-sxm-80gb", precision, 256).step_time_s

    assert found.low < 256 / images_per_s < found.high
    assert found.value == pytest.approx(256 / images_per_s, rel=0.4)


def test_a_counted_vit_is_that_of_a_spec_within_a_factor_of_two() -> None:
    spec = {"name": "vit-b", "layers": 12, "hidden": 768, "ffn": 3072, "heads": 12, "vocab": 1000, "gated": False}
    model = count_target("tests.networks:ViT", ["8,3,224,224"])

    count = predicted(model, "h100-sxm", "bf16", 128)
    shape = predicted({**spec, "causal": False}, "h100-sxm", "bf16", 128, 197)

    assert count.model_flops_per_step == pytest.approx(shape.model_flops_per_step, rel=0.1)
    # A count moves the results of products through memory beside the time of the products themselves.
    assert 1 < count.step_time_s.value / shape.step_time_s.value < 2.1
    assert count.memory.parts_bytes["activations"] == pytest.approx(shape.memory.parts_bytes["activations"], rel=0.25)
