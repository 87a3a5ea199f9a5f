"""Make Python count optimizer steps in a program that `carbon-plugin run` started, without a change to that program.

Python imports a module of this name at its start. This one removes its folder from `sys.path`, runs the `sitecustomize`
that Python would otherwise have found, and waits for the import of `torch.optim`. A program that never imports torch
pays only for this file. Only modules of the standard library are imported here.

The process that the command itself became says at its end if nothing in it was measured. It is silent where it has had
child processes, which may have been measured.
"""

from __future__ import annotations

import atexit
import os
import sys
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from types import ModuleType
from typing import Any

_WAITED_FOR = "torch.optim.optimizer"
_PROCESS_VARIABLE = "CARBON_PLUGIN_RUN_PROCESS"
_OWN = os.path.dirname(os.path.abspath(__file__))  # pathlib would slow every start of Python


def _others() -> ModuleSpec | None:
    """Remove this folder from `sys.path`, and return the `sitecustomize` that is then found."""
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != _OWN]
    return PathFinder.find_spec("sitecustomize")


def _run(spec: ModuleSpec) -> None:
    """Import the user's own `sitecustomize` in place of this one. Python reports its exceptions as usual."""
    assert spec.loader is not None
    module = sys.modules["sitecustomize"] = module_from_spec(spec)
    spec.loader.exec_module(module)


class _AfterImport:
    """A finder that is asked for every module, and stays until the module that it waits for is imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the spec of the awaited module, with a loader that reports its import, or else None."""
        if name != _WAITED_FOR:
            return None
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Telling(spec.loader)
                return spec
        return None


class _Telling(Loader):
    """Loads a module with its own loader, and then watches its optimizers. The module keeps its own loader."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Return what the module's own loader makes."""
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        """Run the module as usual, and then hook into it. A failure of ours is one line on standard error."""
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        try:
            from carbon_plugin.integrations.hands_free import install

            install(module, os.environ)
        except Exception as error:
            sys.stderr.write(
                f"carbon_plugin: this training is not measured; {type(error).__name__}: {error}. Install carbon-plugin "
                f"into the environment of {sys.executable}\n"
            )


def _tell_if_unmeasured() -> None:
    """Say in one line that no step was seen, and what can be done. A monitor that has started has loaded its module."""
    if "carbon_plugin.monitor.measurement" in sys.modules or _has_had_children():
        return
    why = "no optimizer of torch made a step" if _WAITED_FOR in sys.modules else "torch was never imported"
    sys.stderr.write(
        f"carbon_plugin: {why} in this program, so that no step was seen, nothing was metered and there is no record; "
        "watch() or @watch_training in the script measures it from where they stand\n"
    )


def _has_had_children() -> bool:
    try:
        import resource
    except ImportError:  # Windows tells nothing of them
        return True
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0


if os.environ.get("CARBON_PLUGIN_DISABLED", "") in ("", "0"):
    sys.meta_path.insert(0, _AfterImport())
    if os.environ.get(_PROCESS_VARIABLE) == str(os.getpid()):
        atexit.register(_tell_if_unmeasured)
if (_spec := _others()) is not None:
    _run(_spec)
