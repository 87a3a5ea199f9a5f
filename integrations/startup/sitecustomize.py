"""Make Python count optimizer steps in a program that `carbon-plugin run` started, without a change to that program.

Python imports a module of this name at its start. This one removes its folder from `sys.path`, runs the `sitecustomize`
that Python would otherwise have found, and waits for the import of `torch.optim`. A program that never imports torch
pays only for this file. Only modules of the standard library are imported here.

The process that the command itself became says at its end if nothing was measured, neither in it nor in the processes
that it has started on this machine. A process that is measured tells it by a datagram (`monitor.processes.launch`),
which needs no file. Where a system has no sockets with abstract names, it is silent if it has had child processes.
"""

from __future__ import annotations

import atexit
import os
import sys
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

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


class _Command:
    """Listens in the process that the command became for processes that are measured, until its end."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._told: socket.socket | None = None
        import socket  # only this process needs it

        try:
            self._told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._told.bind(f"\0carbon-plugin-run-{self._pid}")
        except (AttributeError, OSError):
            self._close()

    def tell_if_unmeasured(self) -> None:
        """Say in one line that no step was seen, and what can be done. A monitor that has started has loaded its
        module."""
        if os.getpid() != self._pid or "carbon_plugin.monitor.measurement" in sys.modules:
            return
        children = _has_had_children()
        if children and self._may_be_told():
            return
        self._close()
        imported = children or _WAITED_FOR in sys.modules
        why = "no optimizer of torch made a step" if imported else "torch was never imported"
        where = "this program, nor in the processes that it started on this machine" if children else "this program"
        sys.stderr.write(
            f"carbon_plugin: {why} in {where}, so that no step was seen, nothing was metered and there is no record; "
            "watch() or @watch_training in the script measures it from where they stand\n"
        )

    def _may_be_told(self) -> bool:
        """Return whether a process has told that it is measured, or whether that cannot be known."""
        if self._told is None:
            return True
        import socket

        try:
            # The script may have closed what it did not open, so that the number is another file's by now.
            self._told.recv(8, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def _close(self) -> None:
        if self._told is not None:
            self._told.close()
            self._told = None


def _has_had_children() -> bool:
    try:
        import resource
    except ImportError:  # Windows tells nothing of them
        return True
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0


if os.environ.get("CARBON_PLUGIN_DISABLED", "") in ("", "0"):
    sys.meta_path.insert(0, _AfterImport())
    if os.environ.get(_PROCESS_VARIABLE) == str(os.getpid()):
        atexit.register(_Command().tell_if_unmeasured)
if (_spec := _others()) is not None:
    _run(_spec)
