"""Define the options that describe a run, and make the run from them and from a spec file, if there is one.

The fields of a group have the names of the fields in that section of a spec, so that each name is written once. What
another command that predicts asks of its user too (`scale`) has its option here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Struct, structs

from carbon_plugin.cli.options import Option, ProfileDirectories
from carbon_plugin.errors import SpecError

if TYPE_CHECKING:
    from carbon_plugin.spec.run import RunSpec


SeqLen = Annotated[int | None, Option("Tokens a sequence.")]
PrecisionName = Annotated[str | None, Option("bf16, fp16, fp8, mxfp8, nvfp4, fp32 or tf32.")]
StackName = Annotated[str | None, Option("Software that trains: a preset of `carbon-plugin list stacks`.")]
GridIntensity = Annotated[
    float | None, Option("Your own grid intensity, g/kWh, instead of the zone's.", names=("--intensity",))
]
FacilityPue = Annotated[float | None, Option("Facility energy over IT energy.")]


class ClusterOptions(Struct, frozen=True):
    """Options for fields of the section `cluster` of a spec."""

    accelerator: Annotated[str | None, Option("Accelerator profile, for instance h100-sxm.")] = None
    node: Annotated[str | None, Option("Node profile; the accelerator's usual node if left out.")] = None
    nodes: Annotated[int | None, Option("Number of nodes.")] = None
    devices_per_node: Annotated[int | None, Option("Devices used in each node.")] = None


class TrainingOptions(Struct, frozen=True):
    """Options for fields of the section `training` of a spec."""

    tokens: Annotated[float | None, Option("Tokens to train on, for instance 15e12.")] = None
    steps: Annotated[int | None, Option("Optimizer steps, instead of tokens.")] = None
    seq_len: SeqLen = None
    global_batch_size: Annotated[int | None, Option("Sequences an optimizer step.")] = None
    precision: PrecisionName = None


class SiteOptions(Struct, frozen=True):
    """Options for fields of the section `site` of a spec."""

    zone: Annotated[str | None, Option("Grid zone: FRA, egrid:SRVC, gcp:us-central1, aws:eu-north-1 ...")] = None
    intensity_g_per_kwh: GridIntensity = None
    pue: FacilityPue = None


class LayoutOptions(Struct, frozen=True):
    """Options for fields of the section `layout` of a spec."""

    tp: Annotated[int | None, Option("Tensor-parallel degree.")] = None
    cp: Annotated[int | None, Option("Context-parallel degree.")] = None
    pp: Annotated[int | None, Option("Pipeline-parallel degree.")] = None
    ep: Annotated[int | None, Option("Expert-parallel degree.")] = None
    dp_replicate: Annotated[int | None, Option("Data-parallel replicas.")] = None
    dp_shard: Annotated[int | None, Option("Data-parallel shards (FSDP, ZeRO).")] = None
    zero_stage: Annotated[int | None, Option("What shards hold: 1 optimizer, 2 gradients, 3 parameters.")] = None
    micro_batch_size: Annotated[int | None, Option("Sequences a micro-batch.")] = None
    recompute: Annotated[str | None, Option("none, selective, operators or full.")] = None


class RunOptions(Struct, frozen=True, kw_only=True):
    """Holds all options that describe the run."""

    model: Annotated[str | None, Option("Preset name, or path to a Hugging Face config.json.")] = None
    cluster: ClusterOptions
    training: TrainingOptions
    site: SiteOptions
    layout: Annotated[
        str | None, Option('"auto": search the layout, not the one of the spec; degrees given beside it are kept.')
    ] = None
    degrees: LayoutOptions
    stack: StackName = None
    force: Annotated[bool, Option("Plan a layout that does not fit in memory too.")] = False
    price: Annotated[float | None, Option("USD a device-hour.")] = None
    check_model: Annotated[bool, Option("Compare the parameters of a config.json with its transformers class.")] = False
    profiles: ProfileDirectories = None

    @property
    def directories(self) -> tuple[Path, ...]:
        """Return the directories with the user's own hardware profiles."""
        return tuple(self.profiles or ())


def run_of(spec: Path | None, options: RunOptions, *, searching: bool) -> RunSpec:
    """Return the run that a spec and the options describe. A search keeps the part of the layout that they state.

    Raises `SpecError` for a value or a file that cannot be used.
    """
    from carbon_plugin.spec.loading import build_run_spec, load_run_spec

    stated = _without_empty(structs.asdict(options.degrees))
    # With a search, degrees on the command line replace the layout of the file; without one they replace single fields
    # of it. Without a file they are kept, and the rest of the layout is searched, with micro-batch and recompute.
    open_ends = spec is None and not options.force and not {"micro_batch_size", "recompute"} <= stated.keys()
    held = _held(stated) if stated and (searching or options.layout is not None or open_ends) else {}
    overrides = _without_empty(
        {
            "model": options.model,
            "cluster": structs.asdict(options.cluster),
            "training": structs.asdict(options.training),
            "site": structs.asdict(options.site),
            "layout": options.layout or ("auto" if held else stated),
            "stack": options.stack,
            "price_usd_per_device_hour": options.price,
        }
    )
    if spec is not None:
        run = load_run_spec(spec, overrides=overrides, profile_dirs=options.directories)
    else:
        _require(options)
        run = build_run_spec(overrides, origin="command line", profile_dirs=options.directories)
    if held:
        run = structs.replace(run, layout_held=held)
    return _checked_by_class(run) if options.check_model else _counted_at_its_length(run)


def _require(options: RunOptions) -> None:
    """Raise `SpecError` with all options that are missing where no spec is given."""
    needed = {
        "--model": options.model,
        "--accelerator": options.cluster.accelerator,
        "--nodes": options.cluster.nodes,
        "--steps or --tokens": options.training.tokens if options.training.steps is None else options.training.steps,
        "--zone": options.site.zone or options.site.intensity_g_per_kwh,
    }
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        raise SpecError(
            f"command line: no run spec is given, and {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} "
            "missing; expected a spec such as run.yaml, or all of --model llama3-8b --accelerator h100-sxm --nodes 1 "
            "--steps 1000 --zone FRA"
        )


def _held(stated: dict[str, Any]) -> dict[str, int | str | bool]:
    """Return the stated part of a layout. Raises `SpecError` for a value that cannot be."""
    from carbon_plugin.spec.layout import StatedLayout
    from carbon_plugin.spec.parsing.decoding import decode
    from carbon_plugin.spec.parsing.document import Document

    return decode(Document({"layout": stated}, "command line", {}), StatedLayout, ("layout",)).held


def _counted_at_its_length(run: RunSpec) -> RunSpec:
    """Return the run. A counted model is counted again if the plan has another sequence length."""
    from carbon_plugin.spec.models.model import CountedModel

    if not isinstance(run.model, CountedModel):
        return run
    from carbon_plugin.detect.shape.factory import counted_at

    return structs.replace(run, model=counted_at(run.model, run.training.seq_len))


def _checked_by_class(run: RunSpec) -> RunSpec:
    """Return the run with a note of its model that says whether transformers finds the same number of parameters."""
    from carbon_plugin.detect.shape.meta_class import checked_by_class
    from carbon_plugin.spec.models.model import TransformerModel

    config = Path(run.model.source.partition(" (")[0])
    if not isinstance(run.model, TransformerModel) or not config.exists():
        raise SpecError(f"--check-model needs a model that is read from a config.json, and {run.model.name} is not")
    return structs.replace(run, model=checked_by_class(run.model, config))


def _without_empty(tree: dict[str, Any]) -> dict[str, Any]:
    pruned = {key: _without_empty(value) if isinstance(value, dict) else value for key, value in tree.items()}
    return {key: value for key, value in pruned.items() if value is not None and value != {}}
