"""Count what background work does between two moments at which it lets other threads run.

A piece is counted in bytecode instructions, so that no other work on the machine changes the count. Some 8,000 of them
take 1 ms where the caches are cold, as they are after a step of a training.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection
from types import CodeType, FrameType
from typing import Any

from carbon_plugin.threads import turns
from carbon_plugin.threads.own_thread import Answer

MOST_INSTRUCTIONS = 2000
"""A quarter of a millisecond. A turn of 0.1 ms and one such piece are together less than the 0.5 ms that a step of the
training may wait."""
GIVING_WAY = (turns.give_way.__code__, Answer.wait.__code__)


class PieceCounter:
    """Counts the pieces of one thread. `begin` and `end` may be called on another one."""

    def __init__(self, giving_way: Collection[CodeType] = GIVING_WAY) -> None:
        self.counting = True
        self.pieces: list[tuple[int, list[tuple[str, int]]]] = []
        self._giving_way = frozenset(giving_way)
        self._count = 0
        self._by_function: Counter[str] = Counter()

    def trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        """Count an instruction, as a trace function of `sys.settrace`."""
        code = frame.f_code
        if event == "call":
            if code in self._giving_way:
                self._cut()
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            self._count += 1
            self._by_function[f"{code.co_filename.rpartition('/')[2]}:{code.co_name}"] += 1
        return self.trace

    def begin(self) -> None:
        """Forget what was counted so far."""
        self.pieces.clear()
        self.counting = True

    def end(self) -> None:
        """Count no more pieces."""
        self.counting = False

    @property
    def longest(self) -> tuple[int, list[tuple[str, int]]]:
        """Return the instructions of the longest piece, with those of the functions that have the most of them."""
        return max(self.pieces, default=(0, []))

    def _cut(self) -> None:
        if self.counting:
            self.pieces.append((self._count, sorted(self._by_function.items(), key=lambda item: -item[1])[:5]))
        self._count = 0
        self._by_function = Counter()


def pieces_of(work: Callable[[], object]) -> PieceCounter:
    """Return the pieces of some work, which is done on a thread of its own."""
    counter = PieceCounter()
    failed: list[BaseException] = []

    def run() -> None:
        sys.settrace(counter.trace)
        try:
            work()
            turns.give_way()
        except BaseException as error:
            failed.append(error)
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return counter
