"""Describe the software that runs the step by the cost of its kernels and its host code.

The hardware and the layout are described elsewhere (`spec.hardware`, `spec.layout`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Literal

import msgspec
from msgspec import Struct

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.numbers.figure import Assumption
from carbon_plugin.spec.parsing.limits import check_not_negative, check_positive

Maker = Literal["amd", "aws", "google", "intel", "nvidia"]
"""Makers of devices, as profiles name them (`Accelerator.vendor`)."""
AttentionKernel = Literal["eager", "unfused", "masked", "flash", "flash2", "flash3", "cudnn", "cudnn_fp8"]
Population = Literal["ordinary", "tuned"]
THROUGH_MEMORY: frozenset[AttentionKernel] = frozenset(("eager", "unfused"))
"""Kernel classes whose scores go through memory."""
CudaGraphs = Literal["none", "scoped", "iteration"]
ExpertDispatch = Literal["all_to_all", "deepep", "hybridep"]
ShardUnit = Literal["layer", "flat", "weight", "bucket"]
WrapsWeights = Literal["never", "eager", "always"]
TokenCounts = Literal["host", "exchange", "device"]
CrossEntropy = Literal[
    "eager",
    "compiled",
    "fused",
    "vocab_parallel",
    "vocab_parallel_graphs",
    "chunked",
    "chunked_head",
    "chunked_output",
    "in_place",
    "half",
    "narrow_kernel",
]
KeptOperators = Literal[
    "products", "products_alone", "every_product", "every_product_alone", "core", "projections", "inputs"
]


class Stack(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One stack holds the constants of a software stack; a field left at None takes the documented default for the
    device.

    `attention_kernel` is the class of the kernel of the attention core: "eager" single PyTorch operations, "unfused"
    two products around Megatron's fused softmax, "masked" the kernel that PyTorch takes where it is handed a mask,
    which computes the whole square of scores, and the other fused kernels. `fused` says that elementwise chains are
    fused (compiled or hand-written). `host_op_time_s` is the time that the host takes to issue one operation.
    `dp_overlap` is the share, 0 to 1, of a once-a-step gradient exchange that runs beside the last backward pass;
    `gather_overlap` is the share of the gather of new parameters that runs beside the next forward pass (unset: the
    same). `gathers_ahead` says that the parameters of a sharded layer are gathered while the layer before it computes
    (FSDP and DeepSpeed prefetch them); on GPUs XLA gathers those of a layer of a scan when the layer begins, unless it
    pipelines its collectives. `grad_reduce_dtype` is the type in which gradients are reduced (unset: fp32, but for
    sharded gradients of ordinary software, see `narrow_reduce_stage`). `cuda_graphs` says what is captured and
    replayed: "scoped" the attention and routing of a layer with experts, whose exchange and products the host still
    issues; "iteration" the whole iteration, in which the host issues no operation of a layer and waits for nothing
    (dropless experts included).

    `launch_blocking` says that the host waits for every kernel before it issues the next (`CUDA_LAUNCH_BLOCKING=1`), so
    that the times of host and device add up.

    `fused_experts` says that the experts' products take activation, bias and narrow casts into their own kernels.
    `expert_dispatch` says how tokens reach experts: by a plain all-to-all, or once for each rank that holds some of
    a token's experts, by DeepEP, which uses scale-up links within a node and the network between nodes of a rack,
    or by HybridEP, which uses the links of the whole rack. `round_robin` says that a benchmark deals tokens out to
    the experts in turn, so that the experts of a token are neighbours and few ranks hold them (`FakeBalancedGate`
    of NeMo AutoModel, `_debug_force_load_balance_routing` of torchtitan, "even" of Primus).
    `expert_loop` says that a Python loop runs one
    expert after the other, as transformers did before its version 5 (unset: one grouped product, which for ordinary
    software is an assumption, `leaves_experts_open`), and `sorted_loop` that tokens are sorted by expert before this
    loop, so that the host waits once a layer (Megatron-core without grouped products, `GraniteMoeParallelExperts` of
    transformers 4). `sliced_weights` says that the weights of the experts of such a loop are slices of one tensor, so
    that autograd adds up a gradient of all of them for each (Granite). `plain_dispatch` says
    that tokens are sorted by expert and added up again by single PyTorch operations (Megatron without
    `moe_permute_fusion`), and `one_hot_dispatch` that products with one-hot matrices do both (GShard, MaxText without
    `sparse_matmul`). Such a matrix spans a sequence, or with `one_hot_batch` all tokens of a micro-batch (DeepSpeed).
    `capacity_factor` is the largest number of rows of an expert over their mean, where tokens beyond it are dropped;
    unset, none is dropped. `static_dispatch` says that an expert always takes as many rows as its capacity (it is
    padded too), so that the host waits for no count; without a `capacity_factor` it is the mean. `token_counts` says
    where counts of routed tokens are needed: on the "host" always (Transformer Engine's grouped products, MegaBlocks, a
    loop over experts), on the host for an "exchange" between ranks alone (PyTorch's `grouped_mm`, ScatterMoE), or on
    the "device" alone (XLA, whose shapes are fixed). `indexed_biases` says that each routed row
    gathers the biases of its expert by index, whose backward pass in PyTorch adds up the rows of an expert one after
    the other (transformers since its version 5). `narrow_dispatch` says that tokens, and gradients, are sent to
    experts in the low precision of the products (what comes back is 16 bit). `transfer_wait_s` is the time for which
    host and device stand still at every transfer between pipeline stages, where each is sent and awaited by itself
    (DeepSpeed's pipeline engine, nanotron). `broadcasts_parameters` says that under ZeRO-1 each rank sends the tensors
    that it updated to all others one after the other (InternEvo), in place of one gather. `routing_spread` is the
    standard deviation, over the ranks of expert parallelism, of the tokens that they receive, divided by the mean;
    unset, it is 0 for a tuned stack, whose benchmarks balance the routing by force, and `ROUTING_SPREAD` for ordinary
    software. `cross_entropy` says what a logit costs in memory and what it moves: "eager" PyTorch in fp32, "compiled",
    "fused" in fp32 (NeMo), "vocab_parallel" single operations on an fp32 copy (Megatron), "vocab_parallel_graphs" the
    same in graphs of the compiler that write new copies (Megatron's native fusion until 2026), "chunked" where a kernel
    takes head and loss in small blocks of tokens, "chunked_head" where PyTorch's operations take both for an eighth of
    the tokens at a time (torchtitan), "chunked_output" where all logits are held in 16 bit and the loss takes them in
    chunks (torchtune), "in_place" where the gradient is written over the 16-bit logit, "narrow_kernel" where a kernel
    writes it beside them (apex, flash-attention), "half" single operations on 16-bit logits. `fp8_recipe` is the
    granularity of fp8 scales. `shard_host_ops` is the
    number of operation slots that hooks of parameter sharding add to every pass through a layer.

    `narrow_inputs` says that in low precision the inputs of matrix products are kept for the backward pass in that
    precision (Transformer Engine), and `narrow_kept` that so are the inputs of activation functions and the result of
    the attention core (DeepSeek-V3, arXiv 2412.19437 section 3.3.3). `weighted_experts` says that an expert's
    activation is multiplied by its probability, so that what the expert returns is not kept (Megatron-core since 0.12).
    `accumulates_beside` says that 16-bit gradients are added up in a further fp32 copy (DeepSpeed's bf16 optimizer).
    `gradient_buffers` says that gradients live in buffers that exist all the time (Megatron); PyTorch frees them after
    a step. `keeps_gathered` says that sequences which tensor parallelism gathers are kept and not gathered again
    (nanotron). `adapters_in_products` says that the second product of a low-rank adapter adds onto the output of its
    matrix, scaled (cuBLAS with beta 1). `plain_modules` says that norms and gates are written out in PyTorch; unset,
    they are where neither they nor the loss are fused. `legacy_modules` says that modules are those of Megatron before
    Megatron-core: the activation of a gate is an operation of its own, and the output of a fused attention core is
    copied into the order of the sequence (`FlashSelfAttention` of its model/transformer.py). `single_gate` says that
    the activation of a gate alone is an operation of its own (Megatron-core without `bias_activation_fusion`, which is
    off unless a configuration asks for it). `gradient_placeholders` says that Transformer Engine adds gradients of
    weights to their buffers, for which it keeps an empty 16-bit gradient of each shape of weight (`get_dummy_wgrad` of
    its pytorch/module/base.py, since 2025). `operators_keep` is what
    recompute "operators" keeps of a layer: the attention core's output and every second product (torchtitan), the
    products alone (torchtitan before December 2025, whose list had no kernel of cuDNN), the core's output and every
    product (torchtitan's GraphTrainer), every product alone (MaxText's minimal), the core's output alone, its input
    with Q, K and V (MaxText's save_qkv_proj), or its input alone. `keeps_exchange` says that it keeps what experts
    receive and return too (torchtitan: DeepSeek-V3, Llama 4 and GPT-OSS since its pull request 1672 of September 2025,
    every model since 2357 of February 2026). `shard_unit` is what is gathered at a time where
    parameters are sharded: a "layer" whose parameters are then copied into tensors of their own (FSDP2), a layer as one
    "flat" tensor (FSDP's first form), the "weight" in use (XLA's GSPMD), or a "bucket", which a weight may fill alone
    (DeepSpeed); unset, it is a layer, because FSDP2 is PyTorch's form of today. `interleaves` says that its pipelines
    give a rank several model chunks where a layout does not state how many (`spec.defaults`). Where a layout does not
    state it, `shards_sequences` says that tensor parallelism splits sequences between the blocks too
    (`ParallelLayout.sequence_parallel`), `hides_tensor_traffic` that its collectives run beside products
    (`ParallelLayout.async_tp`), and `reentrant` that what it recomputes of a layer is all of it
    (`ParallelLayout.recompute_reentrant`; `CheckpointFunction` of Megatron-core's tensor_parallel/random.py).
    `balances_stages` says that its pipelines are cut by work (`ParallelLayout.balanced_stages`), and `runs_dualpipe`
    that they are fed from both ends where stages and micro-batches allow it. Where a plan does not state it,
    `pure_states` says that weights, gradients and moments of a training in 16 bit or less are 16-bit values, without a
    master copy (`TrainingPlan.master_weights`).

    `autocast` says that PyTorch's autocast casts 32-bit weights and activations to 16 bit where a product takes them,
    so that the residual stream and the norms stay in 32 bit; it holds for whole copies of a model that keep 32-bit
    weights (unset: in fp16 and not in bf16). `fused_optimizer` says that one kernel updates a parameter; unset, plain
    PyTorch of ordinary software passes over parameter and states once for each operation (`foreach`, its default), and
    other software does not. `pads_vocabulary` says that the head has as many columns as its products want (Megatron and
    its relatives, XLA); other software has as many as there are tokens.

    `wraps_weights` says whether the weights that tensor parallelism splits are DTensors, for each of whose operations
    the host takes longer (`predict.rates.datasheet.WRAPPED_OP_S`): "eager" unless the layers are fused, which is what a
    compiler does (PyTorch's own tensor parallelism, torchtitan), or "always", where the fused kernels of the layers are
    no compiler's (NeMo AutoModel).

    `uniform_tokens` says that all tokens of a batch are alike, as in benchmarks that train on zeros or on one word
    (`predict.rates.rates.UNIFORM_GAIN`).

    `population` says whether people tuned this stack for its hardware (recipes of vendors and benchmarks) or whether it
    is ordinary software. `overhead_factor` divides the rates at which bytes move through memory and over
    links, and not those of matrix products and attention cores, whose kernels are the same in any software; unset, it
    is that of ordinary software, as fitted over its frameworks, or 1 for a tuned stack. `framework_factor` multiplies
    the whole step time. `tuned_for` is the maker of the GPUs for which people tuned this stack, whose kernels are
    written for them ("nvidia"): on GPUs of other makers it has the overhead of ordinary software. Unset, the stack was
    tuned for whatever it runs on.
    """

    population: Population = "ordinary"
    framework_factor: float | None = None
    overhead_factor: float | None = None
    shard_host_ops: float = 0.0
    attention_kernel: AttentionKernel | None = None
    fused: bool = False
    cuda_graphs: CudaGraphs = "none"
    fused_experts: bool = False
    expert_dispatch: ExpertDispatch = "all_to_all"
    round_robin: bool = False
    launch_blocking: bool = False
    expert_loop: bool | None = None
    sorted_loop: bool = False
    sliced_weights: bool = False
    plain_dispatch: bool = False
    one_hot_dispatch: bool = False
    one_hot_batch: bool = False
    capacity_factor: float | None = None
    static_dispatch: bool = False
    token_counts: TokenCounts = "exchange"
    indexed_biases: bool = False
    narrow_dispatch: bool = False
    transfer_wait_s: float = 0.0
    broadcasts_parameters: bool = False
    routing_spread: float | None = None
    uniform_tokens: bool = False
    cross_entropy: CrossEntropy = "eager"
    fp8_recipe: Literal["tensorwise", "rowwise"] = "tensorwise"
    host_op_time_s: float | None = None
    dp_overlap: float = 0.0
    gather_overlap: float | None = None
    gathers_ahead: bool = True
    grad_reduce_dtype: Literal["fp32", "bf16"] | None = None
    narrow_inputs: bool = False
    narrow_kept: bool = False
    weighted_experts: bool = False
    accumulates_beside: bool = False
    gradient_buffers: bool = False
    gradient_placeholders: bool = False
    keeps_gathered: bool = False
    adapters_in_products: bool = False
    plain_modules: bool | None = None
    legacy_modules: bool = False
    single_gate: bool = False
    operators_keep: KeptOperators = "products"
    keeps_exchange: bool = False
    shard_unit: ShardUnit | None = None
    interleaves: bool = False
    shards_sequences: bool = False
    hides_tensor_traffic: bool = False
    reentrant: bool = False
    balances_stages: bool = False
    runs_dualpipe: bool = False
    pure_states: bool = False
    autocast: bool | None = None
    fused_optimizer: bool | None = None
    pads_vocabulary: bool = False
    wraps_weights: WrapsWeights = "never"
    tuned_for: Maker | None = None

    def __post_init__(self) -> None:
        check_positive(self, "framework_factor", "overhead_factor", "capacity_factor", owner="stack: ")
        check_not_negative(
            self, "host_op_time_s", "shard_host_ops", "routing_spread", "transfer_wait_s", owner="stack: "
        )
        for name in ("dp_overlap", "gather_overlap"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise SpecError(f"stack: {name} is {share}, expected 0 to 1")


ORDINARY, TUNED = "ordinary", "tuned"
"""The names of the shipped stacks that stand for software of which nothing else is known."""


def overhead_of(stack: Stack) -> float:
    """Return the divisor of the rates of memory and links: the stated one, or that of the stack's population."""
    if stack.overhead_factor is not None:
        return stack.overhead_factor
    return (STACKS[ORDINARY].overhead_factor if stack.population == ORDINARY else None) or 1.0


def factor_of(stack: Stack) -> float:
    """Return the factor that multiplies the step time: the stated one, or that of the stack's population."""
    if stack.framework_factor is not None:
        return stack.framework_factor
    return (STACKS[stack.population].framework_factor if stack.population == ORDINARY else None) or 1.0


def gather_overlap_of(stack: Stack) -> float:
    """Return the share, 0 to 1, of the gather of new parameters that runs beside the forward pass.

    Where it is not stated, it is the share of the gradient exchange that is overlapped.
    """
    return stack.dp_overlap if stack.gather_overlap is None else stack.gather_overlap


ROUTING_SPREAD = 0.3
"""The relative spread of the load over expert-parallel ranks under natural routing, a number between measured ones.

Runs of Qwen3 235B over eight expert-parallel ranks, with routing balanced by force and without, differ by 1.25, 1.21,
1.15 and 1.09 times at 16k to 128k tokens (best_practice/qwen3/readme.md of yanring/Megatron-MoE-ModelZoo at 020b813),
which is a spread of 0.4; prime-rl's differ by 1.39 times on short documents, which is 0.5 (docs/performance.md of
October 2026). The loads that NousResearch/torchtitan prints for the first step of a model of 64 experts have 0.32
(docs/llep.md). Runs of Mixtral and of ByteDance's 352B are as fast as 0 to 0.2 says.
"""
BALANCED_SPREAD = 0.02
"""The same where biases, or a strong auxiliary loss, balance the router as it trains: the fullest of 32 ranks then gets
1.04 times the mean.

MLPerf's DeepSeek-V3 takes 669 ms for a sequence and a GB300 with such a router, and a cloud guide's, balanced by force,
642 ms without the layer that predicts a further token, which is a sixtieth of the model. That the fullest expert gets
1.04 times the mean is what arXiv 2408.15664 reports of biases (from memory).
"""


def routing_spread_of(stack: Stack) -> float:
    """Return the relative spread of the load over expert-parallel ranks, as stated or as usual for the population."""
    if stack.routing_spread is not None:
        return stack.routing_spread
    return ROUTING_SPREAD if stack.population == ORDINARY else 0.0


def leaves_experts_open(stack: Stack) -> bool:
    """Return whether nobody says how this software computes its experts: by grouped products or by a loop over them.

    People who tune a stack group them. Of ordinary software only a field that rules out a loop says so: products with
    one-hot matrices compute all experts at once, and so do fused kernels.
    """
    stated = stack.expert_loop is not None or stack.one_hot_dispatch or stack.fused_experts
    return stack.population == ORDINARY and not stated


def issues_on_dtensors(stack: Stack) -> bool:
    """Return whether operations on weights that tensor parallelism splits are issued on DTensors one by one."""
    return stack.wraps_weights == "always" or (stack.wraps_weights == "eager" and not stack.fused)


def shard_unit_of(stack: Stack) -> ShardUnit:
    """Return what this software gathers at a time where parameters are sharded, as stated or as PyTorch of today does.

    `fully_shard` is public since PyTorch 2.6 of January 2025, which calls its first form deprecated.
    """
    return "layer" if stack.shard_unit is None else stack.shard_unit


def host_op_time_of(stack: Stack) -> float | None:
    """Return the time in seconds in which the host issues an operation, or None where it is unknown.

    Where it is not stated, ordinary software has the time of the shipped stack of that name.
    """
    if stack.host_op_time_s is not None or stack.population != ORDINARY:
        return stack.host_op_time_s
    return STACKS[ORDINARY].host_op_time_s


WHOLE_UNITS: frozenset[ShardUnit] = frozenset(("weight", "bucket"))
"""Units of software that leaves whole parameters on every rank under ZeRO-2 and fetches new values once a step.

DeepSpeed's ranks gather what they updated at the end of a step (`all_gather_dp_groups` of its
runtime/zero/stage_1_and_2.py) and scatter gradients in every micro-batch (pull request 338 of deepspeedai/DeepSpeed),
and where XLA shards states alone weights stay whole. Both forms of PyTorch's FSDP free parameters after each backward
pass, and gather them again for the next micro-batch (`ShardingStrategy.SHARD_GRAD_OP`).
"""
NEVER_NARROW = 4
"""A stage beyond the last one of ZeRO."""
NARROW_STAGES: Mapping[ShardUnit, int] = MappingProxyType({"bucket": 1, "layer": 2, "flat": 2})
"""The first stage of ZeRO at which ordinary software reduces gradients in the type of the compute, by `shard_unit`.

DeepSpeed reduces what it shards in the 16-bit type of the model (`communication_data_type` of its runtime/engine.py).
Both forms of PyTorch's FSDP reduce in the type of the compute unless the policy names another one (`reduce_dtype` of
`MixedPrecision` and of `MixedPrecisionPolicy`), accelerate and Lightning name that very type. Whole copies are reduced
in the type of their weights, which stay in 32 bit under autocast.
"""


def narrow_reduce_stage(stack: Stack, *, master_weights: bool) -> int:
    """Return the first stage of ZeRO at which gradients are reduced in the type of the compute and not in fp32."""
    if stack.grad_reduce_dtype == "bf16" or not master_weights:
        return 0
    unstated = stack.grad_reduce_dtype is None and stack.population == ORDINARY
    return NARROW_STAGES.get(shard_unit_of(stack), NEVER_NARROW) if unstated else NEVER_NARROW


PLAIN_STACK = Assumption(
    "stack",
    "ordinary software, plain PyTorch",
    "no stack was named: elementwise chains not fused, eager loss, gradients reduced after the step; state "
    "`stack: {preset: tuned}` (`plan --stack tuned`) for a recipe that was tuned for its hardware",
)
"""The assumption that is recorded where nobody names a stack: what `Stack()` stands for."""
GRAPH_STACK = Stack(fused=True, cross_entropy="compiled")
COMPILED_GRAPHS = Assumption(
    "stack",
    "ordinary software, compiled",
    "no stack was named, and this device compiles whole graphs: elementwise chains and loss are fused; state "
    "`stack: {preset: tuned}` (`plan --stack tuned`) for a recipe that was tuned for its hardware",
)
"""The assumption in its place on devices that compile whole graphs: what `GRAPH_STACK` stands for."""


class _Stacks(Mapping[str, Stack]):
    """The mapping holds the shipped stacks by name and reads them on first use."""

    def __getitem__(self, name: str) -> Stack:
        return _shipped_stacks()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_shipped_stacks())

    def __len__(self) -> int:
        return len(_shipped_stacks())


@cache
def _shipped_stacks() -> dict[str, Stack]:
    text = (resources.files("carbon_plugin.spec") / "data" / "stacks.yaml").read_bytes()
    return msgspec.yaml.decode(text, type=dict[str, Stack])


STACKS: Mapping[str, Stack] = _Stacks()
"""The stacks of known frameworks (`spec/data/stacks.yaml`): their kernels, host cost and fitted factor."""
