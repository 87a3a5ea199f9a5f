"""Pass over all ledgers of a run, in as many processes as their size justifies. `audit.summary` draws the conclusions.

Files that name the same device stay together, because each joule counts once. Everything else is added up separately
and merged. If the process of a part fails, this process does that part again.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from carbon_plugin.audit.tally.collect import RunCollector
from carbon_plugin.audit.tally.file_pass import FileContext
from carbon_plugin.errors import LedgerError
from carbon_plugin.ledger.held.copies import copies_among
from carbon_plugin.ledger.held.launches import clock_offsets, earlier_steps, launches_of
from carbon_plugin.ledger.held.outline import Outline, outline_of, own_opening
from carbon_plugin.ledger.verification.file_check import CheckedLedger, PassedLedger
from carbon_plugin.ledger.verification.verify import wanted_chains
from carbon_plugin.spec.numbers.amounts import plural, verb

PROCESS_BYTES = 64 << 20
"""A process is worth this many bytes of ledgers. It takes a third of a second to start, as long as to read half of
them."""
MAX_PROCESSES = 8
"""The limit holds on any number of processors, because an audit is often made on a machine that others work on."""

_log = logging.getLogger(__name__)

_Process = subprocess.Popen[bytes]


class FilesToPass(Struct, frozen=True, kw_only=True):
    """Files that a collector adds up in the order of their start. `wanted` are chain heads to look for."""

    files: list[tuple[Path, FileContext]]
    run_id: str | None
    origin_unix_s: float
    wanted: frozenset[str]
    collector: type[RunCollector] = RunCollector


class Passed(Struct, frozen=True):
    """The sums over some files, and what the pass has found in each file."""

    collected: RunCollector
    ledgers: list[PassedLedger]


def pass_over(
    paths: Sequence[Path],
    run_id: str | None,
    anchors: Sequence[str] = (),
    processes: int | None = None,
    collector: type[RunCollector] = RunCollector,
) -> Passed:
    """Return the sums over the ledgers of a run, at least one, in the order of their start.

    `anchors` are chain heads to look for on the way. `processes` is the number of processes; by default it follows from
    the size of the ledgers. `collector` is the class that adds up. Raises `LedgerError` if a ledger cannot be read or
    is of an unknown version, and if none begins with the manifest that says what was measured.
    """
    if len(paths) == 1:
        passed = _alone(paths[0], run_id, anchors, collector)
    else:
        passed = _together(paths, run_id, anchors, processes, collector)
    passed.collected.finish()
    if not passed.collected.files:
        raise LedgerError(_nothing_known(paths[0].parent, passed.ledgers))
    return passed


def _nothing_known(directory: Path, ledgers: Sequence[PassedLedger]) -> str:
    """Return which file lacks its manifest, why, and what helps. All of the ledgers lack theirs."""
    first, *more = (ledger.check for ledger in ledgers)
    found = first.problems[:1] or first.notes[-1:]
    others = f", and {plural(len(more), 'other file')} {verb(len(more), 'lacks its', 'lack their')} manifest too"
    return (
        f"{directory / first.file}: {found[0] if found else 'its manifest cannot be read'}{others if more else ''}; no "
        "ledger here begins with a manifest, so nothing can be said of this run. Put whole copies of the files back, "
        "from a backup or from where they were copied"
    )


def _together(
    paths: Sequence[Path],
    run_id: str | None,
    anchors: Sequence[str],
    processes: int | None,
    collector: type[RunCollector],
) -> Passed:
    """Return the sums over several ledgers of a run."""
    outlines = {path: outline for path in paths if (outline := outline_of(path)) is not None}
    offsets_s = clock_offsets(list(outlines.values()))
    paths = sorted(paths, key=lambda path: _started_s(outlines.get(path), offsets_s))
    copies = copies_among((path.name, outlines[path].fingerprint) for path in paths if path in outlines)
    if copies:
        outlines = {path: outline for path, outline in outlines.items() if path.name not in copies}
        offsets_s = clock_offsets(list(outlines.values()))
    contexts = _contexts(paths, list(outlines.values()), offsets_s, copies)
    wanted = wanted_chains(paths, anchors)
    first = outlines.get(paths[0])

    def part(chosen: Sequence[Path]) -> FilesToPass:
        return FilesToPass(
            files=[(path, contexts[path]) for path in chosen],
            run_id=run_id,
            origin_unix_s=_started_s(first, offsets_s) if first else 0.0,
            wanted=wanted,
            collector=collector,
        )

    if processes is None:
        processes = _processes(sum(outline.size_bytes for outline in outlines.values()))
    parts = [part(chosen) for chosen in _split(paths, outlines, processes)]
    passed = (len(parts) > 1 and _merged(_side_by_side(parts))) or add_up(part(paths))
    order = {path.name: number for number, path in enumerate(paths)}
    return Passed(passed.collected, sorted(passed.ledgers, key=lambda ledger: order[ledger.check.file]))


def _alone(path: Path, run_id: str | None, anchors: Sequence[str], collector: type[RunCollector]) -> Passed:
    """Return the sums over the only ledger of a run. It needs no comparison with others, so it is read only once."""
    opening = own_opening(path)
    part = FilesToPass(
        files=[(path, FileContext(order=0, spans=opening is not None))],
        run_id=run_id,
        origin_unix_s=opening.started_unix_s if opening else 0.0,
        wanted=frozenset(anchors),
        collector=collector,
    )
    return add_up(part)


def add_up(part: FilesToPass) -> Passed:
    """Return the sums over the files of a part, computed in this process."""
    collected = part.collector(part.origin_unix_s)
    ledgers = []
    for path, context in part.files:
        ledger = CheckedLedger(path, part.run_id, part.wanted)
        collected.add(ledger, context)
        ledgers.append(ledger.passed)
    return Passed(collected, ledgers)


def _started_s(outline: Outline | None, offsets_s: Mapping[str, float]) -> float:
    return math.inf if outline is None else outline.started_unix_s - offsets_s[outline.path.name]


def _contexts(
    paths: Sequence[Path], outlines: Sequence[Outline], offsets_s: Mapping[str, float], copies: Collection[str]
) -> dict[Path, FileContext]:
    launches = launches_of(outlines, offsets_s)
    steps = earlier_steps(outlines, launches)
    # Nodes wait for each other, so the leaders of the lowest node, one after the other, stand for all of a launch.
    standing: dict[int, tuple[int, str]] = {}
    for outline in outlines:
        launch = launches[outline.path.name]
        standing[launch] = min(standing.get(launch, outline.series), outline.series)
    spans = {outline.path for outline in outlines if standing[launches[outline.path.name]] == outline.series}
    return {
        path: FileContext(
            order=order,
            resumed_at_step=steps.get(path.name, 0),
            clock_offset_s=offsets_s.get(path.name, 0.0),
            launch=launches.get(path.name, 0),
            spans=path in spans,
            copied=path.name in copies,
        )
        for order, path in enumerate(paths)
    }


def _processes(size_bytes: int) -> int:
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(here, MAX_PROCESSES, size_bytes // PROCESS_BYTES))


def _split(paths: Sequence[Path], outlines: Mapping[Path, Outline], count: int) -> list[list[Path]]:
    """Return at most `count` lists of about the same size, each in the order of the files. Each device is in only one
    of them.
    """
    if count < 2:
        return [list(paths)]
    groups = _groups(paths, outlines)
    sizes = [0] * count
    parts: list[list[Path]] = [[] for _ in range(count)]

    def size(group: list[Path]) -> int:
        return sum(outlines[path].size_bytes for path in group if path in outlines)

    for group in sorted(groups, key=size, reverse=True):
        smallest = sizes.index(min(sizes))
        parts[smallest] += group
        sizes[smallest] += size(group)
    order = {path: number for number, path in enumerate(paths)}
    return [sorted(part, key=order.__getitem__) for part in parts if part]


def _groups(paths: Sequence[Path], outlines: Mapping[Path, Outline]) -> list[list[Path]]:
    """Return groups of files that name a common device, directly or through other files."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    devices = {path: outlines[path].devices if path in outlines else () for path in paths}
    for keys in devices.values():
        for key in keys:
            parent[root(key)] = root(keys[0])
    groups: dict[str, list[Path]] = {}
    for path, keys in devices.items():
        groups.setdefault(root(keys[0]) if keys else path.name, []).append(path)
    return list(groups.values())


def _side_by_side(parts: Sequence[FilesToPass]) -> list[Passed]:
    """Add up the first part in this process, and each other part in a process of its own."""
    workers = [_start(part) for part in parts[1:]]
    try:
        own = add_up(parts[0])
        return [own, *(_result(worker) or add_up(part) for worker, part in zip(workers, parts[1:], strict=True))]
    finally:
        for worker in filter(None, workers):
            with worker:
                worker.kill()


def _start(part: FilesToPass) -> _Process | None:
    """Start a process that adds up a part, and return it, or None where no process can be started.

    It is a plain process and not a pool of `multiprocessing`, which would run the caller's script again.
    """
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "carbon_plugin.audit.tally.worker"]
    try:
        with tempfile.TemporaryFile() as task:
            pickle.dump(part, task)
            task.seek(0)
            return subprocess.Popen(command, stdin=task, stdout=subprocess.PIPE, env=environ)
    except OSError as error:
        _log.warning("audit: there is no second process (%s), so it takes longer", error)
        return None


def _result(worker: _Process | None) -> Passed | None:
    if worker is None:
        return None
    output, _ = worker.communicate()
    try:
        passed: Passed = pickle.loads(output)
    except (pickle.UnpicklingError, EOFError) as error:
        status = worker.returncode
        _log.warning("audit: a process ended with status %d (%s); its part is done again here", status, error)
        return None
    return passed


def _merged(parts: Sequence[Passed]) -> Passed | None:
    """Return all parts as one, or None if two parts have added up the same device although the first lines of their
    files did not name it.
    """
    first, *others = parts
    ledgers = list(first.ledgers)
    for other in others:
        try:
            first.collected.merge(other.collected)
        except ValueError as error:
            _log.warning("audit: %s; all is added up again in one process", error)
            return None
        ledgers += other.ledgers
    return Passed(first.collected, ledgers)
