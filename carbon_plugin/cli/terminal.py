"""Write to the terminal. All output of a command passes here, so that no name in a ledger or file can steer the
terminal with control characters.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from carbon_plugin.printable import as_json, printable

if TYPE_CHECKING:
    from rich.console import Console


BLANKS_AT_THE_END = re.compile(r" +(?=\n)")


class _Safe:
    """Replaces control characters in the text that is written to a stream, and leaves out blanks at the ends of its
    lines, with which rich fills a table or breaks a sentence. In every other respect it behaves like that stream.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def unsafe(self) -> Any:
        """Return the stream that is wrapped."""
        return self._stream

    def write(self, text: str) -> int:
        self._stream.write(BLANKS_AT_THE_END.sub("", printable(text)))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def steering_console(*, error: bool = False) -> Console:
    """Return a console on standard output or standard error for a view that redraws itself.

    The view moves the cursor with control characters, so that nothing that is written to this console is made
    printable: the caller does that with every text of others.
    """
    from rich.console import Console

    stream = sys.stderr if error else sys.stdout
    return Console(file=stream.unsafe if isinstance(stream, _Safe) else stream, highlight=False)


def echo(text: str, *, end: str = "\n", error: bool = False) -> None:
    """Write a text to standard output, or to standard error."""
    stream = sys.stderr if error else sys.stdout
    stream.write(f"{text}{end}")


def echo_json(document: Any) -> None:
    """Write a value as one indented JSON document to standard output."""
    import msgspec

    echo(msgspec.json.format(as_json(document), indent=2).decode())


@contextmanager
def safe_output() -> Iterator[None]:
    """Replace control characters in standard output and standard error while a command runs."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Safe(sys.stdout), _Safe(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
