"""Find which RAPL domains a machine has, which of them can be read, and why the others cannot.

Package and dram domains are kept, which do not overlap; core and uncore lie inside package, and psys contains
everything.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from msgspec import Struct

POWERCAP = Path("/sys/class/powercap")

_FOLDER = re.compile(r"(intel-rapl-mmio|intel-rapl):(\d+)(?::\d+)?")
_DIE = re.compile(r"(.+)-die-\d+")

DomainKind = Literal["package", "dram"]


class Domain(Struct, frozen=True, kw_only=True):
    """One instance describes an energy counter.

    `label` is for instance "package-0" or "dram-0". `wrap_j` are the joules at which the counter starts again; it is
    None where the kernel does not tell them, so that a counter which goes back cannot be told from one that wrapped.
    """

    folder: Path
    label: str
    scope: DomainKind
    wrap_j: float | None

    @property
    def counter(self) -> Path:
        """Return the path of the counter's file."""
        return self.folder / "energy_uj"

    @property
    def socket(self) -> str:
        """Return the label without the die."""
        match = _DIE.fullmatch(self.label)
        return match[1] if match else self.label

    def joules(self) -> float:
        """Return the joules on the counter now. Raises `OSError` or `ValueError` where it cannot be read."""
        return int(self.counter.read_text()) * 1e-6


class Closed(Struct, frozen=True, kw_only=True):
    """One instance names a file of a domain that cannot be read, and says whether the permission is missing."""

    label: str
    file: Path
    permission: bool
    reason: str

    @property
    def sentence(self) -> str:
        """Return one sentence that says what is wrong."""
        return f"{self.label}: {self.file} cannot be read: {self.reason}"

    @property
    def opening_command(self) -> str:
        """Return advice with the command that gives the missing permission."""
        return f"have an administrator run 'chmod a+r {self.file}' (again after each boot, or by a udev rule)"


class FoundDomains(Struct, frozen=True, kw_only=True):
    """One instance holds the domains that can be read, the files that cannot, and sentences about the conclusions."""

    domains: list[Domain]
    closed: list[Closed]
    remarks: list[str]


def find_domains(root: Path = POWERCAP) -> FoundDomains:
    """Return the package and dram domains, each once, and why others cannot be read.

    Where a package has a domain both as mmio and as msr, the one that can be read is taken, and of two that can, the
    mmio one.
    """
    folders = sorted(
        root.glob("intel-rapl*:*"), key=lambda folder: (not folder.name.startswith("intel-rapl-mmio"), folder.name)
    )
    found: dict[str, Domain] = {}
    closed: dict[str, Closed] = {}
    remarks: list[str] = []
    for folder in folders:
        label, scope = _label(root, folder)
        if scope is None or label in found:
            continue
        failure = _failure(label, folder / "energy_uj")
        if failure is not None:
            closed.setdefault(label, failure)
            continue
        wrap_j, remark = _wrap_j(label, folder / "max_energy_range_uj")
        remarks += [remark] if remark else []
        found[label] = Domain(folder=folder, label=label, scope=scope, wrap_j=wrap_j)
    return FoundDomains(
        domains=sorted(found.values(), key=lambda domain: domain.label, reverse=True),
        closed=[failure for label, failure in closed.items() if label not in found],
        remarks=remarks,
    )


def _label(root: Path, folder: Path) -> tuple[str, DomainKind | None]:
    match = _FOLDER.fullmatch(folder.name)
    if match is None:
        return "", None
    name, package = _name(folder), _name(root / f"{match[1]}:{match[2]}")
    if not package.startswith("package-"):
        return "", None
    if name == package:
        return package, "package"
    return (package.replace("package", "dram", 1), "dram") if name == "dram" else ("", None)


def _failure(label: str, file: Path) -> Closed | None:
    """Return why a counter cannot be read, or None if it can."""
    try:
        int(file.read_text())
    except PermissionError as error:
        return Closed(label=label, file=file, permission=True, reason=error.strerror or "permission denied")
    except (OSError, ValueError) as error:
        return Closed(label=label, file=file, permission=False, reason=str(error))
    return None


def _wrap_j(label: str, file: Path) -> tuple[float | None, str | None]:
    """Return the joules at which the counter starts again, or None with a remark where the kernel does not
    tell them.
    """
    then = "a counter that starts again is a fault there, and the stretch is estimated"
    try:
        wrap_j = int(file.read_text()) * 1e-6
    except PermissionError:
        return None, f"{label}: {file} is readable by root only; {then}"
    except (OSError, ValueError) as error:
        return None, f"{label}: {file} cannot be read: {error}; {then}"
    if wrap_j <= 0:
        return None, f"{label}: {file} is {wrap_j:g}; {then}"
    return wrap_j, None


def _name(folder: Path) -> str:
    try:
        return (folder / "name").read_text().strip()
    except OSError:
        return ""
