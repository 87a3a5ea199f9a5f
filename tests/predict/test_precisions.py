"""What layers of transformers keep in each precision, under autocast and with dropout, beside our count.

Autocast of GPUs runs softmaxes, powers and norms in fp32, that of CPUs leaves them as they are, and dropout keeps a
mask of bytes on GPUs and one of its own precision on CPUs. The mode below does on a CPU what a GPU does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec
import pytest

from carbon_plugin.predict.activations import layer_activation_bytes
from carbon_plugin.predict.case.from_spec import layout_of, shape_of, work_of
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.training import TrainingPlan
from tests.predict.small_models import GPT, LLAMA

Mode = Literal["bf16", "fp32", "autocast"]
LENGTH, BATCH = 120, 3
TOKENS = LENGTH * BATCH
"""No width of a layer, so that activations and weights have different shapes."""
WRITTEN = msgspec.structs.replace(GPT, written_gelu=True)
QWEN = msgspec.structs.replace(LLAMA, qk_norm=True)
BERT = msgspec.structs.replace(GPT, causal=False)


def kept_bytes(model: TransformerModel, attention: str, mode: Mode) -> float:
    """Return the bytes a token that one layer keeps beside weights: half of those of three layers less those of one."""
    one, three = (_kept(model, layers, attention, mode) for layers in (1, 3))
    return (three - one) / 2 / TOKENS


def _kept(model: TransformerModel, layers: int, attention: str, mode: Mode) -> int:
    torch = pytest.importorskip("torch")
    network = _build(model, layers, attention)
    network = network.to(torch.bfloat16 if mode == "bf16" else torch.float32).train()
    own = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    weights = {frozenset(parameter.shape) for parameter in network.parameters() if parameter.dim() == 2}
    kept = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage._cdata not in own and not (tensor.dim() == 2 and frozenset(tensor.shape) in weights):
            kept[storage._cdata] = storage  # held, so that no address is used twice
        return tensor

    inputs = {"input_ids": torch.randint(0, model.vocab, (BATCH, LENGTH))}
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=mode == "autocast")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast, _as_on_gpus():
        network(**inputs)
    return sum(storage.nbytes() for storage in kept.values())


def _build(model: TransformerModel, layers: int, attention: str) -> Any:
    transformers = pytest.importorskip("transformers")
    common = {"vocab_size": model.vocab, "attn_implementation": attention}
    sizes = {
        "hidden_size": model.hidden, "intermediate_size": model.ffn, "num_attention_heads": model.heads,
        "num_hidden_layers": layers,
    }  # fmt: skip
    if model.gated:
        kind = transformers.Qwen3Config if model.qk_norm else transformers.LlamaConfig
        heads = {"num_key_value_heads": model.kv_heads, "head_dim": model.head_dim}
        config = kind(use_cache=False, **heads, **sizes, **common)
    elif model.causal:
        config = transformers.GPT2Config(
            n_embd=model.hidden, n_inner=model.ffn, n_head=model.heads, n_layer=layers,
            activation_function="gelu_new" if model.written_gelu else "gelu",
            resid_pdrop=model.dropout, attn_pdrop=model.dropout, embd_pdrop=0.0, use_cache=False, **common,
        )  # fmt: skip
    else:
        dropout = {"hidden_dropout_prob": model.dropout, "attention_probs_dropout_prob": model.dropout}
        config = transformers.BertConfig(**dropout, **sizes, **common)
    return transformers.AutoModel.from_config(config)


def _as_on_gpus() -> Any:
    import torch
    from torch.nn import functional
    from torch.overrides import TorchFunctionMode

    class AsOnGpus(TorchFunctionMode):  # type: ignore[misc]  # torch has no types where the tests are checked
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            named = dict(kwargs or {})
            if function is functional.dropout:
                share = named.get("p", args[1] if len(args) > 1 else 0.5)
                return torch.native_dropout(args[0], share, True)[0] if share else args[0]
            if function is functional.scaled_dot_product_attention:
                named["dropout_p"] = 0.0  # fused kernels keep no mask, the CPU's gives up fusing
            if function in (functional.softmax, torch.pow) and torch.is_autocast_enabled("cpu"):
                args = (args[0].float(), *args[1:])
            return function(*args, **named)

    return AsOnGpus()


def predicted_bytes(rates: Rates, model: TransformerModel, mode: Mode) -> float:
    plan = TrainingPlan(seq_len=LENGTH, global_batch_size=1, steps=1, precision="fp32" if mode == "fp32" else "bf16")
    work = work_of(plan, Stack(plain_modules=True, autocast=mode == "autocast"))
    size = layer_activation_bytes(shape_of(model), layout_of(ParallelLayout()), work, rates, sparse=False)
    return float(size) / LENGTH


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("mode", ["bf16", "fp32", "autocast"])
@pytest.mark.parametrize(
    "model",
    [
        LLAMA,
        QWEN,
        WRITTEN,
        *(msgspec.structs.replace(one, dropout=share) for one in (GPT, BERT) for share in (0.0, 0.1)),
    ],
    ids=["llama", "qwen", "written GELU", "gpt", "gpt with dropout", "bert", "bert with dropout"],
)
def test_a_layer_keeps_what_autograd_keeps_of_it(
    rates: Callable[..., Rates], model: TransformerModel, mode: Mode, attention: str
) -> None:
    """One number a norm and one a head are left out, 0.5 % of these small layers."""
    through_memory = float(attention == "eager")
    ours = predicted_bytes(rates(attention_unfused=through_memory, attention_eager=through_memory), model, mode)

    assert ours == pytest.approx(kept_bytes(model, attention, mode), rel=0.006)
