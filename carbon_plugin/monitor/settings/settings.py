"""Check and resolve the arguments of the user. A mistake raises an error before training, never during it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Unpack, cast, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct, structs

from carbon_plugin.detect.resolve.effective import Declared
from carbon_plugin.errors import CarbonPluginError, SpecError
from carbon_plugin.footprint.factors.zones import cloud_region, find
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.meters.node.address import NodeAddress, chosen_address
from carbon_plugin.meters.node.open import load_source
from carbon_plugin.monitor.intensity import check_live
from carbon_plugin.monitor.loggers import Loggers, loggers_of
from carbon_plugin.monitor.settings.arguments import MonitorArguments
from carbon_plugin.monitor.settings.configured import Configured, at_its_place, effective, merged, read_configuration
from carbon_plugin.monitor.settings.options import MonitorOptions
from carbon_plugin.plan.forecast import Forecast, load_forecast
from carbon_plugin.spec.alerts import AlertRules
from carbon_plugin.spec.budget import CarbonBudget
from carbon_plugin.spec.configuration import AUTO_ZONE
from carbon_plugin.spec.hardware.cluster import Accelerator
from carbon_plugin.spec.hardware.profiles import load_accelerator, load_node
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.loading import Role
from carbon_plugin.spec.model_choice import choose_model
from carbon_plugin.spec.models.model import CountedModel, TransformerModel
from carbon_plugin.spec.parsing.decoding import decode, describe
from carbon_plugin.spec.parsing.document import Document
from carbon_plugin.spec.parsing.names import unknown_name
from carbon_plugin.spec.site import Site
from carbon_plugin.spec.tags import TagFields
from carbon_plugin.spec.training import TrainingPlan

logger = logging.getLogger(__name__)
_SLURM_TAGS = {"project": "SLURM_JOB_ACCOUNT", "user": "SLURM_JOB_USER"}
"""The tags that SLURM states for each job, with its variables."""
_CHECKED_ELSEWHERE = ("site", "role", "log", "budget", "alerts")
WINDOW_S = 10.0


ARGUMENT_TYPES = {
    one.__name__: one
    for one in (
        Accelerator, AlertRules, CarbonBudget, CountedModel, Forecast, MonitorOptions, ParallelLayout, Path, Site,
        TransformerModel,
    )
}  # fmt: skip
"""The types that `MonitorArguments` names and does not import."""

DEFAULTS: dict[str, Any] = {"window_s": WINDOW_S, "quiet": False, "alerts": AlertRules().document()}
"""The values of the fields of the configuration that have one where nothing states them."""


class Settings(Struct, frozen=True, kw_only=True):
    """Holds everything that a monitor needs to know, resolved. `run_dir` is None where the user named none.

    `alerts` are None where none are to be raised. `configuration` is every field of the configuration with its value
    and its source, and `notes` are events for the record, as (kind, sentence).
    """

    name: str
    run_dir: Path | None
    declared: Declared
    forecast: Forecast | None
    programme: str | None
    role: str | None
    window_s: float
    node_meter: NodeAddress | None
    options: MonitorOptions
    loggers: Loggers
    step: int | None = None
    quiet: bool = False
    budget: CarbonBudget | None = None
    alerts: AlertRules | None = None
    price_usd_per_device_hour: float | None = None
    configuration: dict[str, Any] = {}
    tags: dict[str, str] = {}
    notes: tuple[tuple[str, str], ...] = ()


def make_settings(**arguments: Unpack[MonitorArguments]) -> Settings:
    """Check and resolve `MonitorArguments`, with what a configuration file and the environment state.

    Raises `SpecError`, `FootprintError` or `WatchError`, which name the argument and the value, and `TypeError` for an
    argument that does not exist.
    """
    _check_arguments(arguments)
    configured = read_configuration(os.environ)
    given = dict(arguments)
    try:
        return _resolved(cast(MonitorArguments, merged(given, configured)), given, configured)
    except CarbonPluginError as error:
        placed = at_its_place(error, configured) if configured.values else error
        raise placed from (None if placed is error else error)


def check_configured(configured: Configured) -> None:
    """Raise the error that a run with this configuration and no arguments raises. No cloud is asked for its place."""
    try:
        _resolved(cast(MonitorArguments, merged({}, configured)), {}, configured, asks_cloud=False)
    except CarbonPluginError as error:
        placed = at_its_place(error, configured)
        raise placed from (None if placed is error else error)


def _resolved(
    arguments: MonitorArguments, given: Mapping[str, Any], configured: Configured, *, asks_cloud: bool = True
) -> Settings:
    site, planned, programme = arguments.get("site"), arguments.get("planned"), arguments.get("programme")
    run_dir, name, role = arguments.get("run_dir"), arguments.get("name"), arguments.get("role")
    stated_window_s = arguments.get("window_s")
    window_s = WINDOW_S if stated_window_s is None else stated_window_s
    _check_value("role", role, Role | None)
    options = _options(arguments.get("options"))
    forecast = load_forecast(Path(planned)) if isinstance(planned, str | Path) else planned
    place, notes = _located(_site(site)) if asks_cloud else (_site(site), ())
    place = _as_planned(place, forecast.spec.site if forecast else None)
    in_force = place or (forecast.spec.site if forecast else None)
    if in_force is not None and in_force.zone != AUTO_ZONE:
        # An unknown zone or a missing token must raise now and not after a week.
        resolve_factors(in_force, None)
        check_live(in_force, os.environ)
    _check_numbers(arguments, window_s, options)
    address = chosen_address(arguments.get("node_meter"), os.environ)
    if address is not None:
        load_source(address)
    plan = forecast.spec if forecast else None
    price = plan.price_usd_per_device_hour if plan else None
    budget = _budget(arguments.get("budget"), price=price, has_site=in_force is not None)
    alerts = _alerts(arguments.get("alerts"))
    return Settings(
        name=_file_name(name or (plan.name if plan else Path(sys.argv[0] or "run").stem)),
        run_dir=None if run_dir is None else Path(run_dir),
        declared=_declared(arguments, options, place),
        forecast=forecast,
        programme=programme or (plan.programme if plan else None),
        role=role or (plan.role if plan else None),
        window_s=window_s,
        node_meter=address,
        options=options,
        loggers=loggers_of(arguments.get("log")),
        step=arguments.get("step"),
        quiet=bool(arguments.get("quiet")),
        budget=budget,
        alerts=alerts,
        price_usd_per_device_hour=price,
        configuration=effective(given, configured, DEFAULTS),
        notes=notes,
        tags=_tags(arguments.get("tags")),
    )


def _check_numbers(arguments: MonitorArguments, window_s: float, options: MonitorOptions) -> None:
    """Raise `SpecError` for a number of steps, tokens or seconds that cannot be."""
    steps, tokens = arguments.get("total_steps"), arguments.get("tokens_per_step")
    for argument, value in (("total_steps", steps), ("tokens_per_step", tokens)):
        if value is not None and value < 1:
            raise SpecError(f"{argument} is {value}, expected a positive integer")
    step = arguments.get("step")
    if step is not None and step < 0:
        raise SpecError(f"step is {step}, expected the optimizer steps that were done before, 0 or more")
    if not options.min_window_s > 0:
        raise SpecError(f"options.min_window_s is {options.min_window_s:g}, expected a positive number of seconds")
    if not options.min_window_s <= window_s:
        raise SpecError(f"window_s is {window_s}, expected at least {options.min_window_s:g} seconds")


def _declared(arguments: MonitorArguments, options: MonitorOptions, site: Site | None) -> Declared:
    """Return what the script declares, with names of models, accelerators and nodes looked up."""
    layout, model, accelerator = arguments.get("layout"), arguments.get("model_spec"), arguments.get("accelerator")
    fields = msgspec.structs.asdict(layout) if isinstance(layout, ParallelLayout) else dict(layout or {})
    _check_fields("layout", fields, ParallelLayout)
    _check_fields("training", options.training, TrainingPlan)
    if isinstance(model, str):
        model = choose_model(Document({"model": model}, "model_spec", {}), Path())
    return Declared(
        layout=fields,
        training=options.training,
        model=model,
        accelerator=load_accelerator(accelerator) if isinstance(accelerator, str) else accelerator,
        node=load_node(options.node) if isinstance(options.node, str) else options.node,
        site=site,
        stack=options.stack,
        total_steps=arguments.get("total_steps"),
        tokens_per_step=arguments.get("tokens_per_step"),
    )


def _tags(stated: Mapping[str, str] | None) -> dict[str, str]:
    """Return who is responsible for the run, as far as it is stated or the scheduler reports it. Raises `SpecError`."""
    found = {tag: value for tag, variable in _SLURM_TAGS.items() if (value := os.environ.get(variable))}
    if stated:
        fields = decode(Document({"tags": dict(stated)}, "arguments", {}), TagFields, ("tags",))
        found |= {tag: value for tag, value in structs.asdict(fields).items() if value}
    return found


def _check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raise `TypeError` for an argument that `MonitorArguments` does not list, and `SpecError` for one of another type
    than it names.

    The site, the role and the loggers are checked by other functions.
    """
    hints = get_type_hints(MonitorArguments, localns=ARGUMENT_TYPES)
    for argument, given in arguments.items():
        if argument in MonitorOptions.__struct_fields__:
            raise TypeError(f"there is no argument {argument!r}; it is a field of options={{{argument!r}: ...}}")
        if argument not in hints:
            near = get_close_matches(argument, hints, n=1)
            raise TypeError(
                f"there is no argument {argument!r}{f', did you mean {near[0]!r}?' if near else ''}; "
                "help(carbon_plugin.watch) lists all"
            )
        if given is None or argument in _CHECKED_ELSEWHERE:
            continue
        members = get_args(hints[argument]) or (hints[argument],)
        kinds = [get_origin(member) or member for member in members if member is not type(None)]
        if float in kinds:
            kinds.append(int)
        mistaken = isinstance(given, bool) and bool not in kinds  # Python counts True as the number 1
        if mistaken or not isinstance(given, tuple(kinds)):
            raise SpecError(f"{argument} is {given!r}, expected {' or '.join(kind.__name__ for kind in kinds)}")


def _site(site: Site | Mapping[str, Any] | str | None) -> Site | None:
    """Return the site of its zone, or of the fields that a spec file's `site:` or a `Site` has."""
    if site is None:
        return None
    # A `Site` that a script made has fields of whatever type: they are checked as those of a mapping are.
    fields = {"zone": site} if isinstance(site, str) else structs.asdict(site) if isinstance(site, Site) else site
    if not isinstance(fields, Mapping):
        raise SpecError(f"site is {site!r}, expected a zone, a Site or a mapping of its fields")
    return decode(Document({"site": dict(fields)}, "arguments", {}), Site, ("site",))


def _located(site: Site | None) -> tuple[Site | None, tuple[tuple[str, str], ...]]:
    """Return the site with the zone that a cloud reports, where the site asks for that, and the events to record about
    it.

    Without an answer there is no site, which is said, and no training fails for it.
    """
    if site is None or site.zone != AUTO_ZONE:
        return site, ()
    from carbon_plugin.footprint.live.cloud import find_region

    found = find_region(os.environ)
    (logger.info if found.zone else logger.warning)("carbon_plugin: %s", found.said)
    return (msgspec.structs.replace(site, zone=found.zone) if found.zone else None), (("site_auto", found.said),)


def _as_planned(site: Site | None, planned: Site | None) -> Site | None:
    """Return the planned site where the script names its zone and nothing else.

    A bare zone says where the run is, and not that the PUE or the contracts that the plan states for that place no
    longer hold: defaults would silently take their place.
    """
    if site is None or planned is None or site.zone is None or site != Site(zone=site.zone):
        return site
    here, there = ((find(zone), cloud_region(zone)) for zone in (site.zone, planned.zone))
    return planned if here == there and here[0] is not None else site


def _budget(
    budget: CarbonBudget | Mapping[str, Any] | None, *, price: float | None, has_site: bool
) -> CarbonBudget | None:
    """Return the budget. Raises `SpecError` for one that can never be compared with anything."""
    if budget is None:
        return None
    if isinstance(budget, Mapping):
        fields = {name: value for name, value in budget.items() if value is not None}
        unknown = next((name for name in fields if name not in CarbonBudget.__struct_fields__), None)
        if unknown is not None:
            raise unknown_name("budget field", str(unknown), CarbonBudget.__struct_fields__)
        budget = CarbonBudget(**fields)
    if not isinstance(budget, CarbonBudget):
        raise SpecError(f"budget is {budget!r}, expected a CarbonBudget or a mapping of its fields")
    if budget.emissions_kg is not None and not has_site:
        raise SpecError("budget: emissions_kg needs a site, which tells the carbon of the energy: pass site='FRA'")
    if budget.cost is not None and budget.price_usd_per_device_hour is None and price is None:
        raise SpecError("budget: cost needs a price: pass price_usd_per_device_hour, or a plan that states it")
    return budget


def _options(options: MonitorOptions | Mapping[str, Any] | None) -> MonitorOptions:
    """Return the options themselves, or make them from the fields that a configuration states."""
    if options is None or isinstance(options, MonitorOptions):
        return options or MonitorOptions()
    fields = {name: value for name, value in options.items() if value is not None}
    return decode(Document({"options": fields}, "arguments", {}), MonitorOptions, ("options",))


def _alerts(alerts: AlertRules | Mapping[str, Any] | bool | None) -> AlertRules | None:
    """Return the rules of alerts, or None where none are to be raised."""
    if isinstance(alerts, Mapping):
        fields = {name: value for name, value in alerts.items() if value is not None}
        unknown = next((name for name in fields if name not in AlertRules.__struct_fields__), None)
        if unknown is not None:
            raise unknown_name("alerts field", str(unknown), AlertRules.__struct_fields__)
        return AlertRules(**fields)
    if alerts is None or isinstance(alerts, bool):
        return None if alerts is False else AlertRules()
    if not isinstance(alerts, AlertRules):
        raise SpecError(f"alerts is {alerts!r}, expected AlertRules, a mapping of its fields, or true or false")
    return alerts


def _check_fields(section: str, fields: Mapping[str, Any], struct: type[Struct]) -> None:
    kinds = {field.name: field.type for field in msgspec.structs.fields(struct)}
    for name, value in fields.items():
        if name not in kinds:
            raise unknown_name(f"{section} field", name, kinds)
        _check_value(f"{section}.{name}", value, kinds[name])
        # Fields are checked together once live objects were read; a value below its minimum is wrong in any case.
        count = kinds[name] in (int, int | None)
        if type(value) in (int, float) and not value >= (1 if count else 0):
            expected = "a positive integer" if count else "a number of at least 0"
            raise SpecError(f"{section}.{name} is {value}, expected {expected}")


def _check_value(name: str, value: Any, kind: Any) -> None:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise SpecError(f"{name} is {value!r}, expected {describe(kind)}") from error


def _file_name(name: str) -> str:
    """Return the name with every letter replaced that is not safe in the name of a directory."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name).strip(".-") or "run"
