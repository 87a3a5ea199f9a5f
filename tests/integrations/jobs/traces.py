"""Finds what this package has left on objects of a user: attributes, hooks, functions, methods of their classes."""

from __future__ import annotations

import types
import weakref
from collections.abc import Iterator
from typing import Any

import torch

NOT_ENTERED = (types.ModuleType, type, types.FrameType, types.CodeType, weakref.ref, torch.Tensor, str, bytes)


def found(roots: dict[str, Any], given: tuple[Any, ...] = ()) -> list[str]:
    """Return the paths from some objects to all that is of ours, and to the classes with a method of ours. What the
    user has `given` to a framework, such as a callback, is not entered.
    """
    seen, places = {id(thing) for thing in given}, list(roots.items())
    paths = []
    while places:
        path, thing = places.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if is_ours(thing):
            paths.append(f"{path} ({type(thing).__name__})")
            continue
        for kind in () if isinstance(thing, type) else type(thing).__mro__:
            if id(kind) not in seen:
                seen.add(id(kind))
                paths += [f"{kind.__name__}.{name}" for name, value in vars(kind).items() if is_ours(value)]
        if not isinstance(thing, NOT_ENTERED):
            places += [(f"{path}{name}", held) for name, held in held_by(thing)]
    return paths


def is_ours(thing: Any) -> bool:
    """Return whether this package has defined a function, or the class of an object."""
    modules = [type(thing).__module__, getattr(thing, "__module__", None) if callable(thing) else None]
    return any(isinstance(module, str) and module.startswith("carbon_plugin") for module in modules)


def held_by(thing: Any) -> Iterator[tuple[str, Any]]:
    """Yield what an object holds, with the name by which it does."""
    if isinstance(thing, dict):
        yield from ((f"[{key!r}]", value) for key, value in thing.items())
    elif isinstance(thing, list | tuple | set | frozenset):
        yield from ((f"[{number}]", value) for number, value in enumerate(thing))
    elif isinstance(thing, types.MethodType):
        yield from ((".__self__", thing.__self__), (".__func__", thing.__func__))
    elif isinstance(thing, types.FunctionType):
        cells = [cell for cell in thing.__closure__ or () if cell != types.CellType()]
        yield from (("()", cell.cell_contents) for cell in cells)
    yield from ((f".{name}", value) for name, value in getattr(thing, "__dict__", {}).items())
    for kind in type(thing).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(thing, name):
                yield f".{name}", getattr(thing, name)
