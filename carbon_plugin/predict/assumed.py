"""List the numbers that a prediction assumes because neither the device's constants nor a field of the spec give
them."""

from __future__ import annotations

from carbon_plugin.predict.case.from_spec import is_plain_pytorch, under_autocast
from carbon_plugin.predict.power import capped_share
from carbon_plugin.predict.rates.datasheet import wrapped_op_time
from carbon_plugin.predict.rates.laws import host_rates
from carbon_plugin.predict.rates.rates import ROWWISE_SHARE
from carbon_plugin.predict.time.update import MUON_ITERATIONS
from carbon_plugin.spec.models.adapters import why_usual
from carbon_plugin.spec.models.model import CountedModel, TransformerModel
from carbon_plugin.spec.numbers.amounts import percent, yaml_word
from carbon_plugin.spec.numbers.figure import Assumption
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.stack import (
    BALANCED_SPREAD,
    ROUTING_SPREAD,
    leaves_experts_open,
    narrow_reduce_stage,
    routing_spread_of,
)

LONGER_THAN_MADE_FOR = "model.longest_seq_len"
"""Field of the assumption that a model's positions work beyond the longest sequence that the model is made for."""
ADAPTERS = "model.adapters"
"""Field of the assumption on what a model trains whose spec states only the trained share."""

EXPERT_LOOP = "stack.expert_loop"
"""Field of the assumption on how software computes experts that nobody tuned and of which nobody says it."""


def leaves_open_how_experts_run(spec: RunSpec) -> bool:
    """Return whether a run has experts and nothing says whether they are one grouped product or a loop."""
    return isinstance(spec.model, TransformerModel) and spec.model.moe is not None and leaves_experts_open(spec.stack)


def leaves_open_how_tokens_fall(spec: RunSpec) -> bool:
    """Return whether a run has its experts on several ranks and nothing says how equal the loads of these are. Experts
    that are padded to a capacity all take as many rows."""
    several = spec.layout is not None and spec.layout.ep > 1
    sparse = isinstance(spec.model, TransformerModel) and spec.model.moe is not None
    return sparse and several and spec.stack.routing_spread is None and not spec.stack.static_dispatch


def leaves_open_what_is_gathered(spec: RunSpec) -> bool:
    """Return whether a run shards parameters by PyTorch's FSDP and nothing says by which form of it."""
    layout, stack = spec.layout, spec.stack
    sharded = layout is not None and layout.zero_stage == 3 and layout.dp_shard * layout.cp > 1
    return sharded and stack.shard_unit is None and not stack.gradient_buffers


def step_assumptions(spec: RunSpec) -> list[Assumption]:
    """Return the assumptions that the settings of a spec bring with them and that the spec has no field for."""
    training, stack, cluster = spec.training, spec.stack, spec.cluster
    found = _not_counted(spec) if isinstance(spec.model, CountedModel) else []
    if isinstance(spec.model, TransformerModel) and (longest := spec.model.made_for_seq_len or 0) < training.seq_len:
        found += _beyond(longest, training.seq_len)
    if isinstance(spec.model, TransformerModel) and spec.model.adapters is None and spec.model.trainable_fraction < 1:
        found.append(Assumption(ADAPTERS, spec.model.adapted, why_usual(spec.model.trainable_fraction)))
    if leaves_open_how_experts_run(spec):
        said = (
            "transformers does so since version 5; before, a loop ran one expert after the other, which the range "
            "reaches to. State stack.expert_loop: true for a loop, false for grouped products"
        )
        found.append(Assumption(EXPERT_LOOP, "false, one grouped product for all experts", said))
    if leaves_open_how_tokens_fall(spec):
        found.append(_routing(spec))
    if leaves_open_what_is_gathered(spec):
        said = (
            "PyTorch's form since release 2.6 of January 2025; state stack.shard_unit: flat for the first form of FSDP"
        )
        found.append(Assumption("stack.shard_unit", "layer, FSDP2", said))
    if spec.layout is not None and spec.layout.tp > 1 and (wrapped_s := wrapped_op_time(stack)):
        said = (
            "PyTorch splits weights into DTensors. State stack.fused: true where a compiler fuses the layers, or "
            "stack.wraps_weights: never where they are plain tensors"
        )
        taken = f"{1e6 * wrapped_s:g} µs more of the host for an operation"
        found.append(Assumption("stack.wraps_weights", taken, said))
    if (
        isinstance(spec.model, TransformerModel)
        and spec.model.has_towers
        and training.input_len is None
        and training.inputs_per_sequence
    ):
        said = "the patches of an image are not stated (training.input_len): towers are in memory and take no time"
        found.append(Assumption("training.input_len", "no time of towers", said))
    found += _formats(spec)
    if training.optimizer_offload:
        memory, link = (rate / 1e9 for rate in host_rates(cluster.accelerator))
        said = "host memory and PCIe x16 of its time that one device of eight gets; faster links are not credited"
        taken = f"{memory:g} GB/s of host memory, {link:g} GB/s of link a device"
        found.append(Assumption("training.optimizer_offload", taken, said))
    if training.activation_offload > 0:
        said = "offloaded activations are taken to move to the host and back under the compute"
        found.append(Assumption("training.activation_offload", "no time", said))
    if training.optimizer == "muon" and not isinstance(spec.model, CountedModel):
        said = "Jordan et al. 2024; shared out like the states"
        found.append(Assumption("training.optimizer", f"{MUON_ITERATIONS} Newton-Schulz iterations", said))
    if cluster.power_cap_w is not None:
        said = "of the matrix rate: voltage falls with the clock, as in sweeps of power limits (Zeus, NSDI 2023)"
        found.append(Assumption("cluster.power_cap_w", percent(capped_share(cluster), 0), said))
    if training.precision == "fp8" and stack.fp8_recipe == "rowwise":
        said = "of the tensor-wise fp8 rate: torchtitan's rows on H100 gain nothing over bf16"
        found.append(Assumption("stack.fp8_recipe", percent(ROWWISE_SHARE, 0), said))
    return found


def _formats(spec: RunSpec) -> list[Assumption]:
    """Return the numeric formats that rules choose where a stack leaves them open, and how its optimizer updates."""
    training, stack, layout, found = spec.training, spec.stack, spec.layout, []
    plain, narrow = is_plain_pytorch(stack), training.precision not in ("fp32", "tf32")
    if layout is None:
        return []
    if stack.grad_reduce_dtype is None and narrow and layout.dp * layout.cp > 1:
        in_compute = layout.zero_stage >= narrow_reduce_stage(stack, master_weights=training.master_weights)
        said = "FSDP, DeepSpeed and weights without a 32-bit copy reduce in the type of the compute, others in fp32"
        taken = ("fp16" if training.precision == "fp16" else "bf16") if in_compute else "fp32"
        found.append(Assumption("stack.grad_reduce_dtype", taken, said))
    whole = layout.zero_stage == 0 and training.master_weights and training.precision in ("bf16", "fp16")
    if stack.autocast is None and plain and whole:
        said = "plain PyTorch trains in fp16 by autocast over 32-bit weights; bf16 is taken to be the type of the model"
        found.append(Assumption("stack.autocast", yaml_word(under_autocast(training, stack)), said))
    if stack.fused_optimizer is None and plain and training.optimizer in ("adam", "adamw"):
        said = "PyTorch's Adam passes over lists of parameters (foreach) unless it is told to fuse"
        found.append(Assumption("stack.fused_optimizer", "false", said))
    return found


def _routing(spec: RunSpec) -> Assumption:
    """Return the assumption on how equal the loads of expert-parallel ranks are."""
    taken = routing_spread_of(spec.stack)
    natural = (
        f"natural routing, for which 0 to 0.5 were measured; state {BALANCED_SPREAD:g} if biases balance the router"
    )
    forced = f"balanced by force, as in benchmarks of tuned software; natural routing has about {ROUTING_SPREAD:g}"
    return Assumption("stack.routing_spread", f"{taken:g} of the mean load", natural if taken else forced)


def _beyond(longest: int, seq_len: int) -> list[Assumption]:
    """Return the assumption that a sequence may be longer than the model is made for.

    A model without a table of positions can have such a sequence. The list is empty where the model states no longest
    length.
    """
    if not longest:
        return []
    said = f"the model states {longest:,} tokens as its longest; its positions are taken to reach further at no cost"
    return [Assumption(LONGER_THAN_MADE_FOR, f"{seq_len:,} tokens", said)]


def _not_counted(spec: RunSpec) -> list[Assumption]:
    """Return the settings of the spec that change neither time nor memory, because a counted model says nothing of
    them."""
    found = []
    assert isinstance(spec.model, CountedModel)
    if spec.model.saved_bytes_per_sample is None:
        said = "the count does not say what autograd keeps, often 0.3 to 0.6 of it; count the model again"
        found.append(Assumption("model.saved_bytes_per_sample", "all results", said))
    elif spec.training.precision not in ("fp32", "tf32") and spec.model.autocast_saved_bytes_per_sample is None:
        said = "the count is of the module's own types, of which autocast keeps about half; count the model again"
        found.append(Assumption("model.saved_bytes_per_sample", "as counted", said))
    if spec.model.passes is None:
        said = "the count does not tell products from what passes over memory; count the model again"
        found.append(Assumption("model.passes", "every result is moved 4.5 times", said))
    if spec.training.optimizer == "muon":
        said = "shapes of the model's matrices are not known"
        found.append(Assumption("training.optimizer", "no time to orthogonalise", said))
    if spec.layout is not None and spec.layout.recompute in ("selective", "operators"):
        said = f"which of the model's operations {spec.layout.recompute} takes is not known"
        found.append(Assumption("layout.recompute", "nothing is repeated", said))
    if spec.layout is not None and spec.layout.recompute == "full":
        said = "what its recomputed parts keep is not known: the memory is an upper bound"
        found.append(Assumption("layout.recompute", "all activations are kept", said))
    return found
