"""Read YAML and plain mappings as documents that know where each value was written.

Scalars follow the YAML 1.2 core schema and not PyYAML's 1.1, where `NO` (Norway) is false, `15e12` is text and `1:30`
is ninety. A key that is given twice is an error. `decoding` checks the types.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from carbon_plugin.errors import CarbonPluginError, SpecError
from carbon_plugin.spec.parsing.boundary import DEEPEST, Keys, dotted, in_one_sentence, read_text, shown

_INTEGER = re.compile(r"[-+]?[0-9][0-9_]*")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MOST_DIGITS = 400
"""The most digits of an integer; a longer one is read as text, which no field for a number accepts."""
_MOST_VALUES = 1_000_000
"""The most values of a document. A few lines of aliases of aliases can stand for more than any memory holds."""
_NAME_OF_TEXT = ' in "<unicode string>",'
"""How PyYAML names a text that came from no file; the message names the file."""
_BRACKET = re.compile(r"[\[\]{}]")


@dataclass(frozen=True, slots=True)
class Document:
    """One document holds a tree of mappings, lists and scalars, and where each part of it was written.

    `origin` is a file name or "command line"; `places` maps keys to a place such as "run.yaml:12".
    """

    value: Any
    origin: str
    places: Mapping[Keys, str]

    def place(self, keys: Keys) -> str:
        """Return where a value, or the nearest thing around it, was written."""
        for length in range(len(keys), -1, -1):
            if keys[:length] in self.places:
                return self.places[keys[:length]]
        return self.origin

    def error(self, keys: Keys, message: str) -> SpecError:
        """Return a `SpecError` that names place and field."""
        field = dotted(keys)
        return SpecError(f"{self.place(keys)}: {field}: {message}" if field else f"{self.place(keys)}: {message}")

    @contextmanager
    def located(self, keys: Keys, *, field: bool = False) -> Iterator[None]:
        """Put the place, and with `field` the field's name, before the message of an error raised inside."""
        try:
            yield
        except CarbonPluginError as error:
            where = " and ".join(self._places_of(keys))
            where = f"{where}: {dotted(keys)}" if field else where
            raise type(error)(f"{where}: {error}") from None

    def _places_of(self, keys: Keys) -> list[str]:
        """Return where a value was written, then every other origin, such as the command line, of what is in it."""
        place = self.place(keys)
        inside = (
            where for known, where in self.places.items() if len(known) > len(keys) and known[: len(keys)] == keys
        )
        others = (where for where in inside if not where.startswith(f"{self.origin}:") and where != place)
        return list(dict.fromkeys([place, *others]))


def quoted_in(message: str, value: Any) -> Keys | None:
    """Return the keys of a text below `value` that a message quotes, of several the longest; None if it quotes none.

    An error that only a later step can raise, such as that of an unknown zone, knows its value and not its field.
    """
    texts = ((keys, text) for keys, text in _texts(value, ()) if repr(text) in message)
    found = max(texts, key=lambda one: len(one[1]), default=None)
    return found[0] if found else None


def _texts(value: Any, keys: Keys) -> Iterator[tuple[Keys, str]]:
    if isinstance(value, str) and value:
        yield keys, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, (*keys, key))
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from _texts(inner, (*keys, place))


def read_document(path: Path) -> Document:
    """Read one YAML file. Raises `SpecError` if it is missing, unreadable or not YAML."""
    if not os.path.lexists(path):
        raise SpecError(f"{path}: no such file")
    return parse_document(read_text(path, SpecError), str(path))


def parse_document(text: str, origin: str) -> Document:
    """Return a document from YAML text. Raises `SpecError` with the line for bad syntax and duplicate keys."""
    places: dict[Keys, str] = {}
    with valid_yaml(text, origin):
        node = yaml.compose(text, Loader=_LOADER)
        value = {} if node is None else _Builder(origin, places).build(node, ())
    return Document(value, origin, places)


def load_yaml(text: str, origin: str) -> Any:
    """Return the plain value of YAML text without the places of its parts. Raises `SpecError` as
    `parse_document` does.
    """
    with valid_yaml(text, origin):
        return yaml.load(text, Loader=_OnceLoader)


class _OnceLoader(_LOADER):  # type: ignore[misc, valid-type]
    """The loader of plain values refuses a mapping that gives a key twice, of which YAML would keep the last."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._checked: set[int] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        # PyYAML puts the pairs of an anchor in place of `<<`, so that from then on a key that the mapping changes is
        # there twice. It may do so for a mapping that another one merges before it makes the mapping itself.
        if id(node) not in self._checked:
            self._checked.add(id(node))
            _refuse_a_key_given_twice(node)
        super().flatten_mapping(node)


def _refuse_a_key_given_twice(node: yaml.MappingNode) -> None:
    first: dict[str, yaml.Node] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
            continue
        if key.value in first:
            line = first[key.value].start_mark.line + 1
            raise yaml.constructor.ConstructorError(
                None, None, f"{shown(key.value)} is given twice, first in line {line}", key.start_mark
            )
        first[key.value] = key


@contextmanager
def valid_yaml(text: str, origin: str) -> Iterator[None]:
    """Check the nesting and size of YAML text, then turn any parser error inside into a `SpecError` with the line."""
    try:
        with in_one_sentence(origin, "not valid YAML", SpecError):
            _refuse_what_nobody_wrote(text, origin)
            yield
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{origin}:{mark.line + 1}" if mark else origin
        raise SpecError(f"{place}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        said = " ".join(str(error).split()).replace(_NAME_OF_TEXT, ",")
        raise SpecError(f"{origin}: not valid YAML: {said}") from None


def _refuse_what_nobody_wrote(text: str, origin: str) -> None:
    """Raise `SpecError` if YAML is nested deeper than `DEEPEST` levels or stands for more than `_MOST_VALUES` values.

    PyYAML composes by recursion in C, which would end the process or refuse in words of its own. Brackets are counted
    first, because the scanner looks far ahead of the events that it gives. The events come without recursion, and they
    show what is nested by lines and what aliases stand for.
    """
    depth = deepest = 0
    if text.count("[") + text.count("{") > DEEPEST:
        for bracket in _BRACKET.findall(text):
            depth = max(0, depth + (1 if bracket in "[{" else -1))
            deepest = max(deepest, depth)
    if deepest > DEEPEST:
        raise SpecError(f"{origin}: nested deeper than {DEEPEST} levels")
    values = [0]
    """How many values each open collection holds so far, the document first."""
    open_anchors: list[str | None] = []
    anchored: dict[str | None, int] = {}
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            values.append(1)
            open_anchors.append(event.anchor)
            if len(open_anchors) > DEEPEST:
                raise SpecError(f"{origin}: nested deeper than {DEEPEST} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchored[open_anchors.pop()] = inner = values.pop()
            values[-1] += inner
        elif isinstance(event, yaml.AliasEvent):
            values[-1] += anchored.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            anchored[event.anchor] = 1
            values[-1] += 1
        if values[-1] > _MOST_VALUES:
            line = f":{event.start_mark.line + 1}" if event.start_mark else ""
            raise SpecError(
                f"{origin}{line}: expected at most {_MOST_VALUES:,} values in a file; an alias "
                "counts as all that it stands for: write fewer of them, or split the file"
            )


class _Builder:
    """The builder turns YAML nodes into values and notes the lines where they were written."""

    def __init__(self, origin: str, places: dict[Keys, str]) -> None:
        self.origin = origin
        self.places = places
        self.open: set[int] = set()

    def build(self, node: yaml.Node, keys: Keys) -> Any:
        self.places.setdefault(keys, self.line(node))
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if id(node) in self.open:
            raise SpecError(f"{self.line(node)}: {dotted(keys)}: the value contains itself")
        self.open.add(id(node))
        value = self.mapping(node, keys) if isinstance(node, yaml.MappingNode) else self.sequence(node, keys)
        self.open.discard(id(node))
        return value

    def mapping(self, node: yaml.MappingNode, keys: Keys) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise SpecError(f"{self.line(key_node)}: {dotted(keys) or 'the file'}: a key must be a plain word")
            key = str(key_node.value)
            inner = (*keys, key)
            if key in value:
                raise SpecError(f"{self.line(key_node)}: {dotted(inner)}: given twice, first at {self.places[inner]}")
            self.places[inner] = self.line(key_node)
            value[key] = self.build(value_node, inner)
        return value

    def sequence(self, node: yaml.Node, keys: Keys) -> list[Any]:
        return [self.build(item, (*keys, index)) for index, item in enumerate(node.value)]

    def line(self, node: yaml.Node) -> str:
        return f"{self.origin}:{node.start_mark.line + 1}"


def _scalar(node: yaml.ScalarNode) -> Any:
    text = str(node.value)
    if node.style:  # a quoted scalar or a block is text, whatever it looks like
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text) and len(text) <= _MOST_DIGITS:
        return int(text.replace("_", ""))
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    return text


def overlay(document: Document, changes: Mapping[str, Any], origin: str) -> Document:
    """Return the document with `changes` laid over it; mappings are merged, anything else is replaced.

    The document then names `origin` as the place of the changed values.
    """
    places = dict(document.places)
    value = _merged(document.value, changes, (), places, origin)
    return Document(value, document.origin, places)


def _merged(base: Any, change: Any, keys: Keys, places: dict[Keys, str], origin: str) -> Any:
    if isinstance(base, Mapping) and isinstance(change, Mapping):
        inner = {key: _merged(base.get(key), value, (*keys, key), places, origin) for key, value in change.items()}
        return {**base, **inner}
    for known in [known for known in places if known[: len(keys)] == keys]:
        del places[known]
    places[keys] = origin
    return change
