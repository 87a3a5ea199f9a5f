"""Derive the overview of a run from its files: attempts and gaps, steps, coverage of nodes and GPUs, and what was
trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from carbon_plugin.audit.findings.run import Attempt, Coverage, Gap, Period, Progress, Work
from carbon_plugin.audit.tally.account.reservations import Interval, union
from carbon_plugin.audit.tally.collect import RunCollector
from carbon_plugin.audit.tally.documents import PredictionDocument
from carbon_plugin.audit.tally.file_pass import FilePass
from carbon_plugin.ledger.files import writer_name
from carbon_plugin.ledger.held.claims import TOLERANCE_S
from carbon_plugin.ledger.held.expected import LEFT, NOT_SEEN_EVENT, expected_gpus
from carbon_plugin.ledger.held.holdings import covered_s
from carbon_plugin.ledger.records import Manifest
from carbon_plugin.spec.numbers.amounts import plural

TOGETHER_S = 1.0
"""Two ledgers of a host that overlap for longer were written side by side, because a new leader begins only when the
one before is lost."""


def leading_manifest(files: Sequence[FilePass]) -> Manifest:
    """Return the manifest that represents the run: in the latest launch, that of the node with the lowest number, from
    its last leader.
    """
    latest = max(file.context.launch for file in files)
    manifests = [file.manifest for file in files if file.context.launch == latest]
    return max(manifests, key=lambda manifest: (-manifest.node, manifest.attempt))


def _by_launch(files: Sequence[FilePass]) -> Mapping[int, list[FilePass]]:
    """Return the files by launch of the job.

    Each node counts its own attempts, so the numbers differ where nodes come and go.
    """
    launches: dict[int, list[FilePass]] = {}
    for file in files:
        launches.setdefault(file.context.launch, []).append(file)
    return dict(sorted(launches.items()))


def _longest(files: Sequence[FilePass]) -> list[FilePass]:
    """Return the files of the node that took part for the longest time. One node is enough, because every node counts
    the steps of the whole job.

    A node has several files where one leader followed another.
    """
    writers: dict[str, list[FilePass]] = {}
    for file in files:
        writers.setdefault(writer_name(file.file), []).append(file)
    return max(writers.values(), key=lambda group: sum(file.steps for file in group))


def period_of(collected: RunCollector) -> Period:
    """Return the time of the run, attempt by attempt."""
    extents = [file.extent for file in collected.files]
    covered, held = union(extents), _held(collected.files)
    start_s, end_s = covered[0][0], covered[-1][1]
    gaps = [
        Gap(start_unix_s=before[1], duration_s=after[0] - before[1])
        for before, after in pairwise(held)
        if after[0] - before[1] > TOLERANCE_S
    ]
    attempts = [_attempt(number, files) for number, files in _by_launch(collected.files).items()]
    return Period(
        start_unix_s=start_s,
        end_unix_s=end_s,
        wall_s=end_s - start_s,
        active_s=covered_s(extents),
        attempts=attempts,
        gaps=gaps,
        stalled_s=sum(
            file.stalls.total_s for files in _by_launch(collected.files).values() for file in _longest(files)
        ),
    )


def _held(files: Sequence[FilePass]) -> list[Interval]:
    return union((file.extent[0] - _reserved_before_s(file.manifest), file.extent[1]) for file in files)


def _reserved_before_s(manifest: Manifest) -> float:
    """Return for how long the devices of a file had been reserved when the file began, s."""
    since_s = manifest.reserved_since_unix_s
    return 0.0 if since_s is None else max(0.0, manifest.started_unix_s - since_s)


def _attempt(number: int, files: Sequence[FilePass]) -> Attempt:
    longest = _longest(files)
    reasons = sorted({file.closed for file in files if file.closed is not None})
    return Attempt(
        attempt=number,
        start_unix_s=min(file.extent[0] for file in files),
        end_unix_s=max(file.extent[1] for file in files),
        nodes=len({file.manifest.node for file in files}),
        world_size=max(file.manifest.world_size for file in files),
        steps=sum(file.steps for file in longest),
        last_step=max(file.last_step for file in files),
        redone_steps=sum(file.redone_steps for file in longest),
        ended=", ".join(reasons) if all(file.closed is not None for file in files) else None,
    )


def progress_of(files: Sequence[FilePass], manifest: Manifest) -> Progress:
    """Return steps and tokens of the job. `manifest` says how many steps it was to take."""
    longest = [file for group in _by_launch(files).values() for file in _longest(group)]
    return Progress(
        steps=sum(file.steps for file in longest),
        last_step=max(file.last_step for file in files),
        total_steps=manifest.total_steps,
        tokens=sum(file.tokens for file in longest) or None,
        tokens_source=_tokens_source(longest),
    )


def _tokens_source(files: Sequence[FilePass]) -> str:
    """Return in words how tokens were counted: by the script at each step, or as steps times a fixed number."""
    if not any(file.tokens for file in files):
        return "not recorded"
    if any(file.tokens != file.steps * (file.manifest.tokens_per_step or 0) for file in files):
        said = {words for file in files if (words := _counted_by(file.manifest)) is not None}
        return "; ".join(["counted step by step", *sorted(said)])
    said = {_tokens_of_a_step(file.manifest) for file in files if file.tokens}
    return "; ".join(f"steps times {words}" for words in sorted(said))


def _counted_by(manifest: Manifest) -> str | None:
    entry = manifest.effective.get("tokens")
    source = entry.get("source") if isinstance(entry, Mapping) else None
    return None if source is None else str(source).removeprefix("detected: ")


def _tokens_of_a_step(manifest: Manifest) -> str:
    entry = manifest.effective.get("tokens_per_step")
    source = entry.get("source") if isinstance(entry, Mapping) else None
    return f"{manifest.tokens_per_step:,}" + (f" ({source})" if source else "")


def coverage_of(collected: RunCollector) -> Coverage:
    """Return how many nodes and GPUs there should be, and how many of them the ledgers name."""
    manifests = [file.manifest for file in collected.files]
    nodes = max(1, *(manifest.nodes for manifest in manifests))
    nodes_seen = min(nodes, len({manifest.node for manifest in manifests}))
    sums = collected.by_device()
    units = {key: device.identity.units for key, device in collected.devices.items() if device.identity.rung == "gpu"}
    # A stand-in for GPUs that were metered later is no longer in a manifest.
    named = {device.key for manifest in manifests for device in manifest.devices}
    seen = [key for key in units if key in named]
    measured = [key for key in seen if any(one.seconds[0] > 0 for one in sums.get(key, ()))]
    launches = [[file.manifest for file in files] for files in _by_launch(collected.files).values()]
    expected = [expected_gpus(manifests) for manifests in launches]
    most_missing = max(expected, key=lambda launch: launch.missing)
    # Missing nodes are taken to have as many GPUs as the others. GPUs count by launch, because a restart on other hosts
    # brings new ones.
    at_once = max(
        launch.gpus / len({manifest.node for manifest in manifests})
        for launch, manifests in zip(expected, launches, strict=True)
    )
    gpus = max(len(seen) + most_missing.missing, round(at_once * nodes))
    return Coverage(
        nodes=nodes,
        nodes_seen=nodes_seen,
        gpus=gpus,
        gpus_seen=len(seen),
        gpus_measured=len(measured),
        gpu_slices=sum(unit < 1 for unit in units.values()),
        whole_gpus=gpus * sum(units.values()) / len(units) if units else 0.0,
        gpus_missing=most_missing.missing,
        missing=[launch.sentence for launch in expected if launch.sentence is not None],
        overlaps=collected.claims.overlaps,
        clock_offsets_s={
            file.file: file.context.clock_offset_s for file in collected.files if file.context.clock_offset_s
        },
        side_by_side=_side_by_side(collected.files),
        gpus_without_rank=max(launch.without_rank for launch in expected),
        ranks_unheard=max(launch.unheard_ranks for launch in expected),
    )


def _side_by_side(files: Sequence[FilePass]) -> list[str]:
    """Return the names of ledgers that were written at the same time for one place in a job, by two jobs or by two
    launches of one job.

    The clocks of two hosts may differ, so that a restart on another host seems to begin before the end of the earlier
    launch. What a process metered of GPUs that it left to local rank 0 is in a ledger beside its own.
    """
    found: set[str] = set()
    writers: dict[str, list[FilePass]] = {}
    for file in files:
        if file.closed != LEFT:
            writers.setdefault(writer_name(file.file), []).append(file)
    for group in writers.values():
        longest: FilePass | None = None  # the one of the files before that ends last
        for file in sorted(group, key=lambda file: file.extent):
            if longest is not None:
                (start_s, end_s), (began_s, until_s) = longest.extent, file.extent
                together_s = min(end_s, until_s) - began_s
                same_host = longest.manifest.host_key == file.manifest.host_key
                if together_s > (TOGETHER_S if same_host else min(end_s - start_s, until_s - began_s) / 2):
                    found |= {longest.file, file.file}
            if longest is None or file.extent[1] > longest.extent[1]:
                longest = file
    return sorted(found)


def work_of(collected: RunCollector, manifest: Manifest, prediction: PredictionDocument | None) -> Work:
    """Return what was trained on what hardware, from the effective spec, the devices in the ledgers and the FLOPs of
    the prediction.
    """
    parameters, planned = _effective(manifest, "model.parameters"), _effective(manifest, "model.parameters", "planned")
    fraction = _effective(manifest, "model.trainable_fraction")
    return Work(
        model=_effective(manifest, "model.name"),
        parameters=int(parameters) if isinstance(parameters, int | float) else None,
        planned_parameters=int(planned) if isinstance(planned, int | float) and planned != parameters else None,
        trainable_fraction=float(fraction) if isinstance(fraction, int | float) else None,
        precision=_effective(manifest, "training.precision"),
        hardware=_hardware(collected, manifest),
        model_flops_per_step=prediction.model_flops_per_step if prediction else None,
        hardware_flops_per_step=prediction.hardware_flops_per_step if prediction else None,
        attention_convention=prediction.attention_convention if prediction else None,
    )


def _hardware(collected: RunCollector, manifest: Manifest) -> str:
    """Return the hardware in words. GPUs that only a plan names are not said to have been used."""
    gpus = [seen.identity.name for seen in collected.devices.values() if seen.identity.rung == "gpu"]
    if gpus:
        return ", ".join(f"{gpus.count(name)} x {name}" for name in sorted(set(gpus)))
    accelerator = _effective(manifest, "cluster.accelerator")
    if NOT_SEEN_EVENT in collected.event_counts:
        return f"{plural(manifest.world_size, 'rank')} without a GPU that was seen (planned on {accelerator})"
    return f"{manifest.world_size} x {accelerator or 'CPU rank'}"


def _effective(manifest: Manifest, field: str, what: str = "value") -> Any:
    """Return the value of a field of the effective spec, or the planned one, or None if it is not known."""
    entry = manifest.effective.get(field)
    return entry.get(what) if isinstance(entry, Mapping) else entry
