"""Write a run as a YAML file that `loading` reads back as the same run. Fields at their default are left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec import Struct

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.defaults import PURE_STATES
from carbon_plugin.spec.hardware.cluster import Node
from carbon_plugin.spec.hardware.profiles import find_node
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.loading import Directories, load_run_spec
from carbon_plugin.spec.models.model import CountedModel, TransformerModel
from carbon_plugin.spec.models.presets import load_preset
from carbon_plugin.spec.parsing.saving import save
from carbon_plugin.spec.run import RunSpec
from carbon_plugin.spec.site import Site, relative_to
from carbon_plugin.spec.stated_layout import left_to_stack


def write_run_spec(spec: RunSpec, path: Path, *, profile_dirs: Directories = (), note: str = "") -> None:
    """Write `spec` as a YAML file that `load_run_spec` reads as the same run; `note` becomes its first lines, as
    comments.

    What was assumed for `spec` is stated in the file. `profile_dirs` are the user's hardware profiles that it needs.
    Raises `OSError` if the file cannot be written, and `SpecError` if the file would not be read back as `spec`, for
    instance where a profile is none of the shipped ones and its directory is not given.
    """
    head = "".join(f"# {line}\n" for line in note.splitlines())
    save(path, head + run_document(spec, profile_dirs=profile_dirs))
    if _facts(load_run_spec(path)) != _facts(spec):
        raise SpecError(f"{path}: is not read back as the run that was written; its profiles differ from those in use")


def run_document(spec: RunSpec, *, profile_dirs: Directories = ()) -> str:
    """Return the run as YAML text; files and directories in it are absolute."""
    cluster = spec.cluster
    tree: dict[str, Any] = {
        "name": spec.name,
        "model": _model(spec.model),
        "cluster": {
            "accelerator": cluster.accelerator.name,
            "node": cluster.node.name,
            "nodes": cluster.nodes,
            "devices_per_node": cluster.devices_per_node,
            **({} if cluster.power_cap_w is None else {"power_cap_w": cluster.power_cap_w}),
            **({} if cluster.scaleup is None else {"scaleup": cluster.scaleup}),
            **({} if cluster.network is None else {"network": cluster.network}),
            **_network(cluster.node, profile_dirs),
            **({"profiles": [str(Path(directory).absolute()) for directory in profile_dirs]} if profile_dirs else {}),
        },
        "layout": {name: _plain(value) for name, value in spec.layout_held.items()} or "auto"
        if spec.layout is None
        else _layout(spec.layout),
        "training": {
            **_stated(spec.training),
            "precision": spec.training.precision,
            "optimizer": spec.training.optimizer,
            **({name: getattr(spec.training, name) for name in PURE_STATES} if spec.stack.pure_states else {}),
        },
        "site": _stated(_absolute(spec.site)),
        "stack": _stated(spec.stack) or None,
        "start": spec.start,
        "price_usd_per_device_hour": spec.price_usd_per_device_hour,
        "programme": spec.programme,
        "role": spec.role,
    }
    return yaml.safe_dump(
        {key: value for key, value in tree.items() if value is not None}, sort_keys=False, width=110, allow_unicode=True
    )


def _layout(layout: ParallelLayout) -> dict[str, Any]:
    """Return a layout as fields of the file, with those at their default that would be assumed if nobody stated them:
    micro-batch and recompute, what the software decides, and the schedule of a pipeline.
    """
    assumed = ("micro_batch_size", "recompute", *left_to_stack(layout), *(("pipeline_schedule",) * (layout.pp > 1)))
    return _stated(layout) | {name: _plain(getattr(layout, name)) for name in assumed}


def _network(node: Node, profile_dirs: Directories) -> dict[str, Any]:
    """Return oversubscription and rails as fields of the file, each only where it is not that of the node's profile."""
    known = find_node(node.name, profile_dirs=profile_dirs)
    if known is None:
        return {}
    stated = {name: getattr(node.network, name) for name in ("oversubscription", "rails")}
    return {name: value for name, value in stated.items() if value != getattr(known.network, name)}


def _facts(spec: RunSpec) -> RunSpec:
    """Return the spec without its assumptions and with absolute paths, so that two specs can be compared."""
    return msgspec.structs.replace(spec, assumptions=(), site=_absolute(spec.site))


def _absolute(site: Site) -> Site:
    return relative_to(site, Path.cwd())


def _model(model: TransformerModel | CountedModel) -> str | dict[str, Any]:
    """Return the name of a preset where the model is one, else its fields."""
    if isinstance(model, CountedModel):
        return {"type": "counted", **_stated(model)}
    return model.name if _preset(model.name) == model else _stated(model)


def _preset(name: str) -> TransformerModel | None:
    try:
        return load_preset(name)
    except SpecError:
        return None


def _stated(value: Struct) -> dict[str, Any]:
    """Return the fields of a struct that are not at their default, as plain values."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(value)}
    found = {name: getattr(value, name) for name in defaults if getattr(value, name) != defaults[name]}
    return {name: _plain(item) for name, item in found.items()}


def _plain(item: Any) -> Any:
    if isinstance(item, Struct):
        return _stated(item)
    return [_plain(part) for part in item] if isinstance(item, tuple | list) else item
