"""Choose the model shape that counts: what the module shows, laid over what was declared or planned."""

from __future__ import annotations

from typing import Any

import msgspec

from carbon_plugin.detect.observed import DetectedModel, Observed
from carbon_plugin.detect.resolve.fields import FieldTable
from carbon_plugin.detect.shape.model import COUNT_TOLERANCE
from carbon_plugin.errors import SpecError
from carbon_plugin.spec.models.model import CountedModel, TransformerModel
from carbon_plugin.spec.numbers.figure import Assumption

Model = TransformerModel | CountedModel
_NOT_SHAPE = ("name", "source", "trainable_fraction")


def resolve_model(
    table: FieldTable, planned: Model | None, declared: Model | None, detected: DetectedModel | None, missing: list[str]
) -> tuple[Model | None, tuple[Assumption, ...]]:
    """Return the effective model with its assumptions, or None with a sentence added to `missing`."""
    stated = declared or planned
    table.choose(
        "model.name",
        planned=planned and planned.name,
        declared=declared and declared.name,
        default=detected and detected.name,
    )
    parameters = None
    if detected is not None and not detected.partial:
        parameters = Observed(detected.parameters, "parameters of the module")
    table.choose(
        "model.parameters",
        planned=_close(planned, parameters),
        declared=_close(declared, parameters),
        detected=parameters,
    )
    if detected is None or not detected.fields:
        return _stated_or_counted(table, stated, detected, missing)
    base = stated if isinstance(stated, TransformerModel) else None
    fields = _laid_over(table, planned, declared, detected)
    assumed = () if base else detected.assumed
    for assumption in assumed:
        name = assumption.field.removeprefix("model.")
        fields[name] = int(assumption.value)
        table.note(assumption.field, fields[name], f"assumed: {assumption.source}")
    if base is not None and base.trainable_fraction < 1 and fields.get("trainable_fraction") == 1:
        # What the plan says of frozen weights and adapters does not hold for a job that trains all weights.
        for name, value in {"adapters": None, "adapter_dropout": 0.0, "frozen_bits": 16}.items():
            table.note(f"model.{name}", value, "the job trains all parameters")
            fields[name] = value
    source = f"detected: {detected.source}"
    try:
        if base is not None:
            return msgspec.structs.replace(base, **fields, source=source), ()
        return TransformerModel(name=detected.name, **fields, source=source), assumed
    except (SpecError, TypeError) as error:
        missing.append(f"model: {detected.source} does not make a whole shape: {error}")
        return None, ()


def with_seen_length(table: FieldTable, model: Model, seq_len: int) -> Model:
    """Return the model for a job that runs sequences of `seq_len` tokens.

    Sequences longer than a table of learned positions has rows show that positions begin anew within a sample, or that
    a table of the structure holds no positions.
    """
    if isinstance(model, CountedModel) or not model.learned_positions or seq_len <= (model.made_for_seq_len or 0):
        return model
    table.note("model.longest_seq_len", seq_len, "the job runs sequences of this length")
    return msgspec.structs.replace(model, longest_seq_len=seq_len)


def _laid_over(
    table: FieldTable, planned: Model | None, declared: Model | None, detected: DetectedModel
) -> dict[str, Any]:
    """Return the values of the fields that were seen. The table gets every field of the shape."""
    seen = {**detected.fields, "trainable_fraction": _trained(detected)}
    fields = {}
    for field in msgspec.structs.fields(TransformerModel):
        name = field.name
        if name in _NOT_SHAPE and name not in seen:
            continue
        value = table.choose(
            f"model.{name}",
            planned=_of(planned, name),
            declared=_of(declared, name),
            detected=Observed(seen[name], detected.source) if seen.get(name) is not None else None,
            default=None if field.default is msgspec.NODEFAULT else field.default,
        )
        if name in seen:
            fields[name] = value
    return fields


def _stated_or_counted(
    table: FieldTable, stated: Model | None, detected: DetectedModel | None, missing: list[str]
) -> tuple[Model | None, tuple[Assumption, ...]]:
    """Return the model where the module does not show its shape: the stated one if its count agrees, else the counted
    one.

    Where neither is there, a sentence is added to `missing`.
    """
    if stated is not None and (detected is None or detected.partial or _agrees(stated, detected.parameters)):
        for name, value in msgspec.structs.asdict(stated).items():
            if name not in ("name", "parameters", "source"):
                table.note(
                    f"model.{name}", value, "stated" if detected is None else "stated; the parameter count agrees"
                )
        return stated, ()
    if detected is not None and detected.counted is not None:
        table.note("model.forward_flops_per_sample", detected.counted.forward_flops_per_sample, detected.counted.source)
        return detected.counted, ()
    if stated is not None and detected is not None:
        missing.append(
            f"model: {stated.name} has {stated.parameters:,} parameters, but the module has {detected.parameters:,} "
            f"({detected.source})"
        )
    else:
        reason = detected.source if detected else "not seen yet, and none was given"
        missing.append(f"model: {reason}; without a model_spec nothing is predicted")
    return None, ()


def _agrees(model: Model, parameters: int) -> bool:
    return abs(model.parameters - parameters) <= COUNT_TOLERANCE * parameters


def _close(model: Model | None, parameters: Observed | None) -> int | None:
    """Return the parameters of a stated model, or None without one.

    Where the model differs from the counted number only by what a shape leaves out, it is the counted number.
    """
    if model is None:
        return None
    return parameters.value if parameters and _agrees(model, parameters.value) else model.parameters


def _trained(detected: DetectedModel) -> float | None:
    if detected.partial or not 0 < detected.trainable_parameters < detected.parameters:
        return None if detected.partial else 1.0
    return detected.trainable_parameters / detected.parameters


def _of(model: Model | None, field: str) -> Any:
    return getattr(model, field, None)
