"""See calls of modules during one step, without leaving anything on the modules themselves.

A hook on a module goes wherever the module goes: into `deepcopy`, `torch.save`, an average of weights, or a quantised
or fused copy, where it stays for good and cannot be loaded without this package. A hook that torch keeps for all
modules stops `torch.export`. Therefore the `__call__` of a module's class is replaced while modules are watched, and
modules are known by identity.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from carbon_plugin.detect.compiling import around_compiling, opaque, transparent

if TYPE_CHECKING:
    from torch import nn

See = Callable[["nn.Module", tuple[Any, ...], dict[str, Any]], None]


class Hooks:
    """One instance calls `see(module, args, kwargs)` before each call of some modules, until `remove`.

    While something is compiled, the classes are as their author wrote them, so that compiled code contains nothing of
    this package and is not compiled again. `compiled_meanwhile` says whether that happened: calls inside such code are
    not seen.
    """

    def __init__(self) -> None:
        self.compiled_meanwhile = False
        self._put: list[tuple[weakref.ref[nn.Module], _PatchedClass]] = []

    def __len__(self) -> int:
        return len(self._put)

    def __reduce__(self) -> tuple[type[Hooks], tuple[()]]:
        return Hooks, ()  # a copy watches nothing

    def put(self, module: nn.Module, see: See) -> None:
        """Call `see` before each call of a module."""
        patched = _PATCHED.get(type(module)) or _PatchedClass(type(module))
        patched.watched.setdefault(id(module), []).append((self, weakref.ref(module), see))
        self._put.append((weakref.ref(module), patched))

    def remove(self) -> None:
        """Stop watching. It is safe to call this twice."""
        for patched in {patched: None for _, patched in self._put}:
            patched.forget(self)
        self._put.clear()


class _PatchedClass:
    """One instance replaces the `__call__` of a class while modules of it are watched."""

    def __init__(self, kind: type[nn.Module]) -> None:
        self.watched = _Watched()
        self._kind = kind
        self._own = vars(kind).get("__call__")
        self._call = _call(kind, self._own, self.watched)
        self._forget_compiler = around_compiling(self._suspend, self._install)
        self._install()
        _PATCHED[kind] = self

    def forget(self, hooks: Hooks) -> None:
        """Remove what some hooks watched, and remove the patch with the last of them."""
        for number, entries in tuple(self.watched.items()):
            entries[:] = [entry for entry in entries if entry[0] is not hooks]
            if not entries:
                del self.watched[number]
        if not self.watched:
            self._forget_compiler()
            self._restore()
            _PATCHED.pop(self._kind, None)

    def _install(self) -> None:
        self._kind.__call__ = self._call  # type: ignore[method-assign]

    def _suspend(self) -> None:
        for entries in self.watched.values():
            for hooks, _, _ in entries:
                hooks.compiled_meanwhile = True
        self._restore()

    def _restore(self) -> None:
        if vars(self._kind).get("__call__") is not self._call:
            return  # somebody has patched it since, and our function passes calls on
        if self._own is None:
            del self._kind.__call__
        else:
            self._kind.__call__ = self._own  # type: ignore[method-assign]


class _Watched(dict[int, list[tuple[Hooks, "weakref.ref[nn.Module]", See]]]):
    """The mapping holds what is watched, by the identity of modules. A copy of a class that is pickled by value has it
    empty.
    """

    def tell(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Report a call of a watched module."""
        for _, reference, see in tuple(self[id(module)]):
            if reference() is module:
                see(module, args, kwargs)

    def __reduce__(self) -> tuple[type[dict[int, Any]], tuple[()]]:
        return dict, ()


def _call(kind: type[nn.Module], own: Any, watched: _Watched) -> Callable[..., Any]:
    """Return a `__call__` that reports calls. It uses nothing of ours by name, and a compiler can trace it."""
    import torch

    def __call__(module: nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        # Calls that a compiler or `torch.jit.trace` makes are not calls of the training.
        looks_on = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
        if not looks_on and id(module) in watched:
            watched.tell(module, args, kwargs)
        if own is not None:
            return own.__get__(module, kind)(*args, **kwargs)
        return super(kind, module).__call__(*args, **kwargs)  # type: ignore[misc]

    transparent(__call__)
    opaque(_Watched.tell)
    return __call__


_PATCHED: dict[type, _PatchedClass] = {}
