"""Open the driver of a vendor on a thread of its own and list its GPUs, or say why that cannot be done."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from carbon_plugin.meters.gpu.driver import GpuDriver, GpuError, GpuVendor, Inventory
from carbon_plugin.meters.gpu.driver_thread import DriverAnswer, DriverBusyError, DriverThread
from carbon_plugin.meters.gpu.presence import shows_gpus
from carbon_plugin.meters.gpu.vendors import gpu_vendors
from carbon_plugin.meters.protocol import Unavailable

OPEN_WAIT_S = 5.0
"""The time in seconds to wait for a driver to initialise. Without the persistence daemon it can take longer on a large
node; its GPUs are then metered from the moment when it answers.
"""


class DriverSession(Struct, frozen=True):
    """One session holds an initialised driver, the thread that calls it, and what it lists."""

    vendor: GpuVendor
    driver: GpuDriver
    thread: DriverThread
    inventory: Inventory


_OPENING: dict[tuple[int, str], tuple[DriverThread, DriverAnswer[tuple[GpuDriver, Inventory]]]] = {}
"""Initialisations that took too long to be waited for, by process and vendor; the next caller gets their result."""


def open_sessions() -> tuple[list[DriverSession], list[tuple[GpuVendor, Unavailable]]]:
    """Open the drivers of all vendors at once. Returns those that answer, and why the others do not.

    A missing library is reported only where the machine or the job shows GPUs of its vendor, or, for the first vendor,
    where no driver answers at all.
    """
    vendors = gpu_vendors()
    begun = [_begin(vendor) for vendor in vendors]
    sessions: list[DriverSession] = []
    problems: list[tuple[GpuVendor, Unavailable]] = []
    for vendor, (thread, answer, waits) in zip(vendors, begun, strict=True):
        opened = _finish(vendor, thread, answer, OPEN_WAIT_S if waits else 0.0)
        if isinstance(opened, DriverSession):
            sessions.append(opened)
        else:
            problems.append((vendor, opened))
    return sessions, _worth_telling(sessions, problems)


def open_late_session(vendor: GpuVendor) -> DriverSession | Unavailable:
    """Open the driver of a vendor that did not answer in time before."""
    thread, answer, waits = _begin(vendor)
    return _finish(vendor, thread, answer, OPEN_WAIT_S if waits else 0.0)


def answers_late(vendor: GpuVendor) -> bool:
    """Return whether a driver that did not answer in time has answered since, so that a meter can be opened now."""
    opening = _OPENING.get((os.getpid(), vendor.code))
    return opening is not None and opening[1].done


def end_session(session: DriverSession) -> None:
    """Release a driver without waiting for it."""
    session.thread.submit(session.driver.close)
    session.thread.end()


def _begin(vendor: GpuVendor) -> tuple[DriverThread, DriverAnswer[tuple[GpuDriver, Inventory]], bool]:
    """Return the thread and the answer of an initialisation, and whether it has only begun now."""
    begun = _OPENING.pop((os.getpid(), vendor.code), None)
    if begun is not None:
        return *begun, False
    thread = DriverThread()
    return thread, thread.submit(lambda: _opened(vendor)), True


def _finish(
    vendor: GpuVendor, thread: DriverThread, answer: DriverAnswer[tuple[GpuDriver, Inventory]], wait_s: float
) -> DriverSession | Unavailable:
    try:
        if not answer.wait(wait_s):
            _OPENING[os.getpid(), vendor.code] = (thread, answer)
            raise thread.busy(wait_s)
        driver, inventory = answer.result()
        return DriverSession(vendor, driver, thread, inventory)
    except GpuError as error:
        thread.end()
        return Unavailable(
            kind=f"{vendor.code}_{error.code}",
            reason=f"{vendor.maker} GPUs cannot be metered: {error}",
            advice=vendor.advice.get(error.code),
        )
    except DriverBusyError as error:
        return Unavailable(
            kind=vendor.hangs,
            reason=f"{vendor.maker} GPUs cannot be metered: {error}",
            advice=f"see whether {vendor.look_with} answers; a driver that hangs needs a reset of the GPU or a reboot",
        )


def _opened(vendor: GpuVendor) -> tuple[GpuDriver, Inventory]:
    driver = vendor.open_driver()
    try:
        return driver, driver.inventory()
    except GpuError:
        driver.close()
        raise


def _worth_telling(
    sessions: Sequence[DriverSession], problems: Sequence[tuple[GpuVendor, Unavailable]]
) -> list[tuple[GpuVendor, Unavailable]]:
    told = [
        (vendor, problem)
        for vendor, problem in problems
        if problem.kind != f"{vendor.code}_no_library" or shows_gpus(vendor, Path("/"))
    ]
    return told if sessions or told else list(problems[:1])
