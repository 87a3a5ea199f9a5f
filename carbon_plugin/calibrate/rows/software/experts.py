"""Describe how the experts of a published row run and how tokens reach them, by its framework, release and notes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from carbon_plugin.calibrate.rows.fields import Fields
from carbon_plugin.calibrate.rows.software.releases import CURRENT, container_of, release_of
from carbon_plugin.calibrate.rows.software.stated_experts import DROPPED_CAPACITY, Dispatcher, Routing, StatedExperts
from carbon_plugin.spec.frameworks import AUTOMODEL, MEGATRON_BRIDGE, MEGATRON_CORE, MEGATRON_SWIFT, NEMO, Conventions
from carbon_plugin.spec.hardware.cluster import Accelerator
from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.stack import BALANCED_SPREAD, ORDINARY, ROUTING_SPREAD

GROUPED_TRANSFORMERS = re.compile(r"(?i)transformers v?([5-9]|\d\d)\b")
"""Releases of transformers whose experts are grouped products (`grouped_mm`, its default since version 5)."""
GROUPED_EXPERTS = re.compile(r"(?i)(?<!un)grouped (products?|kernels?)|scattermoe|megablocks|sonic-?moe")
"""Words by which a row says that all experts of a layer are one product, whoever's modules are around them: the kernels
that users put in place of a loop are named ScatterMoE (arXiv 2403.08245), MegaBlocks (arXiv 2211.15841) or SonicMoE."""
SCATTERING = re.compile(r"(?i)scattermoe|megablocks|sonic-?moe")
"""Those of them that sort tokens and add them up in kernels of their own."""
HOST_COUNTS = re.compile(r"(?i)megablocks")
"""Grouped products whose callers read back to the host how many rows they get (`padded_gather` of MegaBlocks)."""
SYNC_FREE = re.compile(r"(?i)sync-?free")
"""Experts whose counts stay on the device in software that would read them (`turbo_sync_free_moe_stage` of Primus)."""
WITHOUT_COUNTS = re.compile(r"\bJ(ax|AX)")
"""Software whose compiled functions have fixed shapes, so that no count of tokens can reach the host inside of one (the
documentation of `jax.jit`: values that shapes depend on have to be known when it is traced)."""
SORTED_EXPERTS = re.compile(r"experts of (Granite|JetMoe)")
"""Models of transformers before its version 5 whose experts loop over rows that were sorted before
(`GraniteMoeParallelExperts`, `JetMoeParallelExperts`)."""
COMPUTES_ALL = re.compile(r"(?i)llama[ -]?4")
"""Models of transformers before its version 5 whose experts all take every token, with zeros for those that are not
theirs (`Llama4TextMoe.forward`)."""
EINSUM_EXPERTS = re.compile(r"(?i)megatron-deepspeed|deepspeed-moe")
"""Frameworks whose experts are DeepSpeed's: products with one-hot matrices over the tokens of a micro-batch send these
to them and back (`MOELayer.forward` of its moe/sharded_moe.py, which takes Tutel's kernels only where told to)."""
MESH_EXPERTS = re.compile(r"(?i)mesh[- ]?(tensorflow|tf)\b")
"""Mesh TensorFlow, whose experts are reached by such products too, over groups of tokens as XLA compiles them
(`transformer_moe_layer_v1` of its transformer/moe.py). A group has 1,024 tokens there and is read as one sequence."""
TRANSFORMERS = re.compile(r"(?i)hf trainer|hugging face|ms-swift \+")
"""Frameworks that train modules of transformers, whose experts run in a Python loop before its version 5."""
LOOP_TRANSFORMERS = re.compile(r"(?i)transformers v?4\b|\b4\.\d\d|\b20(1\d|2[0-5])\b")
"""Releases of transformers before its version 5 (December 2025), and years of software that had them."""
LOOP = re.compile(r"(?i)experts (in a |run in a )?loop|loop (over|runs|pads) ")
"""Words by which a row of any software says that a loop runs its experts one after the other."""
LOOPED_EXPERTS = re.compile(rf"{LOOP.pattern}|ungrouped (products|experts)")
"""Words of ordinary software for it."""
UNGROUPED = "ungrouped experts"
"""Words by which a row says that Megatron runs its experts without grouped products: a loop over tokens that were
sorted before (`SequentialMLP` of Megatron-core)."""
WEIGHTED_SINCE = (25, 1)
"""Releases of Megatron-core's relatives from this month on have its experts whose activation is weighted.
Pai-Megatron-Patch 25.04 takes Megatron-LM of 28 March 2025, whose recompute knows `moe_act` as its rows do."""
UNFUSED_PERMUTATION = re.compile(r"\b20(1\d|2[0-4])\b")
"""Years in which Megatron and its relatives had no `moe_permute_fusion`: a run of October 2024 prints all options of
its mixture, and this is not among them (coremoe_a100-8-grouped)."""
SPREADS: Mapping[Routing, float] = {
    "natural": ROUTING_SPREAD,
    "balanced_in_training": BALANCED_SPREAD,
    "forced": 0.0,
    "in_turn": 0.0,
}
"""The relative spread of the load over ranks that routing leaves (`Stack.routing_spread`)."""
DROPPING_MODELS = re.compile(r"(?i)mixtral|grok|deepseek|qwen")
"""Mixtures whose recipes in NeMo 2 add `MegatronTokenDropCallback` (scripts/performance/llm/pretrain_*.py at 01b83a7
and recipes/mixtral_8x7b.py). Those of Llama 4 do not."""
DROPPING_SINCE = (25, 1)
"""Containers of NeMo 2, whose benchmark pages are of these recipes."""
SENT_ONCE: tuple[Dispatcher, ...] = ("deepep", "hybridep")
"""Dispatchers that send a token once to each rank that has some of its experts, and drop none."""


class Recipe(Struct, frozen=True, kw_only=True):
    """Holds the settings that a vendor's recipe for mixtures of experts makes from a container release on. Rows leave
    them out.
    """

    said: str
    since: tuple[int, int]
    stack: dict[str, Any]
    expert_overlap: bool = False


RACK = 72
SCOPED_GRAPHS = Recipe(said="scoped CUDA graphs", since=(25, 11), stack={"cuda_graphs": "scoped"})
"""Megatron-Bridge's recipes for rack-scale devices capture attention and routing
(scripts/performance/configs/{deepseek,qwen}/*_workload_base_configs.py at 0426418 and 01b2977). Two exceptions are not
followed here: GPT-OSS on GB200 captures nothing, and some recipes for 8-GPU nodes capture too."""
HYBRID_MODELS, HYBRID_SINCE = re.compile(r"(?i)deepseek|qwen"), (25, 11)
"""Mixtures whose recipes for rack-scale devices set `moe_flex_dispatcher_backend="hybridep"`, and the container from
which they do (the same files). GPT-OSS in bf16 keeps the plain all-to-all (configs/gpt_oss/ at 07eea52)."""
WHOLE_ITERATIONS = Recipe(
    said="CUDA graphs of whole iterations, fused experts, attention in fp8, expert exchange overlapped",
    since=(26, 6),
    stack={"cuda_graphs": "iteration", "fused_experts": True, "attention_kernel": "cudnn_fp8"},
    expert_overlap=True,
)
"""Megatron-Bridge's MXFP8 recipes for Blackwell (issue 2885, pull requests 3983, 4226, 4249 and 4606, and
src/megatron/bridge/perf_recipes/{qwen,gpt_oss}/common.py at 134e903 and 3564acf)."""


def experts_of(
    conventions: Conventions, row: Fields, stated: StatedExperts, device: Accelerator, model: TransformerModel
) -> dict[str, Any]:
    """Return the fields by which the row says how experts run and how tokens reach them."""
    said = f"{row.text('framework')} {row.text('notes')}"
    grouped = GROUPED_TRANSFORMERS.search(row.text("framework")) or GROUPED_EXPERTS.search(said)
    changes = _expert_products(conventions, row, model, grouped=grouped is not None)
    changes |= _routing(conventions, stated) | _dispatch(conventions, row, stated, device)
    if stated.cuda_graphs in ("scoped", "iteration"):
        changes["cuda_graphs"] = stated.cuda_graphs
    # A Megatron that groups no experts fuses no permutation either. torchtitan gathers, multiplies in fp32 and adds up
    # by `scatter_add` (its models/moe.py). MaxText sorts, takes and sums (`permute` of its layers/moe.py), and so do
    # others that XLA compiles (levanter/grug/_moe/ep_ring.py).
    single = conventions.name == "torchtitan"
    # transformers sorts, gathers, multiplies, puts back and sums (`grouped_mm_experts_forward` of integrations/moe.py).
    by_transformers = TRANSFORMERS.match(row.text("framework")) and grouped and not SCATTERING.search(said)
    old = conventions.reentrant and UNFUSED_PERMUTATION.search(row.text("framework")) is not None
    unfused = old or UNGROUPED in said or "permutation not fused" in said
    if unfused or single or by_transformers:
        changes["plain_dispatch"] = True
    if by_transformers:
        changes["indexed_biases"] = True  # `gate_up_proj_bias[expert_ids_g]` of its integrations/moe.py
    current = CURRENT.search(f"{row.text('framework')} {row.text('source')}")
    if conventions.name == MEGATRON_CORE.name and (current or release_of(row.text("framework")) >= WEIGHTED_SINCE):
        changes["weighted_experts"] = True
    return changes


def _expert_products(
    conventions: Conventions, row: Fields, model: TransformerModel, *, grouped: bool
) -> dict[str, Any]:
    """Return the fields by which the row says what multiplies the rows of its experts, and what starts this."""
    changes: dict[str, Any] = {}
    notes = row.text("notes")
    looped = False if grouped else _loops_over_experts(conventions, row)
    if looped and model.moe is not None and COMPUTES_ALL.search(row.text("model")):
        changes |= {"expert_loop": False, "capacity_factor": model.moe.experts / model.moe.top_k}
        changes |= {"static_dispatch": True, "plain_dispatch": True}
        looped = False
    elif looped is not None:
        sliced = looped and SORTED_EXPERTS.search(notes) is not None
        sorted_before = sliced or (looped and conventions.reentrant)
        changes |= {"expert_loop": looped, "sorted_loop": sorted_before, "sliced_weights": sliced}
    if HOST_COUNTS.search(f"{row.text('framework')} {notes}"):
        changes["token_counts"] = "host"
    if SYNC_FREE.search(notes) or WITHOUT_COUNTS.search(row.text("framework")):
        changes["token_counts"] = "device"
    if "fused experts" in notes:
        changes["fused_experts"] = True
    return changes


def _routing(conventions: Conventions, stated: StatedExperts) -> dict[str, Any]:
    """Return the fields by which the row says how its tokens fall on experts."""
    changes: dict[str, Any] = {}
    if stated.routing is not None:
        changes["routing_spread"] = SPREADS[stated.routing]
    if _deals_in_turn(conventions, stated):
        changes["round_robin"] = True
    return changes


def _dispatch(conventions: Conventions, row: Fields, stated: StatedExperts, device: Accelerator) -> dict[str, Any]:
    """Return the fields by which the row says how tokens are sent to experts, and which are dropped."""
    changes: dict[str, Any] = {}
    sent_by = stated.dispatcher or _usual_dispatcher(conventions, row, stated, device)
    if sent_by == "deepep" and _leaves_node(conventions, row, device) and device.scaleup.domain >= RACK:
        sent_by = "hybridep"
    if sent_by is not None:
        changes["expert_dispatch"] = sent_by
    if stated.capacity_factor is None and conventions == NEMO and _drops_by_recipe(row, stated):
        changes |= {"capacity_factor": DROPPED_CAPACITY, "static_dispatch": True}
    elif stated.capacity_factor is not None:
        # NVIDIA's callbacks for dropped tokens pad too, and so does XLA, whose shapes are fixed. Without padding the
        # host waits for the number of rows that are left (`MoEAlltoAllTokenDispatcher.preprocess` of Megatron-core).
        changes |= {"capacity_factor": stated.capacity_factor, "static_dispatch": stated.padded}
    framework = row.text("framework")
    einsum = EINSUM_EXPERTS.match(framework)
    if einsum or MESH_EXPERTS.match(framework) or "one-hot dispatch" in row.text("notes"):
        changes |= {"one_hot_dispatch": True, "one_hot_batch": einsum is not None}
    return changes


def _usual_dispatcher(
    conventions: Conventions, row: Fields, stated: StatedExperts, device: Accelerator
) -> Dispatcher | None:
    """Return what the row's software sends tokens by where the row does not say, None where it is as in its stack.

    Megatron-Bridge's recipes use DeepEP where the exchange leaves the node (its docs/training/moe-optimization.md),
    HybridEP in racks, and a plain all-to-all where tokens are dropped (`apply_moe_token_drop`).
    """
    drops = stated.capacity_factor is not None
    if not drops and _sent_once_in_racks(conventions, row, device):
        return "hybridep"
    by_recipe = not drops and _leaves_node(conventions, row, device)
    return "deepep" if by_recipe or conventions.stack.runs_dualpipe else None


def _leaves_node(conventions: Conventions, row: Fields, device: Accelerator) -> bool:
    """Return whether experts of Megatron-Bridge lie on more devices than scale-up links join."""
    return conventions == MEGATRON_BRIDGE and (row.optional_count("ep") or 1) > device.scaleup.domain


def _sent_once_in_racks(conventions: Conventions, row: Fields, device: Accelerator) -> bool:
    """Return whether Megatron-Bridge's recipe of the row exchanges by HybridEP in a rack of one scale-up domain."""
    in_rack = conventions == MEGATRON_BRIDGE and device.scaleup.domain >= RACK
    return in_rack and container_of(row) >= HYBRID_SINCE and HYBRID_MODELS.search(row.text("model")) is not None


def _loops_over_experts(conventions: Conventions, row: Fields) -> bool | None:
    """Return whether a loop runs the experts of a row that names no grouped products, or None where it does not say."""
    framework = row.text("framework")
    transformers = TRANSFORMERS.match(framework)
    if conventions == MEGATRON_SWIFT:
        return False  # `moe_grouped_gemm` is on unless told otherwise (swift/megatron/argument/megatron_args.py)
    if not transformers and conventions.stack.population != ORDINARY:
        ungrouped = conventions.reentrant and UNGROUPED in row.text("notes")
        return True if ungrouped or LOOP.search(f"{framework} {row.text('notes')}") else None
    old = transformers and LOOP_TRANSFORMERS.search(f"{framework} {row.text('source')}")
    return True if old or LOOPED_EXPERTS.search(f"{framework} {row.text('notes')}") else None


def _deals_in_turn(conventions: Conventions, stated: StatedExperts) -> bool:
    """Return whether a benchmark gave its tokens to the experts in turn, in place of the router.

    The row says so, or its framework does it: AutoModel's benchmarks set `fake_balanced_gate`
    (examples/llm_benchmark/), and torchtitan balances by force in this way alone
    (`_debug_force_load_balance_routing` of its models/moe.py). Megatron draws random scores instead
    (`apply_random_logits`).
    """
    if conventions == AUTOMODEL:
        return stated.routing not in ("natural", "balanced_in_training")
    return stated.routing == "in_turn" or (conventions.name == "torchtitan" and stated.routing == "forced")


def _drops_by_recipe(row: Fields, stated: StatedExperts) -> bool:
    """Return whether the row is of a recipe of NeMo 2 that drops tokens and says nothing else of its experts."""
    framework = row.text("framework")
    if stated.dropless or stated.dispatcher in SENT_ONCE or not DROPPING_MODELS.search(row.text("model")):
        return False
    return release_of(framework) >= DROPPING_SINCE or CURRENT.search(framework) is not None


def expert_recipe(
    conventions: Conventions, row: Fields, stated: StatedExperts, device: Accelerator, precision: str
) -> Recipe | None:
    """Return how the row's release of Megatron-Bridge runs mixtures of experts on this device, where the row cannot
    say.

    Return None where no recipe applies. A row that speaks of other graphs, or of none, is not of a recipe that has
    them, and those for fine-tuning capture nothing (`_sft_common` and `_peft_common` of its recipes/common.py).
    """
    if conventions != MEGATRON_BRIDGE or not device.architecture.startswith("blackwell"):
        return None
    if (
        precision == "mxfp8"
        and container_of(row) >= WHOLE_ITERATIONS.since
        and stated.cuda_graphs in (None, "iteration")
    ):
        return WHOLE_ITERATIONS
    captures = device.scaleup.domain >= RACK and container_of(row) >= SCOPED_GRAPHS.since
    return SCOPED_GRAPHS if captures and stated.cuda_graphs is None else None
