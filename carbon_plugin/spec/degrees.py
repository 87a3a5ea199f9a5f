"""Say which degrees of parallelism a model, a sequence and a number of devices allow.

An error about a degree names those that would do. Batches and memory are not looked at.
"""

from __future__ import annotations

from carbon_plugin.spec.models.model import TransformerModel
from carbon_plugin.spec.numbers.amounts import plural, verb

MOST_NAMED = 12
"""The most degrees that a message lists: of more it lists the nearest."""


def divisors(number: int) -> list[int]:
    """Return all divisors in rising order."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def splits_heads(model: TransformerModel, ranks: int) -> bool:
    """Return whether so many ranks get whole heads each, and whole or whole copies of key-value heads."""
    shared = model.kv_heads % ranks == 0 or ranks % model.kv_heads == 0
    return model.heads % ranks == 0 and shared


def splits_layers(model: TransformerModel, ranks: int) -> bool:
    """Return whether tensor parallelism over so many ranks splits the layers of a model."""
    return splits_heads(model, ranks) and model.ffn % ranks == 0


def allowed_degrees(axis: str, model: TransformerModel, devices: int, seq_len: int | None = None) -> list[int]:
    """Return the degrees of one axis that divide the devices and that the model allows, in rising order.

    Without a sequence length context parallelism may have any degree that divides the devices.
    """
    degrees = divisors(devices)
    if axis == "tp":
        return [degree for degree in degrees if splits_layers(model, degree)]
    if axis == "pp":
        return [degree for degree in degrees if degree <= model.layers]
    if axis == "cp" and seq_len is not None:
        return [degree for degree in degrees if seq_len % degree == 0]
    if axis == "ep":
        return [degree for degree in degrees if (model.moe.experts if model.moe else 1) % degree == 0]
    return degrees


def what_would_do(axis: str, asked: int, model: TransformerModel, devices: int, seq_len: int | None = None) -> str:
    """Return the end of an error message: which degrees of an axis are allowed, and what that follows from."""
    follows_from = {
        "tp": f" and {model.name}'s heads {model.heads}, kv_heads {model.kv_heads} and ffn {model.ffn}",
        "pp": f" and {model.name}'s {plural(model.layers, 'layer')}",
        "cp": "" if seq_len is None else f" and seq_len {seq_len}",
        "ep": f" and {model.name}'s {model.moe.experts} experts" if model.moe else f" and no experts in {model.name}",
    }.get(axis, "")
    allow = "allow" if follows_from else verb(devices, "allows", "allow")
    allowed = allowed_degrees(axis, model, devices, seq_len)
    return f"{plural(devices, 'device')}{follows_from} {allow} {axis} {listed(allowed, asked)}"


def listed(degrees: list[int], asked: int) -> str:
    """Return degrees in words: "1, 2, 4 or 8". Where there are many, only those nearest to the requested one
    are named.
    """
    *others, last = map(str, sorted(sorted(degrees, key=lambda degree: abs(degree - asked))[:MOST_NAMED]))
    named = f"{', '.join(others)} or {last}" if others else last
    return f"{named} (the nearest of {len(degrees)})" if len(degrees) > MOST_NAMED else named
