"""`carbon-plugin doctor`: say what can be measured on this machine and what will be modelled."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from msgspec import Struct

from carbon_plugin.cli.options import AsJson, Option
from carbon_plugin.cli.tables.doctor_host import Finding, FindingState, boundary, host, unavailable
from carbon_plugin.cli.terminal import echo, echo_json
from carbon_plugin.spec.numbers.amounts import percent, plural

if TYPE_CHECKING:
    from carbon_plugin.meters.gpu.driver import GpuVendor
    from carbon_plugin.meters.meter_set import MeterSet
    from carbon_plugin.meters.protocol import Reading
    from carbon_plugin.spec.hardware.cluster import Accelerator, Node
    from carbon_plugin.spec.metered import DeviceIdentity


class Diagnosis(Struct, frozen=True, kw_only=True):
    """Holds all findings of `doctor`, and the devices as a ledger would list them."""

    plugin_version: str
    host_key: str
    hostname: str
    findings: list[Finding]
    devices: list[DeviceIdentity]


def doctor(
    node_meter: Annotated[
        str | None,
        Option("Try this meter of the whole node, for instance redfish://bmc7 or ipmi."),
    ] = None,
    site: Annotated[
        str | None, Option("Look up this zone, for instance FRA, egrid:SRVC or gcp:us-central1.", metavar="ZONE")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what can be measured on this machine, what will be modelled, and what to do about it."""

    diagnosis = diagnose(node_meter, site)
    if as_json:
        echo_json(diagnosis)
        return
    for area in dict.fromkeys(finding.area for finding in diagnosis.findings):
        echo(area)
        for finding in diagnosis.findings:
            if finding.area == area:
                echo(f"  {finding.state:<9} {finding.text}")
                if finding.advice:
                    echo(f"  {'':<9} -> {finding.advice}")
        echo("")


def diagnose(
    node_meter: str | None = None, zone: str | None = None, environ: Mapping[str, str] = os.environ
) -> Diagnosis:
    """Open the meters as a run does, read them once and describe what they answer.

    Takes well under a second, or some seconds if a node meter does not answer. Raises `SpecError` for the address of a
    node meter that cannot be used, and `FootprintError` for an unknown zone.
    """
    from importlib.metadata import version

    from carbon_plugin.meters.node.address import chosen_address
    from carbon_plugin.meters.open import KnownHardware, open_meters

    location = _location(zone)
    accelerator, node, profile_findings = _profiles()
    address = chosen_address(node_meter, environ)
    meters = open_meters(
        known=KnownHardware(accelerator=accelerator, node_profile=node), node_address=address, environ=environ
    )
    try:
        readings = {reading.key: reading for reading in meters.read()}
        findings = [
            *_gpus(meters, readings, environ),
            *profile_findings,
            *host(meters, readings, node_metered=address is not None),
            *boundary(meters.devices),
            *_machine(meters),
            *_software(meters, environ),
            location,
        ]
        return Diagnosis(
            plugin_version=version("carbon-plugin"),
            host_key=meters.host.key,
            hostname=meters.host.hostname,
            findings=findings,
            devices=meters.devices,
        )
    finally:
        meters.close()


def _profiles() -> tuple[Accelerator | None, Node | None, list[Finding]]:
    """Return the profiles of the first GPU of this machine and of its node, and what was found about all of them."""
    from carbon_plugin.errors import CarbonPluginError
    from carbon_plugin.meters.gpu.driver import Inventory
    from carbon_plugin.meters.gpu.open import list_gpus
    from carbon_plugin.spec.hardware.profiles import default_node_for, match_device_name

    listed = list_gpus()
    names = list(dict.fromkeys(gpu.name for gpu in listed.gpus)) if isinstance(listed, Inventory) else []
    try:
        found = {name: match_device_name(name) for name in names}
        findings = [_profile_finding(name, profile) for name, profile in found.items()]
        accelerator = next((profile for profile in found.values() if profile is not None), None)
        return accelerator, default_node_for(accelerator) if accelerator else None, findings
    except CarbonPluginError as error:
        return None, None, [Finding(area="GPUs", state="missing", text=f"hardware profiles cannot be read: {error}")]


def _profile_finding(name: str, profile: Accelerator | None) -> Finding:
    if profile is not None:
        return Finding(area="GPUs", state="note", text=f"{name} has the hardware profile {profile.name}")
    return Finding(
        area="GPUs",
        state="missing",
        text=f"{name} has no hardware profile: its energy is measured, but step time cannot be predicted",
        advice="write one with 'carbon-plugin probe', or name a similar device with accelerator: in the run spec",
    )


def _gpus(meters: MeterSet, readings: Mapping[str, Reading], environ: Mapping[str, str]) -> list[Finding]:
    from carbon_plugin.meters.gpu.vendors import gpu_vendors

    by_vendor = [(vendor, unavailable(meters, vendor.code, "GPUs")) for vendor in gpu_vendors()]
    problems = [finding for _, found in by_vendor for finding in found]
    if not meters.gpus.answers:
        return [*problems, *(_absent(vendor) for vendor, found in by_vendor if not found)]
    selection = meters.gpus.selection
    drivers = [f"{meter.vendor.maker} driver {meter.inventory.driver_version}" for meter in meters.gpus.meters]
    findings = [
        *problems,
        Finding(area="GPUs", state="note", text=f"{', '.join(drivers)}; reserved: {selection.reason}"),
        *(Finding(area="GPUs", state="note", text=sentence) for sentence in selection.assumptions),
        *(Finding(area="GPUs", state="missing", text=text) for _, text in meters.gpus.inventory.problems),
    ]
    findings += [
        _gpu(device, readings[device.key], meter.vendor.look_with)
        for meter in meters.gpus.meters
        for device in meter.devices
    ]
    findings += [Finding(area="GPUs", state="note", text=change.message) for change in meters.context_changes()]
    vendor = meters.gpus.meters[0].vendor
    library, variable = vendor.library, vendor.visible_devices[-1][0]
    others = len(meters.gpus.inventory.gpus) - round(meters.gpus.gpu_equivalents)
    if not meters.gpus.devices and others > 0:
        findings.append(
            Finding(
                area="GPUs",
                state="missing",
                text=f"none of the {others} GPUs that {library} shows is metered, because {selection.reason}",
                advice=f"set {variable} to the GPUs of the job, or unset it",
            )
        )
    return findings


def _absent(vendor: GpuVendor) -> Finding:
    """Return the finding that this machine shows no GPU of a vendor, which is no problem for a run."""
    return Finding(
        area="GPUs",
        state="missing",
        text=f"{vendor.maker} GPUs: this machine shows none, and its library {vendor.library} is not there",
        advice=f"normal without {vendor.maker} GPUs; else {vendor.advice['no_library']}",
    )


def _gpu(device: DeviceIdentity, reading: Reading, look_with: str) -> Finding:
    if device.energy_kind == "absent" or reading.kind == "absent":
        advice = f"see '{look_with}'; a lost GPU needs a reset or a reboot" if reading.fault == "lost" else None
        text = f"{device.name} {device.key}: {reading.message or device.note}"
        return Finding(area="GPUs", state="missing", text=text, advice=advice)
    how = {"counter": "by its energy counter", "power_integrated": "by integrating its power"}
    text = f"{device.name} {device.key}: {how.get(device.energy_kind, device.meter)}"
    if reading.power_w is not None:
        text += f", {reading.power_w:.0f} W now"
    if device.accuracy is not None:
        text += f", ±{percent(device.accuracy.proportional, 0)}"
        share = device.accuracy.sampled_share
        text += f" (its sensor looks {percent(share, 0)} of the time)" if share is not None else ""
    if device.note:
        text += f" ({device.note})"
    state: FindingState = "modelled" if device.energy_kind == "modelled" else "measured"
    return Finding(area="GPUs", state=state, text=text)


def _machine(meters: MeterSet) -> list[Finding]:
    host = meters.host
    text = (
        f"{host.hostname}: {host.cpu_name}, {plural(host.physical_cores, 'core')}, {host.allowed_cores:g} of "
        f"{host.logical_cores} logical CPUs allowed, {host.usable_memory_bytes * 1e-9:.0f} GB of memory"
    )
    findings = [Finding(area="Machine", state="note", text=text)]
    if host.boot_id is None:
        findings.append(
            Finding(
                area="Machine",
                state="missing",
                text="the kernel shows no boot id, so two containers on this host cannot know that they share it",
                advice="let the container read /proc/sys/kernel/random/boot_id",
            )
        )
    if host.container:
        text = f"inside a container ({host.container}): GPUs and counters of the host may be hidden"
        findings.append(Finding(area="Machine", state="note", text=text))
    if host.virtual_machine:
        text = "a virtual machine: its CPU and memory share a host that cannot be seen, so the host is modelled"
        findings.append(Finding(area="Machine", state="note", text=text))
    return findings


def _software(meters: MeterSet, environ: Mapping[str, str]) -> list[Finding]:
    from importlib.metadata import PackageNotFoundError, version

    findings = []
    try:
        # The metadata of the package holds the version, and importing torch takes seconds.
        torch = version("torch")
        advice = None
        if meters.gpus.devices and torch.endswith("+cpu"):
            advice = "this build runs on the CPU although there are GPUs: install a build for them"
        findings.append(Finding(area="Software", state="note", text=f"torch {torch}", advice=advice))
    except PackageNotFoundError:
        text = "torch is not installed: plan and audit work, callbacks and probe need it"
        findings.append(Finding(area="Software", state="missing", text=text))
    if environ.get("CARBON_PLUGIN_DISABLED") == "1":
        text = "CARBON_PLUGIN_DISABLED=1 is set: callbacks do nothing"
        findings.append(Finding(area="Software", state="missing", text=text, advice="unset it to measure"))
    return findings


def _location(zone: str | None) -> Finding:
    """Return the grid intensity of a zone, or that none was named. Raises `FootprintError` for an unknown zone."""
    if zone is None:
        return Finding(
            area="Location",
            state="missing",
            text="no zone is named, and none is ever assumed: energy is measured without one, carbon is not computed",
            advice="name the zone of the machine's grid: site: {zone: FRA} in the run spec, site='FRA' in the script, "
            "or --site FRA here to look it up; carbon-plugin list zones WORD finds a name",
        )
    from carbon_plugin.footprint.factors.grid import describe_basis
    from carbon_plugin.footprint.intensity import average_intensity
    from carbon_plugin.show import wording
    from carbon_plugin.spec.site import Site

    found = average_intensity(Site(zone=zone))
    figure = found.figure
    year = f" {found.year}" if found.year else ""
    counted = f", {describe_basis(found.basis)}" if found.basis else ""
    return Finding(
        area="Location",
        state="note",
        text=f"{found.zone_name}: {wording.plain(figure.value)} gCO2e/kWh ({wording.plain(figure.low)} to "
        f"{wording.plain(figure.high)}), {found.granularity}{year}{counted}; {figure.source}",
        advice="; ".join(found.notes) or None,
    )
