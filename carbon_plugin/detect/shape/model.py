"""Find the shape of a live model from its Hugging Face config, else its structure, else one counted forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from carbon_plugin.detect.job import StatedShape
from carbon_plugin.detect.observed import DetectedModel
from carbon_plugin.detect.shape.adapters import adapted_matrices, adapter_dropout
from carbon_plugin.detect.shape.counting import count_forward
from carbon_plugin.detect.shape.parameters import count_adapters, count_parameters
from carbon_plugin.detect.shape.structure import read_structure
from carbon_plugin.detect.tensors import Example, batch_shape
from carbon_plugin.detect.wrappers import class_name, unwrapped
from carbon_plugin.errors import SpecError
from carbon_plugin.printable import brief
from carbon_plugin.spec.huggingface.config import model_from_hf_config
from carbon_plugin.spec.huggingface.naming import model_named_by
from carbon_plugin.spec.models.model import CountedModel, TransformerModel
from carbon_plugin.spec.numbers.amounts import plural

STAGE = frozenset({"layers", "tied_embeddings"})
"""The fields that one stage of a pipeline does not show: the first one has no head, whichever rank has it."""
NOT_OBSERVED = ("name", "source", "notes")
"""The fields of a model that describe it and are no part of its shape."""
EXPERTS = frozenset({"ffn", "moe"})
"""The fields that the experts of one rank do not show."""

if TYPE_CHECKING:
    from torch import nn

COUNT_TOLERANCE = 0.05
"""The share by which the parameters of a shape may differ from the counted ones, because a shape leaves out norms,
biases and padding.
"""


def detect_model(
    model: nn.Module,
    *,
    example: Example | None = None,
    elsewhere: frozenset[str] = frozenset(),
    parameters: tuple[int, int] | None = None,
    stated: StatedShape | None = None,
    deadline_s: float = 0.0,
    irregular: str = "",
) -> DetectedModel:
    """Return the model inside the wrappers of `model`.

    `example` are shapes of a real call, for counting. `elsewhere` are fields of the shape that depend on what other
    ranks hold (see `STAGE` and `EXPERTS`): neither they nor a count are believed. `parameters` are (all, trainable) of
    the whole model where a framework knows better, `stated` its shape as the framework states it. `deadline_s` is the
    moment of `time.thread_time` at which counting gives up. `irregular` says why the blocks are not a stack that each
    token passes once: their structure is not believed then.
    """
    module = unwrapped(model)
    total, trainable = parameters or count_parameters(model)
    own = total - count_adapters(model)  # a shape has no adapters
    partial = bool(elsewhere)
    reasons: list[str] = []
    for name, fields, assumed, source in _shapes(module, stated, irregular, reasons):
        shape = _built(name, fields)
        if shape is None:
            reasons.append(f"{source}: not a possible shape")
        elif partial or _same_size(shape, own):
            known = {key: value for key, value in fields.items() if key not in {a.field.split(".")[1] for a in assumed}}
            if not source.startswith("config"):
                known = {key: value for key, value in known.items() if key not in elsewhere}
            if trainable < total and (adapters := adapted_matrices(model)) is not None:
                known |= {"adapters": adapters, "adapter_dropout": adapter_dropout(model)}
            return DetectedModel(
                name=name,
                parameters=total,
                trainable_parameters=trainable,
                source=source,
                fields=known,
                assumed=assumed,
                partial=partial,
            )
        else:
            reasons.append(f"{source}: {shape.parameters:,} parameters, but the module has {own:,}")
    counted = None
    if example is not None and not partial:
        counted = _counted(model, module, example, (total, trainable), deadline_s, reasons)
    return DetectedModel(
        name=class_name(module),
        parameters=total,
        trainable_parameters=trainable,
        source="; ".join(reasons),
        counted=counted,
        partial=partial,
    )


def _shapes(module: nn.Module, stated: StatedShape | None, irregular: str, reasons: list[str]) -> Any:
    """Return candidates as (name, fields, assumed, source), the most telling first."""
    from torch import nn

    if stated is not None:
        yield stated.name, dict(stated.fields), (), stated.source
    for part in (module, *module.children()):
        config: Any = getattr(unwrapped(part), "config", None)
        if not hasattr(config, "to_dict") or not hasattr(config, "model_type"):
            continue
        name = model_named_by(str(getattr(config, "_name_or_path", "") or "")) or class_name(part)
        try:
            shape = model_from_hf_config(_of_class(config, part), name, origin=f"config of {class_name(part)}")
        except SpecError as error:
            reasons.append(str(error))
            continue
        fields = {key: value for key, value in msgspec.structs.asdict(shape).items() if key not in NOT_OBSERVED}
        yield name, fields, (), shape.source
    # Several stages of a pipeline on one rank are a list; the first one is read for all.
    structure = read_structure(unwrapped(module[0]) if isinstance(module, nn.ModuleList) else module)
    if isinstance(structure, str) or irregular:
        reasons.append(f"structure of {class_name(module)}: {structure if isinstance(structure, str) else irregular}")
    else:
        yield class_name(module), structure.fields, structure.assumed, structure.source


def _of_class(config: Any, part: nn.Module) -> dict[str, Any]:
    """Return a config that names the class of transformers which the module is, and not the one whose weights it read:
    a classifier that was made of a language model has no head for its vocabulary.
    """
    own = next((kind.__name__ for kind in type(unwrapped(part)).__mro__ if _says_what_is_predicted(kind)), None)
    return {**config.to_dict(), "architectures": own and [own]}


def _says_what_is_predicted(kind: type) -> bool:
    """Return whether a class is one of transformers that has a head or none. What users build on a base class of all
    models of a family (`LlamaPreTrainedModel`) has whatever head they gave it.
    """
    return kind.__module__.startswith("transformers.") and not kind.__name__.endswith("PreTrainedModel")


def _same_size(shape: TransformerModel, parameters: int) -> bool:
    """Return whether a shape has as many parameters as a module, with or without layers that only predict further
    tokens.
    """
    sizes = (shape.parameters, shape.parameters + shape.mtp_parameters)
    return any(abs(size - parameters) <= COUNT_TOLERANCE * parameters for size in sizes)


def _built(name: str, fields: dict[str, Any]) -> TransformerModel | None:
    try:
        return TransformerModel(name=name, **fields)
    except SpecError:
        return None


def _counted(
    model: nn.Module,
    module: nn.Module,
    example: Example,
    parameters: tuple[int, int],
    deadline_s: float,
    reasons: list[str],
) -> CountedModel | None:
    if _is_sharded(model):
        reasons.append("not counted: the module is sharded and cannot be copied")
        return None
    try:
        counts = count_forward(module, example.call, deadline_s)
    except Exception as error:  # the user's own forward may raise anything on tensors without data
        reasons.append(f"not counted: {brief(error)}")
        return None
    samples = example.samples
    seen = batch_shape((example.args, example.kwargs))
    return CountedModel(
        name=class_name(module),
        parameters=parameters[0],
        trainable_parameters=parameters[1],
        **counts.per_sample(samples),
        kernels=counts.kernels,
        source=f"counted in one forward pass of {plural(samples, 'sample')} on the meta device{counts.reservation}",
        seq_len=seen[0][1] if seen else None,
        samples=samples,
    )


def _is_sharded(model: nn.Module) -> bool:
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
    from torch.distributed.tensor import DTensor

    return any(isinstance(m, FSDPModule | FullyShardedDataParallel) for m in model.modules()) or any(
        isinstance(parameter, DTensor) for parameter in model.parameters()
    )
