"""Build a run from a YAML file, from command-line flags, or from flags that replace fields of a file, by one path for
all three.

Every value that nobody stated and that does not follow from the shape is recorded in the run's assumptions.
docs/spec.md describes the format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.attention_kernels import with_known_kernel
from carbon_plugin.spec.defaults import (
    USUAL_SEQ_LEN,
    Taken,
    usual_batch,
    usual_precision,
    usual_seq_len,
    usual_stack,
    with_usual_states,
)
from carbon_plugin.spec.frameworks import planned_as
from carbon_plugin.spec.hardware.cluster import Accelerator, Cluster, Node
from carbon_plugin.spec.hardware.profiles import (
    ANY_ACCELERATOR,
    GENERIC_SERVER,
    USUAL_SERVER,
    check_stated_directories,
    directory_of_profiles,
    load_accelerator,
    load_node,
    load_stack,
    nodes_with_room,
    usual_node,
)
from carbon_plugin.spec.hardware.stated_links import with_network, with_oversubscription, with_rails, with_scaleup
from carbon_plugin.spec.model_choice import choose_model
from carbon_plugin.spec.models.model import CountedModel, TransformerModel
from carbon_plugin.spec.numbers.figure import Assumption
from carbon_plugin.spec.parsing.boundary import Keys
from carbon_plugin.spec.parsing.decoding import decode
from carbon_plugin.spec.parsing.document import Document, overlay, read_document
from carbon_plugin.spec.parsing.moment import unix_s
from carbon_plugin.spec.run import RunSpec, check_layout, check_work
from carbon_plugin.spec.site import Site, relative_to
from carbon_plugin.spec.stack import Stack
from carbon_plugin.spec.stated_layout import AUTO, stated_layout, states_schedule, with_schedule
from carbon_plugin.spec.training import TrainingPlan, plainly_named

COMMAND_LINE = "command line"
Role = Literal["final", "ablation", "failed", "sweep", "evaluation", "data"]
Directories = Sequence[str | Path]

OF_A_FORECAST = {"plugin_version", "spec", "prediction", "footprint"}
"""A document with these fields is a forecast and no run spec."""
SECTIONS = ("cluster", "training", "site")
"""The sections that every run needs; a missing one is read as empty, so that the error names the missing field."""

SUPERSEDED: dict[tuple[str, str], tuple[str, ...]] = {
    ("training", "steps"): ("tokens",),
    ("training", "tokens"): ("steps",),
    ("cluster", "accelerator"): ("node", "scaleup", "network"),
    ("cluster", "node"): ("network",),
    ("site", "zone"): (
        "intensity_g_per_kwh",
        "intensity_source",
        "intensity_basis",
        "intensity_series",
        "live",
        "marginal_g_per_kwh",
        "marginal_series",
        "live_marginal",
    ),
    ("site", "intensity_g_per_kwh"): ("intensity_source", "intensity_basis", "intensity_series"),
}
"""The fields of a file that a flag makes void, by that flag: they describe another length, node or place."""


NOTHING_USUAL = "field {} is missing: no {} is usual for a model that reads no text; state it ({})"


class _ClusterFields(Struct, frozen=True, kw_only=True):
    accelerator: str
    nodes: int
    node: str | None = None
    devices_per_node: int | None = None
    power_cap_w: float | None = None
    scaleup: str | None = None
    network: str | None = None
    oversubscription: float | None = None
    rails: int | None = None
    profiles: list[str] = []


class _RunFields(Struct, frozen=True, kw_only=True):
    name: str | None = None
    model: str | dict[str, Any]
    cluster: _ClusterFields
    layout: str | dict[str, Any] | None = AUTO
    training: Any  # decoded beside the model, which says what is usual
    site: Site
    start: str | None = None
    stack: str | dict[str, Any] | None = None
    price_usd_per_device_hour: float | None = None
    programme: str | None = None
    role: Role | None = None


def load_run_spec(
    path: str | Path, *, overrides: Mapping[str, Any] | None = None, profile_dirs: Directories = ()
) -> RunSpec:
    """Read a run from a YAML file (docs/spec.md describes it).

    Args:
        path: The file. Paths in it are relative to it.
        overrides: Fields that replace those of the file, nested as in the file. Default: none.
        profile_dirs: Directories with hardware profiles of the user, which come before those that the file names.
            Default: none.

    Returns:
        The run, with every value that had to be assumed in `assumptions`.

    Raises:
        SpecError: With file, line, field, value and what was expected.
        InfeasibleLayoutError: The layout breaks a rule of the model, the cluster or the batch.
    """
    path, overrides = Path(path), overrides or {}
    document = read_document(path)
    if isinstance(document.value, dict):
        if document.value.keys() >= OF_A_FORECAST:
            raise SpecError(
                f"{path}: is a forecast that `plan -o` has written, expected a run spec: give the spec that it was "
                f"planned from; a run is compared with it by planned={str(path)!r} of watch or a callback"
            )
        document = overlay(_without_superseded(document, overrides), overrides, COMMAND_LINE)
    model_base = Path() if "model" in overrides else path.parent
    return _build(document, path.stem, path.parent, model_base, profile_dirs)


def build_run_spec(
    mapping: Mapping[str, Any], *, origin: str = COMMAND_LINE, profile_dirs: Directories = ()
) -> RunSpec:
    """Return the run that plain mappings of the same form as the file describe.

    Paths in it are relative to the working directory. A run without a name has that of its model. `origin` is the name
    that errors give to the mappings. Raises the errors of `load_run_spec`.
    """
    return _build(Document(mapping, origin, {}), None, Path(), Path(), profile_dirs)


def _without_superseded(document: Document, overrides: Mapping[str, Any]) -> Document:
    value = dict(document.value)
    for (section, field), void in SUPERSEDED.items():
        changed = overrides.get(section)
        if isinstance(changed, Mapping) and field in changed and isinstance(value.get(section), dict):
            value[section] = {key: item for key, item in value[section].items() if key not in void}
    return Document(value, document.origin, document.places)


def _build(document: Document, name: str | None, base: Path, model_base: Path, profile_dirs: Directories) -> RunSpec:
    if isinstance(document.value, Mapping):
        document = Document({key: {} for key in SECTIONS} | dict(document.value), document.origin, document.places)
    fields = decode(document, _RunFields)
    if fields.name is not None and not fields.name.strip():
        raise document.error(("name",), f"expected a name, got {fields.name!r}; leave it out for the file's name")
    check_stated_directories(profile_dirs)
    place = document.place(("cluster", "profiles"))
    own = [directory_of_profiles(base / entry, f"{place}: cluster.profiles") for entry in fields.cluster.profiles]
    directories = [*profile_dirs, *own]
    cluster, cluster_assumptions = _cluster(document, fields.cluster, directories)
    model = choose_model(document, model_base)
    document, work_assumptions = _with_usual_work(document, model, cluster.devices)
    stack, stack_assumptions = _stack(document, fields.stack, cluster.accelerator, directories)
    training, training_assumptions = _training(document, cluster.accelerator, stack)
    training, input_assumptions = _with_input_length(training, model)
    if fields.start is not None:
        with document.located(("start",)):
            unix_s(fields.start, "start")
    layout, held, layout_assumptions = stated_layout(document, fields.layout, cluster, stack)
    if layout is not None:
        with document.located(("layout",)):
            check_layout(model, cluster, layout)
            micro_batches = check_work(layout, training)
        if isinstance(model, TransformerModel) and not states_schedule(fields.layout):
            layout, scheduled = with_schedule(layout, model.layers, micro_batches, stack)
            layout_assumptions += scheduled
    if fields.price_usd_per_device_hour is not None and fields.price_usd_per_device_hour < 0:
        raise document.error(
            ("price_usd_per_device_hour",), f"expected 0 or more, got {fields.price_usd_per_device_hour:g}"
        )
    return RunSpec(
        name=fields.name or name or model.name,
        model=model,
        cluster=cluster,
        training=training,
        site=relative_to(fields.site, base),
        start=fields.start,
        layout=layout,
        layout_held=held,
        stack=stack,
        price_usd_per_device_hour=fields.price_usd_per_device_hour,
        programme=fields.programme,
        role=fields.role,
        assumptions=(
            *cluster_assumptions,
            *work_assumptions,
            *input_assumptions,
            *training_assumptions,
            *layout_assumptions,
            *stack_assumptions,
        ),
    )


def _with_usual_work(
    document: Document, model: TransformerModel | CountedModel, devices: int
) -> tuple[Document, list[Assumption]]:
    """Return the document with the length of a sequence and the batch that are taken where the plan states none, and
    these assumptions. Raises `SpecError` where none is usual for the model.
    """
    stated = document.value["training"]
    if not isinstance(stated, Mapping):
        return document, []  # the decoder refuses it
    training = plainly_named(stated)
    taken: dict[str, Taken] = {}
    if "seq_len" not in training:
        if (length := _length_of(model)) is None:
            raise document.error(("training",), NOTHING_USUAL.format("seq_len", "length", "--seq-len"))
        taken["seq_len"] = length
    if "global_batch_size" not in training:
        if not _reads_text(model):
            missing = NOTHING_USUAL.format("global_batch_size", "batch", "--global-batch-size")
            raise document.error(("training",), missing)
        seq_len = taken["seq_len"].value if "seq_len" in taken else training.get("seq_len")
        # A length that is no number is refused below, by its own name.
        number = seq_len if isinstance(seq_len, int | float) else USUAL_SEQ_LEN
        taken["global_batch_size"] = usual_batch(number, devices)
    training |= {name: one.value for name, one in taken.items()}
    said = [Assumption(f"training.{name}", str(one.value), one.why) for name, one in taken.items()]
    return Document({**document.value, "training": training}, document.origin, document.places), said


def _length_of(model: TransformerModel | CountedModel) -> Taken | None:
    """Return the tokens of a sequence that follow from the model or are usual for it, or None."""
    if isinstance(model, CountedModel):
        if model.seq_len is None:
            return Taken(1, "the model was counted without a sequence length: a sample has no tokens")
        return Taken(model.seq_len, f"the length at which {model.name} was counted")
    if model.input_tokens is not None and not model.vocab:
        return Taken(model.input_tokens, _fixed_by(model))
    return usual_seq_len(model.made_for_seq_len) if model.vocab else None


def _reads_text(model: TransformerModel | CountedModel) -> bool:
    """Return whether the model reads tokens of a vocabulary, for which alone a batch is usual."""
    return isinstance(model, TransformerModel) and model.vocab > 0


def _with_input_length(
    training: TrainingPlan, model: TransformerModel | CountedModel
) -> tuple[TrainingPlan, list[Assumption]]:
    """Return the plan with the length of the input of an encoder or tower where only the model's config says it."""
    if not isinstance(model, TransformerModel) or model.input_tokens is None or training.input_len is not None:
        return training, []
    if not (model.has_encoder or model.has_towers) or not training.inputs_per_sequence:
        return training, []
    plan = msgspec.structs.replace(training, input_len=model.input_tokens)
    return plan, [Assumption("training.input_len", str(model.input_tokens), _fixed_by(model))]


def _fixed_by(model: TransformerModel) -> str:
    said = f"the tokens of one image or sound, which the config of {model.name} fixes"
    alone = model.has_towers and model.vocab and model.outputs is None
    return f"{said}; training.inputs_per_sequence of them a sequence, 0 for texts alone" if alone else said


def _cluster(document: Document, fields: _ClusterFields, directories: Directories) -> tuple[Cluster, list[Assumption]]:
    assumptions = []
    with document.located(("cluster", "accelerator"), field=True):
        accelerator = load_accelerator(fields.accelerator, profile_dirs=directories)
    used = fields.devices_per_node
    if used is not None and used < 1:
        expected = "at least 1; leave it out for all devices of the node"
        raise document.error(("cluster", "devices_per_node"), f"expected {expected}, got {used}")
    with document.located(("cluster", "node"), field=True):
        if fields.node is not None:
            node = load_node(fields.node, profile_dirs=directories)
        else:
            node = usual_node(accelerator, used, nodes=fields.nodes, profile_dirs=directories)
            assumptions.append(Assumption("cluster.node", node.name, _why_this_node(accelerator, node, used)))
    if node.accelerator not in (ANY_ACCELERATOR, accelerator.name):
        raise document.error(("cluster", "node"), f"{node.name} holds {node.accelerator}, not {accelerator.name}")
    if used is None:
        used = node.accelerators
        assumptions.append(Assumption("cluster.devices_per_node", str(used), f"all devices of {node.name}"))
    if used > node.accelerators:
        raise document.error(("cluster", "devices_per_node"), _no_room(accelerator, node, used, directories))
    accelerator, node = _stated_links(document, fields, accelerator, node, used)
    with document.located(("cluster",)):
        cluster = Cluster(
            accelerator=accelerator,
            node=node,
            scaleup=fields.scaleup,
            network=fields.network,
            nodes=fields.nodes,
            devices_per_node=used,
            power_cap_w=fields.power_cap_w,
        )
    return cluster, assumptions


def _why_this_node(accelerator: Accelerator, node: Node, used: int | None) -> str:
    usual = f"usual node of {accelerator.name}"
    if node.name != GENERIC_SERVER:
        return usual
    return f"{usual}, with {used} of them" if used is not None else f"{usual}: {USUAL_SERVER}"


def _stated_links(
    document: Document, fields: _ClusterFields, accelerator: Accelerator, node: Node, used: int
) -> tuple[Accelerator, Node]:
    """Return the accelerator and the node with the links and the network that the spec states in place of the
    profiles'.
    """
    if fields.scaleup is not None:
        with document.located(("cluster", "scaleup"), field=True):
            accelerator = with_scaleup(accelerator, fields.scaleup)
    if fields.network is not None:
        with document.located(("cluster", "network"), field=True):
            # A generic server holds the devices that are used; other nodes have NICs for all of theirs.
            sharing = used if node.accelerator == ANY_ACCELERATOR else node.accelerators
            node = with_network(node, fields.network, sharing)
    if fields.oversubscription is not None:
        with document.located(("cluster",)):
            node = with_oversubscription(node, fields.oversubscription)
    if fields.rails is not None:
        with document.located(("cluster",)):
            node = with_rails(node, fields.rails)
    return accelerator, node


def _no_room(accelerator: Accelerator, node: Node, devices: int, directories: Directories) -> str:
    """Return the part of an error message that says how many devices the node holds and which nodes hold enough."""
    others = nodes_with_room(accelerator, devices, profile_dirs=directories)
    would_do = (
        f"name one that holds more with --node (cluster.node): {', '.join(others)}"
        if others
        else ("no known node holds more; spread the devices over more nodes, or give a node profile of your own")
    )
    return f"expected 1 to {node.accelerators}, which {node.name} holds, got {devices}; {would_do}"


def _training(document: Document, device: Accelerator, stack: Stack) -> tuple[TrainingPlan, list[Assumption]]:
    """Return the plan with a precision that the device has and states as the software keeps them, and assumptions."""
    plan = decode(document, TrainingPlan, ("training",))
    stated, assumptions = document.value["training"], []
    if "precision" not in stated:
        precision = usual_precision(device)
        plan = msgspec.structs.replace(plan, precision=precision)
        assumptions.append(Assumption("training.precision", precision, f"usual on {device.name}"))
    if "optimizer" not in stated:
        assumptions.append(Assumption("training.optimizer", plan.optimizer, "usual for transformers"))
    plan, states = with_usual_states(plan, stack, stated)
    return plan, [*assumptions, *states]


def _stack(
    document: Document, stated: str | dict[str, Any] | None, accelerator: Accelerator, directories: Directories
) -> tuple[Stack, list[Assumption]]:
    """Return the software stack that the spec states, and what of it was assumed.

    The spec may give a preset by name, a mapping of fields, or a preset with fields laid over it. Where it gives
    nothing, the stack is plain PyTorch, or what the device compiles of it (`Accelerator.compiles_graphs`). This is then
    an assumption.
    """
    if stated is None:
        stack, assumption = usual_stack(accelerator)
        ran = " or ".join(dict.fromkeys(one.framework for one in accelerator.own_software))
        unused = f"; the profile knows own runs of {ran}: state `stack: {ran}` to plan with them" if ran else ""
        return stack, [msgspec.structs.replace(assumption, source=assumption.source + unused)]
    if isinstance(stated, str):
        return _named_stack(document, ("stack",), stated, directories)
    base: dict[str, Any] = {}
    assumptions: list[Assumption] = []
    if "preset" in stated:
        preset, assumptions = _named_stack(document, ("stack", "preset"), stated["preset"], directories)
        base = msgspec.to_builtins(preset)
    fields = base | with_known_kernel({key: value for key, value in stated.items() if key != "preset"})
    return decode(Document({"stack": fields}, document.origin, document.places), Stack, ("stack",)), assumptions


def _named_stack(document: Document, keys: Keys, name: Any, directories: Directories) -> tuple[Stack, list[Assumption]]:
    """Return the stack of this name, and as what a framework is planned that has no stack of its own."""
    with document.located(keys, field=True):
        stack = load_stack(str(name), profile_dirs=directories)
    return stack, planned_as(str(name), stack)
