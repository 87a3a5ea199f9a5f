"""Which RAPL domains a machine has, which of them can be read, and why the others cannot.

Package and dram domains are kept, which do not overlap; core and uncore lie inside package, psys around everything.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from msgspec import Struct

POWERCAP = Path("/sys/class/powercap")

_FOLDER = re.compile(r"(intel-rapl-mmio|intel-rapl):(\d+)(?::\d+)?")
_DIE = re.compile(r"(.+)-die-\d+")

Scope = Literal["package", "dram"]


class Domain(Struct, frozen=True, kw_only=True):
    """One energy counter: `label` is "package-0" or "dram-0", `wrap_j` the joules at which it starts again; None where
    the kernel does not tell, so that a counter which goes back cannot be told from one that wrapped."""

    folder: Path
    label: str
    scope: Scope
    wrap_j: float | None

    @property
    def counter(self) -> Path:
        """The file of the counter."""
        return self.folder / "energy_uj"

    @property
    def socket(self) -> str:
        """The label without the die."""
        match = _DIE.fullmatch(self.label)
        return match[1] if match else self.label

    def joules(self) -> float:
        """The counter now. Raises `OSError` or `ValueError`."""
        return int(self.counter.read_text()) * 1e-6


class Closed(Struct, frozen=True, kw_only=True):
    """A file of a domain that cannot be read, and whether that is for lack of permission."""

    label: str
    file: Path
    permission: bool
    reason: str

    @property
    def sentence(self) -> str:
        """What is wrong."""
        return f"{self.label}: {self.file} cannot be read: {self.reason}"

    @property
    def opening_command(self) -> str:
        """What helps where the permission is missing."""
        return f"have an administrator run 'chmod a+r {self.file}' (again after each boot, or by a udev rule)"


class Found(Struct, frozen=True, kw_only=True):
    """The domains that can be read, the files that cannot, and sentences about what was made of them."""

    domains: list[Domain]
    closed: list[Closed]
    remarks: list[str]


def find_domains(root: Path = POWERCAP) -> Found:
    """Package and dram domains, each once: where a package shows both as mmio and as msr, the one that can be read,
    and of two that can the mmio one."""
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
    return Found(
        domains=sorted(found.values(), key=lambda domain: domain.label, reverse=True),
        closed=[failure for label, failure in closed.items() if label not in found],
        remarks=remarks,
    )


def _label(root: Path, folder: Path) -> tuple[str, Scope | None]:
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
    """Why a counter cannot be read; None if it can."""
    try:
        int(file.read_text())
    except PermissionError as error:
        return Closed(label=label, file=file, permission=True, reason=error.strerror or "permission denied")
    except (OSError, ValueError) as error:
        return Closed(label=label, file=file, permission=False, reason=str(error))
    return None


def _wrap_j(label: str, file: Path) -> tuple[float | None, str | None]:
    """Where the counter starts again, and a remark where the kernel does not tell."""
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
