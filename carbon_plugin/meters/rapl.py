"""CPU and DRAM energy from RAPL, through the kernel's powercap files.

Reads package and dram domains, which do not overlap; core and uncore lie inside package, psys around everything,
so those stay out. Not covered by any of them: NICs, disks, fans, supply losses.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from carbon_plugin.meters.protocol import Reading, Unavailable
from carbon_plugin.meters.share import WHOLE, HostShare, ShareSource, fixed
from carbon_plugin.meters.track import Energy
from carbon_plugin.spec.devices import Accuracy, DeviceIdentity

POWERCAP = Path("/sys/class/powercap")

RAPL_SPREAD = 0.05
"""Half-range of a RAPL domain as p10-p90 (our convention; the counters carry no stated accuracy)."""

_MOST_W = 1000.0
"""No domain draws more; it decides how often a counter must be read so that it wraps at most once in between."""

_FOLDER = re.compile(r"(intel-rapl-mmio|intel-rapl):(\d+)(?::\d+)?")

_ADVICE = (
    "RAPL is readable by root only since CVE-2020-8694: have an administrator run "
    "'chmod a+r /sys/class/powercap/intel-rapl*/energy_uj' (again after each boot, or by a udev rule); "
    "in a container, mount /sys/class/powercap and /sys/devices/virtual/powercap too"
)


class Domain(Struct, frozen=True, kw_only=True):
    """One energy counter: `label` is "package-0" or "dram-0", `wrap_j` the joules at which it starts again."""

    folder: Path
    label: str
    scope: str
    wrap_j: float


class _Count(Struct, frozen=True, kw_only=True):
    """The counter as it stood, and the job's energy up to there."""

    raw_j: float
    energy: Energy


class RaplMeter:
    """Meter of a host's packages and DRAM. Make it with `open_rapl_meter`.

    `share` gives the part of the host's energy that is the job's. `poll_interval_s` keeps counters from wrapping twice.
    """

    poll_interval_s: float | None

    def __init__(
        self, domains: Sequence[Domain], host_key: str, share: ShareSource, note: str | None, clock: Callable[[], float]
    ) -> None:
        self.devices = [
            DeviceIdentity(
                key=f"{host_key}/rapl-{domain.label}",
                name=domain.label,
                rung="host",
                scope=domain.scope,
                meter="rapl energy counter",
                energy_kind="counter",
                note=note,
                accuracy=Accuracy(proportional=RAPL_SPREAD, age_s=0.001, source="convention of this project"),
            )
            for domain in domains
        ]
        self.poll_interval_s = min(domain.wrap_j for domain in domains) / _MOST_W
        self._pid = os.getpid()
        self._domains = list(domains)
        self._share = share
        self._clock = clock
        self._counts = [_Count(raw_j=_joules(domain), energy=Energy()) for domain in domains]
        self._closed = False

    def read(self) -> list[Reading]:
        """One reading a domain; none after `close` or in a forked child."""
        if self._closed or os.getpid() != self._pid:
            return []
        share = self._share()
        return [self._read(position, share) for position in range(len(self._domains))]

    def close(self) -> None:
        """Stop reading; no file is held open."""
        self._closed = True

    def _read(self, position: int, share: HostShare) -> Reading:
        domain, last = self._domains[position], self._counts[position]
        key, now_s = self.devices[position].key, self._clock()
        failure: OSError | ValueError | None = None
        try:
            raw_j = _joules(domain)
            # The counter wraps at max_energy_range_uj: the difference modulo that range is what was consumed.
            joules = (raw_j - last.raw_j) % domain.wrap_j
            charged = last.energy.plus(
                joules * share.value,
                joules * (1 - RAPL_SPREAD) * share.low,
                joules * (1 + RAPL_SPREAD) * share.high,
            )
            self._counts[position] = last = _Count(raw_j=raw_j, energy=charged)
        except (OSError, ValueError) as error:
            failure = error
        return Reading(
            key=key,
            monotonic_s=now_s,
            energy_j=last.energy.central_j,
            kind="counter" if failure is None else "absent",
            low_j=last.energy.low_j,
            high_j=last.energy.high_j,
            fault=None if failure is None else "permission" if isinstance(failure, PermissionError) else "lost",
            message=None if failure is None else f"{key} could not be read: {failure}",
        )


def open_rapl_meter(
    host_key: str,
    *,
    root: Path = POWERCAP,
    share: ShareSource | None = None,
    note: str | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> RaplMeter | Unavailable:
    """Open a meter on every package and dram domain below `root`, or say why there is none.

    `share` is the job's part of the host, all of it by default; `note` says how it was found.
    """
    domains = find_domains(root)
    if not any(domain.scope == "package" for domain in domains):
        return Unavailable(kind="rapl_absent", reason=f"no RAPL package counter below {root}", advice=_absence())
    try:
        return RaplMeter(domains, host_key, share or fixed(WHOLE), note, clock)
    except PermissionError as error:
        return Unavailable(kind="rapl_permission", reason=f"RAPL counters are not readable: {error}", advice=_ADVICE)
    except (OSError, ValueError) as error:
        return Unavailable(kind="rapl_error", reason=f"RAPL counters do not answer: {error}")


def find_domains(root: Path = POWERCAP) -> list[Domain]:
    """Package and dram domains, each once: where a package shows both as mmio and as msr, the mmio one."""
    folders = sorted(
        root.glob("intel-rapl*:*"), key=lambda folder: (not folder.name.startswith("intel-rapl-mmio"), folder.name)
    )
    found: dict[str, Domain] = {}
    for folder in folders:
        domain = _domain(root, folder)
        if domain is not None:
            found.setdefault(domain.label, domain)
    return sorted(found.values(), key=lambda domain: domain.label, reverse=True)


def _domain(root: Path, folder: Path) -> Domain | None:
    match = _FOLDER.fullmatch(folder.name)
    if match is None:
        return None
    name = _name(folder)
    package = _name(root / f"{match[1]}:{match[2]}")
    if not package.startswith("package-") or name not in (package, "dram"):
        return None
    try:
        wrap_j = int((folder / "max_energy_range_uj").read_text()) * 1e-6
    except (OSError, ValueError):
        return None
    label = package if name == package else package.replace("package", "dram", 1)
    return Domain(folder=folder, label=label, scope="package" if name == package else "dram", wrap_j=wrap_j)


def _name(folder: Path) -> str:
    try:
        return (folder / "name").read_text().strip()
    except OSError:
        return ""


def _joules(domain: Domain) -> float:
    return int((domain.folder / "energy_uj").read_text()) * 1e-6


def _absence() -> str:
    return "usual in virtual machines, in containers (Docker masks it) and on Arm; host power is modelled instead"
