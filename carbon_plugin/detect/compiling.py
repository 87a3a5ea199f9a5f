"""Keep our functions out of torch's compiler, and report when it is about to look at a model.

Dynamo is never imported here: a job that does not compile pays nothing.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any


def opaque(function: Callable[..., Any]) -> None:
    """Make Dynamo call a function of ours instead of tracing it, and trace nothing that it calls.

    The mark is on the code, so that a call costs the same as without it; `torch._dynamo.disable` would wrap the
    function and cost 2 us a call. It is private to torch; without it the function is traced, which is only slow.
    """
    function._torchdynamo_disable = True  # type: ignore[attr-defined]
    _skip(function, callees=True)


def transparent(function: Callable[..., Any]) -> None:
    """Make Dynamo begin no compilation at a function of ours; what it calls is compiled as without it."""
    _skip(function, callees=False)


def _skip(function: Callable[..., Any], *, callees: bool) -> None:
    with contextlib.suppress(ImportError, AttributeError):
        from torch._C._dynamo import eval_frame

        action = eval_frame._FrameAction
        strategy = eval_frame._FrameExecStrategy(action.SKIP, action.SKIP if callees else action.DEFAULT)
        eval_frame.set_code_exec_strategy(function.__code__, strategy)


def around_compiling(begins: Callable[[], None], ends: Callable[[], None] | None = None) -> Callable[[], None]:
    """Call `begins` before Dynamo looks at a frame and `ends` after it. Return a function that removes both.

    Nothing is called where Dynamo is loaded only later: an optimizer of torch loads it when it is made.
    """
    dynamo = sys.modules.get("torch._dynamo.callback")
    if dynamo is None:
        return lambda: None
    handler = dynamo.callback_handler

    def before(*_: Any) -> None:
        begins()

    def after(*_: Any) -> None:
        if ends is not None:
            ends()

    handler.register_start_callback(before)
    handler.register_end_callback(after)

    def remove() -> None:
        with contextlib.suppress(ValueError):  # `torch._dynamo.reset` forgets callbacks
            handler.remove_start_callback(before)
        with contextlib.suppress(ValueError):
            handler.remove_end_callback(after)

    return remove
