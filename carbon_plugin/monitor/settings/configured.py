"""Read the configuration of a run: defaults < carbon_plugin.yaml < environment variables < arguments.

The file is the first `carbon_plugin.yaml` from the working directory upwards. The variable of a field is its name in
capitals after CARBON_PLUGIN_, for instance CARBON_PLUGIN_WINDOW_S, or CARBON_PLUGIN_BUDGET_COST for one in a section.
A stronger source replaces single fields of a section; an argument replaces the whole section.
"""

from __future__ import annotations

import logging
import os
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import msgspec
from msgspec import Struct

from carbon_plugin.errors import CarbonPluginError, SpecError
from carbon_plugin.spec.configuration import (
    FILE_NAME,
    OTHER_VARIABLES,
    PATHS,
    SECTIONS,
    VARIABLE_PREFIX,
    Configuration,
)
from carbon_plugin.spec.loading import SUPERSEDED
from carbon_plugin.spec.parsing.boundary import Keys, dotted
from carbon_plugin.spec.parsing.decoding import decode
from carbon_plugin.spec.parsing.document import Document, parse_document, quoted_in, read_document
from carbon_plugin.spec.parsing.names import nearest

logger = logging.getLogger(__name__)

FILE_VARIABLE = "CARBON_PLUGIN_CONFIG"
"""The variable that names the file, or is empty so that no file is read."""
DEFAULT = "default"
ARGUMENT = "argument"
_OF_A_SERVICE = re.compile(r"_(SERVICE_HOST|SERVICE_PORT\w*|PORT|PORT_\d+_\w+)$")
"""Kubernetes puts such variables of each service into every container, also of one that is called as this package."""
_warned: set[str] = set()
_FIELDS = {field.name: field for field in msgspec.structs.fields(Configuration)}


class Configured(Struct, frozen=True, kw_only=True):
    """Holds what a file and the environment state: the values by field, and the source of each by its dotted name.

    Values of sections are plain mappings. `file` is the file that was read, or None.
    """

    values: dict[str, Any]
    sources: dict[str, str]
    file: Path | None


def read_configuration(environ: Mapping[str, str], start: Path | None = None) -> Configured:
    """Return what the file and the environment state, checked against the schema.

    The file is looked for from `start` upwards; the default is the working directory. Raises `SpecError` with a
    sentence that names file, field, value and what was expected.
    """
    file = _found_file(environ, start)
    values: dict[str, Any] = {}
    places: dict[Keys, str] = {}
    if file is not None:
        document = read_document(file)
        if not isinstance(document.value, Mapping):
            raise SpecError(f"{file}: expected fields such as site: FRA, got {document.value!r}")
        values, places = dict(document.value), dict(document.places)
        for name in PATHS:
            if isinstance(values.get(name), str):
                values[name] = str(file.parent / values[name])
    _warn_of_unknown(environ)
    for keys, variable in _variables(environ).items():
        place = f"environment variable {variable}"
        for field, value in _fields_of(keys, _read(keys, environ[variable], place), values):
            _put(values, field, value)
            places[field] = place
    values = _checked(Document(values, str(file or FILE_NAME), places))
    sources = {".".join(map(str, keys)): places.get(keys, _around(places, keys)) for keys in _leaves(values)}
    return Configured(values=values, sources=sources, file=file)


def variables() -> dict[Keys, str]:
    """Return the name of the environment variable of each field, by the keys of the field."""
    found: dict[Keys, str] = {}
    for name in _FIELDS:
        found[name,] = VARIABLE_PREFIX + name.upper()
        for inner in msgspec.structs.fields(SECTIONS[name]) if name in SECTIONS else ():
            found[name, inner.name] = f"{VARIABLE_PREFIX}{name.upper()}_{inner.name.upper()}"
    return found


def merged(arguments: Mapping[str, Any], configured: Configured) -> dict[str, Any]:
    """Return the arguments with what is configured in the place of those that are not given."""
    stated = {name: value for name, value in arguments.items() if value is not None}
    return {**configured.values, **stated}


def effective(arguments: Mapping[str, Any], configured: Configured, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return every field with its value and its source as plain data, for the record of the run.

    `defaults` are the values of fields that nothing states; fields that are not in it are None.
    """
    found: dict[str, Any] = {}
    for name in _FIELDS:
        if arguments.get(name) is not None:
            found[name] = {"value": _plain(arguments[name]), "source": ARGUMENT}
        elif name in configured.values:
            value = configured.values[name]
            if isinstance(value, Mapping):
                inner = {key: configured.sources[f"{name}.{key}"] for key in value}
                source = "; ".join(dict.fromkeys(inner.values()))
            else:
                source = configured.sources[name]
            found[name] = {"value": _masked(name, value), "source": source}
        else:
            found[name] = {"value": defaults.get(name), "source": DEFAULT}
    return found


def _found_file(environ: Mapping[str, str], start: Path | None) -> Path | None:
    stated = environ.get(FILE_VARIABLE)
    if stated is not None:
        return Path(stated) if stated else None
    try:
        here = (start or Path.cwd()).absolute()
    except OSError:  # the working directory is gone
        return None
    for folder in (here, *here.parents):
        path = folder / FILE_NAME
        if path.is_file():
            return path if _is_trusted(path, here) else None
    return None


def _is_trusted(path: Path, here: Path) -> bool:
    """Return whether the file is of this user, of the administrator or of whoever owns the working directory.

    Somebody else may have put a file above it, for instance into /tmp, that sends alerts to him.
    """
    if not hasattr(os, "geteuid"):
        return True
    owner = path.stat().st_uid
    if owner in (os.geteuid(), 0, here.stat().st_uid):
        return True
    logger.warning(
        "carbon_plugin: %s is not read, because it belongs to another user; name it in %s to use it",
        path,
        FILE_VARIABLE,
    )
    return False


def _variables(environ: Mapping[str, str]) -> dict[Keys, str]:
    """Return the variables of the environment that state a field; an empty one states none. Sections come first."""
    return {keys: name for keys, name in sorted(variables().items(), key=lambda one: len(one[0])) if environ.get(name)}


def _read(keys: Keys, text: str, place: str) -> Any:
    """Return the value that a variable states: text where the field takes nothing else, else by the rules of YAML."""
    kind = _kind_of(keys)
    if kind is str:
        return text
    return parse_document(text, place).value  # the words and numbers of a file


def _kind_of(keys: Keys) -> Any:
    struct = Configuration if len(keys) == 1 else SECTIONS[str(keys[0])]
    kinds = {field.name: field.type for field in msgspec.structs.fields(struct)}
    members = _members(kinds[str(keys[-1])])
    return members[0] if len(members) == 1 else Any


def _members(kind: Any) -> list[Any]:
    if get_origin(kind) not in (Union, types.UnionType):
        return [kind]
    return [member for member in get_args(kind) if member is not type(None)]


def _fields_of(keys: Keys, value: Any, values: Mapping[str, Any]) -> list[tuple[Keys, Any]]:
    """Return the fields that a variable states: single ones where it states some of a section that is there already."""
    if len(keys) > 1 or not isinstance(values.get(str(keys[0])), Mapping):
        return [(keys, value)]
    if keys == ("site",) and isinstance(value, str):
        value = {"zone": value}
    return [((*keys, name), one) for name, one in value.items()] if isinstance(value, Mapping) else [(keys, value)]


def _warn_of_unknown(environ: Mapping[str, str]) -> None:
    """Warn once of each variable that begins as ours do and that nothing reads. Rank 0 does it for all."""
    if environ.get("RANK", "0") != "0":
        return
    known = {*variables().values(), *OTHER_VARIABLES}
    for name in sorted(environ.keys() - known - _warned):
        if name.startswith(VARIABLE_PREFIX) and environ[name] and not _OF_A_SERVICE.search(name):
            _warned.add(name)
            near = nearest(name, known)
            hint = f"; nearest: {near[0]}" if near else ""
            logger.warning("carbon_plugin: environment variable %s is not known and has no effect%s", name, hint)


def _put(values: dict[str, Any], keys: Keys, value: Any) -> None:
    if len(keys) == 1:
        values[str(keys[0])] = value
        return
    section, name = map(str, keys)
    before = values.get(section)
    if section == "site" and isinstance(before, str):
        before = {"zone": before}
    kept = dict(before) if isinstance(before, Mapping) else {}
    changes = kept.get(name) != value
    for void in SUPERSEDED.get((section, name), ()) if changes else ():  # they describe another place
        kept.pop(void, None)
    values[section] = {**kept, name: value}


def _checked(document: Document) -> dict[str, Any]:
    """Return the values as the schema has them. Raises `SpecError` for one that it does not allow."""
    values: dict[str, Any] = document.value
    plain = {name: value for name, value in values.items() if name not in SECTIONS}
    decoded = decode(Document(plain, document.origin, document.places), Configuration)
    for name in SECTIONS.keys() & values.keys():
        value = values[name]
        other = isinstance(value, str) if name == "site" else isinstance(value, bool) if name == "alerts" else False
        if value is not None and not other:
            decode(document, SECTIONS[name], (name,))
    found = {name: getattr(decoded, name) for name in plain} | {
        name: values[name] for name in SECTIONS if name in values
    }
    return {name: value for name, value in found.items() if value is not None}


def at_its_place(error: CarbonPluginError, configured: Configured) -> CarbonPluginError:
    """Return an error about a configured value with the place of the value before it, and any other error as it is."""
    message = str(error)
    for name, value in configured.values.items():
        if message.startswith((f"{name} ", f"{name}:", f"{name}.")):
            inner = [key for key in value if key in message] or list(value) if isinstance(value, Mapping) else []
            field = f"{name}.{inner[0]}" if inner else name
            return type(error)(f"{configured.sources.get(field, FILE_NAME)}: {message}")
    keys = quoted_in(message, configured.values)
    if keys is None:
        return error
    place = configured.sources.get(".".join(map(str, keys[:2])), FILE_NAME)
    return type(error)(f"{place}: {dotted(keys)}: {message}")


def _leaves(values: Mapping[str, Any]) -> list[Keys]:
    found: list[Keys] = []
    for name, value in values.items():
        found += [(name, key) for key in value] if isinstance(value, Mapping) else [(name,)]
    return found


def _around(places: Mapping[Keys, str], keys: Keys) -> str:
    return next((places[keys[:length]] for length in range(len(keys), -1, -1) if keys[:length] in places), FILE_NAME)


def _plain(value: Any) -> Any:
    """Return a value of an argument as plain data, or the name of its type where it has none."""
    document = getattr(value, "document", None)
    if callable(document):
        return document()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    try:
        return msgspec.to_builtins(value) if not _is_large(value) else getattr(value, "name", type(value).__name__)
    except (TypeError, ValueError):
        return type(value).__name__


def _is_large(value: Any) -> bool:
    """Return whether a value is a document of its own, which the manifest holds in another place."""
    return isinstance(value, Struct) and len(value.__struct_fields__) > 25


def _masked(name: str, value: Any) -> Any:
    from urllib.parse import urlsplit

    if name == "alerts" and isinstance(value, Mapping) and isinstance(value.get("webhook"), str):
        return {**value, "webhook": urlsplit(value["webhook"]).hostname}
    return value
