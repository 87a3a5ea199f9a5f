"""Random but valid runs: any preset on any device, laid out and run by any software that the spec accepts."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st

from carbon_plugin.errors import SpecError
from carbon_plugin.predict.rates.laws import PEAK_KEYS, peak_of, wide_precision
from carbon_plugin.spec.degrees import allowed_degrees, divisors
from carbon_plugin.spec.hardware.cluster import Accelerator, Cluster
from carbon_plugin.spec.hardware.profiles import list_accelerators, load_accelerator, usual_node
from carbon_plugin.spec.huggingface.config import model_from_hf_config
from carbon_plugin.spec.layout import SHARED_OUT, ParallelLayout
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.models.presets import list_presets, load_preset
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.site import Site
from carbon_plugin.spec.stack import STACKS, Stack
from carbon_plugin.spec.training import TrainingPlan

HYBRID = "hybrid"
HYBRID_CONFIG = {
    "model_type": "nemotron_h", "hidden_size": 2688, "intermediate_size": 1856, "num_hidden_layers": 52,
    "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME", "num_attention_heads": 32,
    "num_key_value_heads": 2, "head_dim": 128, "mamba_num_heads": 64, "mamba_head_dim": 64, "ssm_state_size": 128,
    "n_groups": 8, "chunk_size": 128, "conv_kernel": 4, "expand": 2, "n_routed_experts": 128, "num_experts_per_tok": 6,
    "moe_intermediate_size": 1856, "moe_shared_expert_intermediate_size": 3712, "n_shared_experts": 1,
    "vocab_size": 131072, "tie_word_embeddings": False, "mlp_hidden_act": "relu2",
}  # fmt: skip
"""A model whose layers differ: scans, attention and experts (Nemotron 3 Nano)."""
MODELS = (*sorted(list_presets()), HYBRID)
ACCELERATORS = tuple(accelerator.name for accelerator in list_accelerators() if accelerator.kind != "cpu")
NODES = (1, 1, 2, 3, 8, 64)
SITE = Site(zone=None, intensity_g_per_kwh=300.0, intensity_source="a test")
MOST_DEGREE = 16
OF_SOFTWARE: tuple[dict[str, Any], ...] = (
    {},
    {"expert_loop": True},
    {"expert_loop": True, "sorted_loop": True},
    {"expert_loop": True, "sorted_loop": True, "sliced_weights": True},
    {"indexed_biases": True},
    {"one_hot_dispatch": True},
    {"one_hot_dispatch": True, "one_hot_batch": True},
    {"static_dispatch": True, "capacity_factor": 1.25},
    {"expert_dispatch": "deepep"},
    {"expert_dispatch": "hybridep"},
    {"expert_dispatch": "deepep", "round_robin": True},
    {"plain_dispatch": True, "routing_spread": 0.3},
    {"dp_overlap": 0.5, "gather_overlap": 1.0},
    {"dp_overlap": 1.0},
    {"attention_kernel": "eager"},
    {"attention_kernel": "unfused"},
    {"cuda_graphs": "iteration", "fused_experts": True},
    {"cuda_graphs": "scoped"},
    {"shard_host_ops": 65, "accumulates_beside": True},
    {"operators_keep": "projections", "shard_unit": "weight"},
    {"narrow_inputs": True, "narrow_kept": True, "narrow_dispatch": True},
    {"grad_reduce_dtype": "bf16", "gradient_buffers": True},
    {"wraps_weights": "always"},
    {"transfer_wait_s": 1e-3, "broadcasts_parameters": True},
)
OF_TRAINING: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"optimizer": "sgd"},
    {"optimizer": "muon"},
    {"optimizer": "adafactor"},
    {"optimizer_state_dtype": "bf16"},
    {"optimizer_state_dtype": "fp8", "optimizer_in_backward": True},
    {"master_weights": False, "optimizer_state_dtype": "bf16"},
    {"optimizer_offload": True},
    {"activation_offload": 0.5},
    {"activation_offload": 1.0},
)


def model_named(name: str) -> TransformerModel:
    """Return the preset or architecture of this name."""
    if name != HYBRID:
        return load_preset(name)
    return model_from_hf_config(HYBRID_CONFIG, HYBRID, origin="test")


def precisions_of(accelerator: Accelerator) -> list[str]:
    """Return the precisions in which a device trains."""
    found = []
    for precision in PEAK_KEYS:
        try:
            peak_of(accelerator, precision)
            peak_of(accelerator, wide_precision(precision))
        except SpecError:
            continue
        found.append(precision)
    return found


@st.composite
def clusters(draw: st.DrawFn, *, alone: bool = False) -> Cluster:
    """Draw some nodes of a device, in full use or in part, or one device `alone`."""
    accelerator = load_accelerator(draw(st.sampled_from(ACCELERATORS)))
    node = usual_node(accelerator, None)
    used = 1 if alone else draw(st.sampled_from(divisors(node.accelerators)[::-1]))
    nodes = 1 if alone else draw(st.sampled_from(NODES))
    return Cluster(accelerator=accelerator, node=node, nodes=nodes, devices_per_node=used)


@st.composite
def models(draw: st.DrawFn) -> TransformerModel:
    """Draw a model that is trained whole, or by adapters beside frozen weights."""
    model = model_named(draw(st.sampled_from(MODELS)))
    frozen: dict[str, Any] = draw(st.sampled_from(({}, {}, {"trainable_fraction": 0.005}, {"trainable_fraction": 0.3})))
    if frozen:
        frozen = frozen | {"frozen_bits": draw(st.sampled_from((16, 8, 4)))}
    return msgspec.structs.replace(model, **frozen)


@st.composite
def layouts(draw: st.DrawFn, model: TransformerModel, cluster: Cluster) -> tuple[ParallelLayout, int]:
    """Draw a layout and the micro-batches of its step."""

    def degree(among: list[int], most: int = MOST_DEGREE) -> int:
        return draw(st.sampled_from([one for one in among if one <= most]))

    left = cluster.devices
    tp = degree([one for one in allowed_degrees("tp", model, left) if one <= cluster.devices_per_node])
    left //= tp
    pp = degree(divisors(left), min(MOST_DEGREE, model.layers))
    left //= pp
    cp = degree([one for one in divisors(left) if one & (one - 1) == 0])  # lengths are powers of two
    dp = left // cp
    shard = draw(st.sampled_from(divisors(dp)))
    kinds = ["1f1b"] if pp == 1 else ["gpipe", "1f1b", "zero_bubble", "interleaved", "dualpipe"]
    schedule = draw(st.sampled_from([kind for kind in kinds if kind != "dualpipe" or pp % 2 == 0]))
    chunks = 1
    if schedule == "interleaved":
        chunks = draw(st.sampled_from([v for v in (2, 3, 4) if pp * v <= model.layers] or [1]))
        schedule = "interleaved" if chunks > 1 else "1f1b"
    ep = 1
    experts: dict[str, Any] = {}
    if model.moe is not None:
        ep = degree([one for one in divisors(dp * cp * tp) if model.moe.experts % one == 0], 64)
        experts = {"ep": ep, "expert_overlap": draw(st.booleans())}
        if ep > 1:
            whole = [one for one in divisors(dp * cp * tp // ep) if model.moe.expert_ffn % one == 0]
            experts["expert_tp"] = degree(whole, 4)
    splits = model.heads % (tp * cp) == 0
    rounds = draw(st.sampled_from((1, 2, 8)))
    recompute = draw(st.sampled_from(("none", "selective", "operators", "full")))
    drained = draw(st.sampled_from((1, 1, 2))) if pp > 1 and schedule != "dualpipe" else 1
    layout = ParallelLayout(
        tp=tp,
        cp=cp,
        pp=pp,
        dp_replicate=dp // shard,
        dp_shard=shard,
        zero_stage=draw(st.sampled_from((1, 2, 3))) if shard > 1 else 0,
        sequence_parallel=tp > 1 and draw(st.booleans()),
        context_parallel_kind="all_to_all" if splits and draw(st.booleans()) else "ring",
        pipeline_schedule=schedule,
        virtual_stages=chunks,
        pipeline_rounds=drained,
        micro_batch_size=draw(st.sampled_from((1, 2, 8))),
        recompute=recompute,
        recompute_share=draw(st.sampled_from((1.0, 1.0, 0.5))) if recompute in SHARED_OUT else 1.0,
        recompute_reentrant=draw(st.booleans()),
        async_tp=draw(st.booleans()),
        balanced_stages=draw(st.booleans()),
        **experts,
    )
    return layout, 2 * pp * rounds if schedule == "dualpipe" else rounds * drained


@st.composite
def stacks(draw: st.DrawFn) -> Stack:
    """Draw software: a shipped stack, or plain PyTorch, with some of it replaced."""
    base = draw(st.sampled_from((*sorted(STACKS), None)))
    changes = draw(st.sampled_from(OF_SOFTWARE))
    return msgspec.structs.replace(Stack() if base is None else STACKS[base], **changes)


@st.composite
def runs(draw: st.DrawFn, *, alone: bool = False) -> RunSpec:
    """Draw a run with a layout, on one device where it is `alone`."""
    model, cluster, stack = draw(models()), draw(clusters(alone=alone)), draw(stacks())
    layout, rounds = draw(layouts(model, cluster))
    longest = model.made_for_seq_len if model.learned_positions else None
    lengths = [length for length in (512, 1024, 4096, 32768) if longest is None or length <= longest]
    kernel_needs_fp8 = stack.attention_kernel == "cudnn_fp8" and "fp8" not in cluster.accelerator.peak_flops
    if kernel_needs_fp8:
        stack = msgspec.structs.replace(stack, attention_kernel="cudnn")
    training = TrainingPlan(
        seq_len=draw(st.sampled_from(lengths)),
        global_batch_size=layout.dp * layout.micro_batch_size * rounds,
        steps=1000,
        precision=draw(st.sampled_from(precisions_of(cluster.accelerator))),  # type: ignore[arg-type]
        **draw(st.sampled_from(OF_TRAINING)),
    )
    return RunSpec(
        name="random", model=model, cluster=cluster, training=training, site=SITE, layout=layout, stack=stack
    )
