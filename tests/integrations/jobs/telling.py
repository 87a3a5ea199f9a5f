"""How a job tells its test a value. Several ranks have one standard output, so a line goes out in one piece.

`print` writes the words of a line one by one where Python does not buffer (PYTHONUNBUFFERED=1, as in many containers),
and then lines of two ranks mix.
"""

from __future__ import annotations

import json
import os
import select
from typing import Any


def tell(word: str, value: Any) -> None:
    """Write a line of a word and a value as JSON."""
    line = f"{word} {json.dumps(value)}\n".encode()
    assert len(line) <= select.PIPE_BUF, f"a pipe may split a line of {len(line)} bytes; write it to a file of the rank"
    os.write(1, line)


def told(output: str, word: str) -> list[Any]:
    """Return the values under a word in what a job or its ranks wrote."""
    start = f"{word} "
    return [json.loads(line.removeprefix(start)) for line in output.splitlines() if line.startswith(start)]
