"""Check each record against bounds that no honest run comes near, before any of its values enters a sum.

A window beyond them is a broken record and not a figure. `ledger/verification` compares records with each other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from msgspec import Struct

from carbon_plugin.ledger.columns import Counts, Flags, WindowColumns
from carbon_plugin.ledger.records import Close, DeviceEnergy, Event, Manifest, Projection, Record, Span, Window
from carbon_plugin.spec.metered import Rung
from carbon_plugin.spec.numbers.amounts import plural
from carbon_plugin.spec.numbers.range_array import Floats
from carbon_plugin.spec.parsing.boundary import LATEST_UNIX_S, shown
from carbon_plugin.spec.parsing.limits import MOST_RUN_S
from carbon_plugin.spec.site import MOST_G_PER_KWH, MOST_PUE

MOST_W: dict[Rung, float] = {"gpu": 2e4, "host": 1e6, "network": 1e6, "facility": 5e9}
"""This is ten times the power of the largest device of each kind: an accelerator module, a rack that is one node, a
data centre.
"""

MOST_COUNT = 10**15
"""The bound on steps of a run. A larger count is no longer exact as a float."""
MOST_TOKENS = 10**19
MOST_RANKS = 10**8

_LAG_S = 10.0
"""A counter may count energy that was drawn up to this many seconds before its window, because of a slow driver or a
meter that is updated every few seconds."""
_ROUNDING = 1 + 1e-9
_MADE_UP = 100.0
"""A meter that answers again may report this many times the energy that was estimated while it could not. That happens
to a device that was taken to be idle for as long as it was lost."""


class Verdict(Struct, frozen=True):
    """Says what is wrong with a record. A record with an `impossible` fault must not enter a sum. A `strange` fault is
    only reported.
    """

    impossible: list[str]
    strange: list[str]


class RecordGate:
    """Judges the records of one file. They must be given in their order, because manifests say which devices there
    are."""

    def __init__(self) -> None:
        self._most_w: dict[str, float] = {}
        self._knows_devices = False

    def judge(self, record: Record) -> Verdict | None:
        """Return what is wrong with the next record, or None where nothing is."""
        if isinstance(record, Window):
            return self._window(record)
        if isinstance(record, Manifest):
            faults = _manifest(record)
            self._knows_devices = True
            self._most_w.update((device.key, MOST_W[device.rung]) for device in record.devices)
        elif isinstance(record, Span):
            faults = _outside(
                ("starts at", record.start_unix_s, LATEST_UNIX_S),
                ("lasts", record.duration_s, MOST_RUN_S),
                ("has a step time of", record.step_time_s, MOST_RUN_S),
                ("has an error of", record.boundary_error_s, MOST_RUN_S),
                ("begins with step", record.first_step, MOST_COUNT),
                ("ends with step", record.last_step, MOST_COUNT),
                ("has a predicted step time of", record.predicted_step_time_s, MOST_RUN_S),
                ("has an energy a step of", record.gpu_energy_per_step_j, MOST_W["facility"] * MOST_RUN_S),
                ("has a predicted energy of", record.predicted_gpu_energy_per_step_j, MOST_W["facility"] * MOST_RUN_S),
            )
        elif isinstance(record, Event):
            faults = _outside(("is of", record.at_unix_s, LATEST_UNIX_S))
        elif isinstance(record, Projection):
            faults = _outside(("is of", record.at_unix_s, LATEST_UNIX_S), ("is at step", record.step, MOST_COUNT))
        else:
            faults = _close(record)
        return Verdict([f"the {_name(record)} {fault}" for fault in faults], []) if faults else None

    def finds_nothing(self, windows: WindowColumns) -> bool:
        """Return whether `judge` would find nothing wrong with any of these windows."""
        pue, intensity = windows.pue, windows.intensity_g_per_kwh
        return (
            _within(windows.duration_s, 0.0, MOST_RUN_S)
            and _within(windows.start_unix_s, 0.0, LATEST_UNIX_S)
            and _within(windows.steps, 0, MOST_COUNT)
            and _within(windows.last_steps, 0, MOST_COUNT)
            and min(windows.tokens) >= 0
            and max(windows.tokens) <= MOST_TOKENS
            and _within(pue[~np.isnan(pue)], 1.0, MOST_PUE)
            and _within(intensity[~np.isnan(intensity)], 0.0, MOST_G_PER_KWH)
            and all(0.0 <= part <= 1.0 for parts in filter(None, windows.parts) for part in parts.values())
            and self._finds_no_energy(windows)
        )

    def _finds_no_energy(self, windows: WindowColumns) -> bool:
        """Return whether nothing is wrong with the energies of these windows."""
        if not all(key in self._most_w for key in windows.keys):
            return False  # `judge` says what this means
        energy_j, low_j, high_j, estimated_j = windows.energy_j, windows.low_j, windows.high_j, windows.estimated_j
        most_w = np.array([self._most_w[key] for key in windows.keys], dtype=float)[:, None]
        most_j = most_w * (windows.duration_s + _LAG_S)
        # Comparisons with NaN are false, and what a window does not state has nothing wrong with it.
        ordered = (low_j >= 0.0) & (low_j <= energy_j) & (energy_j <= high_j) & (high_j <= most_j)
        if ordered.all() and np.isnan(estimated_j).all():
            return True
        unknown: Flags = np.isnan(energy_j)
        present = np.array([kind != "absent" for kind in windows.kinds], dtype=bool)
        if unknown[present].any():
            return False
        most_j = most_j - _MADE_UP * np.minimum(0.0, np.nan_to_num(estimated_j))
        rounded_j = energy_j * _ROUNDING
        sound = (energy_j >= 0.0) & (energy_j <= most_j)
        sound &= np.isnan(low_j) | ((low_j >= 0.0) & (low_j <= rounded_j))
        sound &= np.isnan(high_j) | ((energy_j <= high_j * _ROUNDING) & (high_j * _ROUNDING <= most_j))
        sound &= np.isnan(estimated_j) | ((-most_w * MOST_RUN_S <= estimated_j) & (estimated_j <= rounded_j))
        return bool((sound | unknown).all())

    def _window(self, window: Window) -> Verdict | None:
        impossible, strange = [], []
        duration_s, pue, intensity = window.duration_s, window.pue, window.intensity_g_per_kwh
        if not (
            0.0 <= duration_s <= MOST_RUN_S
            and 0.0 <= window.start_unix_s <= LATEST_UNIX_S
            and 0 <= window.steps <= MOST_COUNT
            and 0 <= window.last_step <= MOST_COUNT
            and 0 <= window.tokens <= MOST_TOKENS
            and (pue is None or 1.0 <= pue <= MOST_PUE)
            and (intensity is None or 0.0 <= intensity <= MOST_G_PER_KWH)
            and (window.parts is None or all(0.0 <= part <= 1.0 for part in window.parts.values()))
        ):
            impossible += _window_faults(window)
        span_s, limit_of = duration_s + _LAG_S, self._most_w.get
        for energy in window.energies:
            central_j, low_j, high_j = energy.energy_j, energy.low_j, energy.high_j
            if (
                central_j is not None
                and low_j is not None
                and high_j is not None
                and energy.estimated_j is None
                and 0.0 <= low_j <= central_j <= high_j <= limit_of(energy.key, 0.0) * span_s
            ):
                continue  # nearly all energies are so
            most_w = limit_of(energy.key)
            if most_w is None:
                most_w = MOST_W["facility"]
                if self._knows_devices:
                    strange.append(f"energy of device {energy.key}, which no manifest names")
            most_j = most_w * span_s - _MADE_UP * min(0.0, energy.estimated_j or 0.0)
            energy_j, low_j, high_j = energy.energy_j, energy.low_j, energy.high_j
            if energy_j is None:
                if energy.kind != "absent":
                    strange.append(f"device {energy.key} has no energy but kind {energy.kind}")
            elif not (
                0.0 <= energy_j <= most_j
                and (low_j is None or 0.0 <= low_j <= energy_j * _ROUNDING)
                and (high_j is None or energy_j <= high_j * _ROUNDING <= most_j)
                and (energy.estimated_j is None or -most_w * MOST_RUN_S <= energy.estimated_j <= energy_j * _ROUNDING)
            ):
                impossible += _energy_faults(energy, most_j, most_w * MOST_RUN_S)
                strange += _range_faults(energy)
        return Verdict(impossible, strange) if impossible or strange else None


def _within(values: Floats | Counts, least: float, most: float) -> bool:
    return not len(values) or bool(least <= values.min() and values.max() <= most)


def _name(record: Record) -> str:
    return type(record).__name__.lower()


def _short(value: float) -> str:
    try:
        return f"{value:g}"
    except OverflowError:  # an integer that is too large for a float
        return shown(value)


def _outside(*values: tuple[str, float | None, float]) -> list[str]:
    """Return words for each of the values that is below 0 or above its limit."""
    return [f"{words} {_short(value)}" for words, value, most in values if value is not None and not 0 <= value <= most]


def _window_faults(window: Window) -> list[str]:
    found = _outside(
        ("lasts", window.duration_s, MOST_RUN_S),
        ("starts at", window.start_unix_s, LATEST_UNIX_S),
        ("has a number of steps of", window.steps, MOST_COUNT),
        ("ends with step", window.last_step, MOST_COUNT),
        ("has a number of tokens of", window.tokens, MOST_TOKENS),
        ("has an intensity of", window.intensity_g_per_kwh, MOST_G_PER_KWH),
    )
    found += _outside(*((f"has a part of {key} of", part, 1.0) for key, part in (window.parts or {}).items()))
    if window.pue is not None and not 1 <= window.pue <= MOST_PUE:
        found.append(f"has a PUE of {window.pue:g}")
    return [f"window {window.index} {fault}" for fault in found]


def _energy_faults(energy: DeviceEnergy, most_j: float, most_replaced_j: float) -> list[str]:
    """Return the impossible figures of an energy. `most_replaced_j` is the most that a measurement can take back of
    earlier estimates."""
    parts = {
        "": (energy.energy_j, 0.0),
        " at least": (energy.low_j, 0.0),
        " at most": (energy.high_j, 0.0),
        " estimated": (energy.estimated_j, -most_replaced_j),
    }
    return [
        f"device {energy.key} has{name} {joules} J, expected {least_j:.3g} to {most_j:.3g} J"
        for name, (joules, least_j) in parts.items()
        if joules is not None and not least_j <= joules <= most_j
    ]


def _range_faults(energy: DeviceEnergy) -> list[str]:
    """Return the faults of a range that does not contain its value, and of a part that is larger than the whole.
    Neither disturbs the sums.
    """
    joules, low_j, high_j = energy.energy_j or 0.0, energy.low_j, energy.high_j
    outside = (low_j is not None and low_j > joules * _ROUNDING) or (high_j is not None and high_j * _ROUNDING < joules)
    found = [f"device {energy.key} has {joules} J outside of its range {low_j} to {high_j} J"] if outside else []
    if (energy.estimated_j or 0.0) > joules * _ROUNDING:
        found.append(f"device {energy.key} has {joules} J, of which {energy.estimated_j} J are estimated")
    return found


def _manifest(manifest: Manifest) -> list[str]:
    found = _outside(
        ("is of attempt", manifest.attempt, MOST_RANKS),
        ("is of node", manifest.node, MOST_RANKS),
        ("counts nodes to", manifest.nodes, MOST_RANKS),
        ("has a world size of", manifest.world_size, MOST_RANKS),
        ("starts at", manifest.started_unix_s, LATEST_UNIX_S),
        ("has a host share of", manifest.host_share, 1.0),
        ("has total steps of", manifest.total_steps, MOST_COUNT),
        ("has tokens a step of", manifest.tokens_per_step, MOST_TOKENS),
    )
    since_s = manifest.reserved_since_unix_s
    if since_s is not None and not manifest.started_unix_s - MOST_RUN_S <= since_s <= manifest.started_unix_s + 1:
        found.append(f"starts at {manifest.started_unix_s:g} and is reserved since {since_s:g}")
    if manifest.nodes < 1 or manifest.world_size < 1:
        found.append(f"has {plural(manifest.nodes, 'node')} and {plural(manifest.world_size, 'rank')}")
    for device in manifest.devices:
        share: Any = device.share
        if share is not None and not 0 < share <= 1:
            found.append(f"names device {device.key} as {share:g} of one")
    return found


def _close(close: Close) -> list[str]:
    return _outside(
        ("is of", close.at_unix_s, LATEST_UNIX_S),
        ("counts windows to", close.windows, MOST_COUNT),
        ("counts steps to", close.steps, MOST_COUNT),
        ("has an energy of", close.energy_j, MOST_W["facility"] * MOST_RUN_S),
    )
