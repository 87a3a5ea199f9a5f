"""`carbon-plugin plan`: the dry run. Prints a table or JSON, writes the forecast that a run can carry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carbon_plugin.errors import CarbonPluginError, SpecError
from carbon_plugin.spec.figure import Assumption

if TYPE_CHECKING:
    from carbon_plugin.plan.forecast import Forecast
    from carbon_plugin.spec.run import RunSpec

LAYOUT_FLAGS = ("tp", "cp", "pp", "ep", "dp_replicate", "dp_shard", "zero_stage", "micro_batch_size", "recompute")

SECTIONS = {
    "cluster": ("accelerator", "node", "nodes", "devices_per_node"),
    "training": ("tokens", "steps", "seq_len", "global_batch_size", "precision"),
}
"""Flags that are named as the field of a spec."""
USUAL_SEQ_LEN = 4096
USUAL_BATCH_TOKENS = 4 * 2**20

Spec = Annotated[Path | None, typer.Argument(help="Run spec (YAML). Flags override its fields.", show_default=False)]

More = Annotated[
    list[str] | None, typer.Argument(help="More axes for --compare.", show_default=False, metavar="[AXES]...")
]


def _flag(help_text: str, *names: str) -> Any:
    return typer.Option(*names, help=help_text, show_default=False)


def plan(
    spec: Spec = None,
    more: More = None,
    model: Annotated[str | None, _flag("Preset name, or path to a Hugging Face config.json.")] = None,
    accelerator: Annotated[str | None, _flag("Accelerator profile, for instance h100-sxm.")] = None,
    node: Annotated[str | None, _flag("Node profile; the accelerator's usual node if left out.")] = None,
    nodes: Annotated[int | None, _flag("Number of nodes.")] = None,
    devices_per_node: Annotated[int | None, _flag("Devices used in each node.")] = None,
    tokens: Annotated[float | None, _flag("Tokens to train on, for instance 15e12.")] = None,
    steps: Annotated[int | None, _flag("Optimizer steps, instead of tokens.")] = None,
    seq_len: Annotated[int | None, _flag("Tokens a sequence.")] = None,
    global_batch_size: Annotated[int | None, _flag("Sequences an optimizer step.")] = None,
    precision: Annotated[str | None, _flag("bf16, fp16, fp8, mxfp8, nvfp4, fp32 or tf32.")] = None,
    zone: Annotated[str | None, _flag("Grid zone: FRA, egrid:SRVC, gcp:us-central1, aws:eu-north-1 ...")] = None,
    intensity: Annotated[float | None, _flag("Your own grid intensity, g/kWh, instead of the zone's.")] = None,
    pue: Annotated[float | None, _flag("Facility energy over IT energy.")] = None,
    layout: Annotated[
        str | None, _flag('"auto": search the layout, not the one of the spec; degrees given beside it are kept.')
    ] = None,
    tp: Annotated[int | None, _flag("Tensor-parallel degree.")] = None,
    cp: Annotated[int | None, _flag("Context-parallel degree.")] = None,
    pp: Annotated[int | None, _flag("Pipeline-parallel degree.")] = None,
    ep: Annotated[int | None, _flag("Expert-parallel degree.")] = None,
    dp_replicate: Annotated[int | None, _flag("Data-parallel replicas.")] = None,
    dp_shard: Annotated[int | None, _flag("Data-parallel shards (FSDP, ZeRO).")] = None,
    zero_stage: Annotated[int | None, _flag("What shards hold: 1 optimizer, 2 gradients, 3 parameters.")] = None,
    micro_batch_size: Annotated[int | None, _flag("Sequences a micro-batch.")] = None,
    recompute: Annotated[str | None, _flag("none, selective, operators or full.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Plan a layout that does not fit in memory too.")] = False,
    price: Annotated[float | None, _flag("USD a device-hour.")] = None,
    check_model: Annotated[
        bool, typer.Option("--check-model", help="Compare the parameters of a config.json with its transformers class.")
    ] = False,
    profiles: Annotated[list[Path] | None, _flag("Directory with your own hardware profiles.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the interval sampling.")] = 0,
    compare: Annotated[
        list[str] | None, _flag("The same run otherwise: zone=SWE,USA accelerator=b200-sxm start=... pause_above=...")
    ] = None,
    search: Annotated[
        bool, typer.Option("--search", help="Search all layouts: the front of time, energy and carbon.")
    ] = False,
    search_nodes: Annotated[str | None, _flag("Search these numbers of nodes too, for instance 8,16,32.")] = None,
    search_accelerator: Annotated[str | None, _flag("Search these accelerators, for instance h100-sxm,b200.")] = None,
    search_zone: Annotated[str | None, _flag("Search these grid zones, for instance FRA,SWE.")] = None,
    deadline_days: Annotated[float | None, _flag("Search only what ends within so many days.")] = None,
    write_specs: Annotated[
        Path | None, _flag("Search, and write the best few as spec files into this directory.")
    ] = None,
    output: Annotated[
        Path | None, _flag("Write the forecast to this file; a comparison as .svg or JSON.", "-o", "--output")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also the range's causes, the step term by term, every assumption.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Predict time, memory, energy and carbon of a run before launch; searches what is not stated of the layout."""
    if spec is not None and compare and "=" in spec.name and not spec.exists():
        spec, more = None, [str(spec), *(more or ())]  # without a spec the first axis comes first
    if more and not compare:
        raise SpecError(f"plan takes one spec; {' '.join(more)} would be axes for --compare")
    given = locals()
    from carbon_plugin.cli.output import check_format

    asked = (search_nodes, search_accelerator, search_zone, deadline_days, write_specs)
    searching = search or any(flag is not None for flag in asked)
    if compare and searching:
        raise SpecError("--compare and --search are two questions: ask one of them")
    check_format(output, "a comparison" if compare else "a plan", chart=bool(compare))
    directories = tuple(profiles or ())
    run = _run_of(spec, given, directories, searching=searching)
    if compare:
        from carbon_plugin.cli.tables.comparison import show_comparison
        from carbon_plugin.plan.whatif.axes import parse_axes
        from carbon_plugin.plan.whatif.planned_run import PLAN_AXES, compare_plan

        axes = parse_axes([*compare, *(more or ())], PLAN_AXES)
        comparison = compare_plan(run, axes, profile_dirs=directories, seed=seed, force=force)
        show_comparison(comparison, output=output, as_json=as_json)
        return
    if searching:
        from carbon_plugin.cli.tables.plan_search import own_profiles, parse_question, run_search

        question = parse_question(search_nodes, search_accelerator, search_zone, deadline_days)
        run_search(
            run,
            question,
            profile_dirs=(*directories, *own_profiles(spec)),
            seed=seed,
            write_specs=write_specs,
            output=output,
            as_json=as_json,
        )
        return
    from carbon_plugin.plan.forecast import make_forecast, require_fit

    with _naming(spec):
        forecast = make_forecast(run, seed=seed)
        if not force:
            require_fit(forecast)
    _show(forecast, output, as_json=as_json, verbose=verbose)


def _show(forecast: Forecast, output: Path | None, *, as_json: bool, verbose: bool) -> None:
    """Write the forecast where asked, and print it."""
    import msgspec

    from carbon_plugin.plan.forecast import save_forecast

    if output is not None:
        save_forecast(forecast, output)
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(forecast), indent=2).decode())
        return
    from carbon_plugin.cli.tables.plan_table import print_forecast

    print_forecast(forecast, verbose=verbose)
    if output is not None:
        typer.echo(f"forecast written to {output}")


def _run_of(spec: Path | None, given: dict[str, Any], directories: tuple[Path, ...], *, searching: bool) -> RunSpec:
    """The run that a spec and the flags describe; a search has to keep to what the flags state of the layout."""
    import msgspec

    from carbon_plugin.spec.loading import build_run_spec, load_run_spec

    stated = {name: given[name] for name in LAYOUT_FLAGS if given[name] is not None}
    # Flags beside a search replace the layout of the file; alone they are laid over it. Where there is no file they are
    # kept, and the rest is searched down to micro-batch and recompute.
    open_ends = spec is None and not given["force"] and not {"micro_batch_size", "recompute"} <= stated.keys()
    held = _held(stated) if stated and (searching or given["layout"] is not None or open_ends) else {}
    sections = {section: {field: given[field] for field in fields} for section, fields in SECTIONS.items()}
    site = {"zone": given["zone"], "intensity_g_per_kwh": given["intensity"], "pue": given["pue"]}
    overrides = _without_empty(
        {
            "model": given["model"],
            **sections,
            "site": site,
            "layout": given["layout"] or ("auto" if held else stated),
            "price_usd_per_device_hour": given["price"],
        }
    )
    if spec is not None:
        run = load_run_spec(spec, overrides=overrides, profile_dirs=directories)
    else:
        usual, assumed = _with_usual_batch(overrides, USUAL_SEQ_LEN)
        run = build_run_spec(usual, origin="command line", profile_dirs=directories)
        longest = getattr(run.model, "made_for_seq_len", None)
        if longest is not None and longest < USUAL_SEQ_LEN and given["seq_len"] is None:
            usual, assumed = _with_usual_batch(overrides, longest)
            run = build_run_spec(usual, origin="command line", profile_dirs=directories)
        run = msgspec.structs.replace(run, assumptions=(*run.assumptions, *assumed))
    if held:
        run = msgspec.structs.replace(run, layout_held=held)
    return _checked_by_class(run) if given["check_model"] else _counted_at_its_length(run)


def _held(stated: dict[str, Any]) -> dict[str, int | str | bool]:
    """What the flags state of a layout, checked."""
    from carbon_plugin.spec.layout import StatedLayout
    from carbon_plugin.spec.parsing.decoding import decode
    from carbon_plugin.spec.parsing.document import Document

    return decode(Document({"layout": stated}, "command line", {}), StatedLayout, ("layout",)).held


def _counted_at_its_length(run: RunSpec) -> RunSpec:
    """The run, with a counted model counted anew if the plan has another sequence length."""
    import msgspec

    from carbon_plugin.spec.model import CountedModel

    if not isinstance(run.model, CountedModel):
        return run
    from carbon_plugin.detect.shape.factory import counted_at

    return msgspec.structs.replace(run, model=counted_at(run.model, run.training.seq_len))


def _checked_by_class(run: RunSpec) -> RunSpec:
    """The run, with a note of its model that says whether transformers finds as many parameters."""
    import msgspec

    from carbon_plugin.detect.shape.meta_class import checked_by_class
    from carbon_plugin.spec.model import TransformerModel

    config = Path(run.model.source.partition(" (")[0])
    if not isinstance(run.model, TransformerModel) or not config.exists():
        raise SpecError(f"--check-model needs a model that is read from a config.json, and {run.model.name} is not")
    return msgspec.structs.replace(run, model=checked_by_class(run.model, config))


@contextmanager
def _naming(spec: Path | None) -> Iterator[None]:
    """Put the file before the message of an error in what it says."""
    try:
        yield
    except CarbonPluginError as error:
        if spec is None:
            raise
        raise type(error)(f"{spec}: {error}") from None


def _with_usual_batch(overrides: dict[str, Any], seq_len: int) -> tuple[dict[str, Any], list[Assumption]]:
    """Sequence length and batch for a quick question on the command line, stated among the assumptions."""
    training = dict(overrides.get("training", {}))
    assumed = []
    if "seq_len" not in training:
        training["seq_len"] = seq_len
        why = "usual pre-training length" if seq_len == USUAL_SEQ_LEN else "the longest that the model is made for"
        assumed.append(Assumption("training.seq_len", str(seq_len), f"{why}; not stated"))
    if "global_batch_size" not in training:
        batch = max(1, USUAL_BATCH_TOKENS // max(1, training["seq_len"]))
        training["global_batch_size"] = batch
        assumed.append(
            Assumption("training.global_batch_size", str(batch), "about 4 Mi tokens a step, usual for LLMs; not stated")
        )
    return {**overrides, "training": training}, assumed


def _without_empty(tree: dict[str, Any]) -> dict[str, Any]:
    pruned = {key: _without_empty(value) if isinstance(value, dict) else value for key, value in tree.items()}
    return {key: value for key, value in pruned.items() if value is not None and value != {}}
