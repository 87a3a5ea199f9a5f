"""Set one key of a model card's YAML front matter without changing any other byte of the file.

A card is other people's text: a YAML library that reads and writes it again would lose comments, quotes and order.
Therefore the lines of the key are found by the parser's marks and replaced as text. The result is parsed again to prove
that all other data is the same.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from carbon_plugin.errors import ReportError, SpecError
from carbon_plugin.spec.parsing.opening import open_ending
from carbon_plugin.spec.parsing.saving import save

# These are the delimiters that huggingface_hub recognises. An empty block counts too.
_BLOCK = re.compile(r"\A(\ufeff?\s*---[ \t]*(\r\n|\r|\n))((?:|[\S\s]*?(?:\r\n|\r|\n)))---[ \t]*(?=\r|\n|\Z)")


def set_key(card: str, key: str, value: Any) -> str:
    """Return the card with `key` of its front matter set to `value`. A card without front matter gets one.

    Raises `ReportError` for a front matter that is not a YAML mapping in block style, or that could not be kept
    unchanged.
    """
    import yaml

    found = _BLOCK.match(card)
    newline = found[2] if found else _newline_of(card)
    entry = yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=10**6, line_break=newline)
    if found is None:
        return _after_mark(card, f"---{newline}{entry}---{newline}")
    block = found[3]
    if any(
        fence.rstrip("\r\n").endswith((" ", "\t")) for fence in (found[1], found[0][found.end(3) - found.start() :])
    ):
        raise ReportError("front matter: a --- line ends with spaces, and huggingface_hub then reads none of it")
    start, end = _extent(block, key)
    before = block[:start]
    if before and not before.endswith(("\r", "\n")):
        before += newline
    changed = before + entry + block[end:]
    _check_kept(block, changed, key, value)
    return card[: found.start(3)] + changed + card[found.end(3) :]


def write_key(path: Path, key: str, value: Any) -> None:
    """Set a key in the front matter of a file, in one step. The file is created if it does not exist.

    Raises `ReportError` as `set_key`, for a file that is not UTF-8, and for a place that cannot be written.
    """
    try:
        card = _content(path).decode()  # a byte order mark is kept too
        save(path, set_key(card, key, value))
    except UnicodeDecodeError as error:
        raise ReportError(f"{path}: is not UTF-8 at byte {error.start}, expected a model card in UTF-8") from error
    except OSError as error:
        raise ReportError(f"{path}: cannot be written: {error.strerror or error}") from error
    except ReportError as error:
        raise ReportError(f"{path}: {error}") from error


def _content(target: Path) -> bytes:
    if not target.exists():
        return b""
    with open_ending(target) as file:
        return file.read()


def _newline_of(text: str) -> str:
    found = re.search(r"\r\n|\r|\n", text)
    return found[0] if found else "\n"


def _after_mark(card: str, block: str) -> str:
    """Put a block at the beginning of the card, but after its byte order mark if it has one."""
    return "\ufeff" + block + card[1:] if card.startswith("\ufeff") else block + card


def _extent(block: str, key: str) -> tuple[int, int]:
    """Return where the lines of a key begin and end in a block of YAML.

    Both are the end of the block where the key is absent.
    """
    import yaml

    with _readable(block, "front matter"):
        root = yaml.compose(block, Loader=yaml.SafeLoader)
    if root is None:
        return len(block), len(block)
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise ReportError("front matter: expected a mapping with one key a line")
    pairs = [(name, value) for name, value in root.value if getattr(name, "value", None) == key]
    if len(pairs) > 1:
        raise ReportError(f"front matter: {key} is there {len(pairs)} times, expected once")
    if not pairs:
        return len(block), len(block)
    (name, value) = pairs[0]
    return name.start_mark.index, _line_end(block, _content_end(value))


@contextlib.contextmanager
def _readable(block: str, origin: str) -> Iterator[None]:
    from carbon_plugin.spec.parsing.document import valid_yaml

    try:
        with valid_yaml(block, origin):
            yield
    except SpecError as error:
        raise ReportError(str(error)) from None


def _content_end(node: Any) -> int:
    """Return the index after the last character of a value.

    The value of a block collection ends with its last item and not at the next token, because somebody's comments may
    lie between the two.
    """
    import yaml

    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _content_end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _line_end(block: str, index: int) -> int:
    """Return the index after the line break of the line in which a value ends. A block scalar ends after its own line
    break."""
    if index and block[index - 1] in "\r\n":
        return index
    found = re.compile(r"\r\n|\r|\n").search(block, index)
    return found.end() if found else len(block)


def _check_kept(before: str, after: str, key: str, value: Any) -> None:
    import yaml

    with _readable(before, f"front matter: {key} cannot be set in it"):
        old, new = yaml.safe_load(before) or {}, yaml.safe_load(after)
    kept = {name: item for name, item in old.items() if name != key}
    if not isinstance(new, dict) or new != {**kept, key: value}:
        raise ReportError(f"front matter: {key} cannot be set without changing other fields; set it by hand")
