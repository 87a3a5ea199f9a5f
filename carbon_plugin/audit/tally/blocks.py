"""Turn the windows of a file into arrays, so that hundreds of windows share the cost of an addition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from carbon_plugin.ledger.records import DeviceEnergy, Phase, Window
from carbon_plugin.spec.metered import EnergyKind
from carbon_plugin.spec.numbers.range_array import Floats, RangeArray

Flags = NDArray[np.bool_]
Places = NDArray[np.intp]

MAX_WINDOWS = 512
"""So many windows are added up together. They take a few MB, and there are enough of them that the cost of a block is
small."""


class Rows(Struct, frozen=True, kw_only=True):
    """One device in several windows, one value a window.

    `energy` is in J, and 0 where `known` is false, because the window does not know it. `estimated_j` is the part of
    it that is estimated because the meter could not tell it, or 0. `pue` and
    `intensity_g_per_kwh` are the factors in force, or NaN where there are none.
    """

    kind: EnergyKind
    known: Flags
    seconds: Floats
    energy: RangeArray
    estimated_j: Floats
    pue: Floats
    intensity_g_per_kwh: Floats

    def weighted(self, weights: Floats) -> Rows:
        """Return the windows with a weight above 0, each times its weight."""
        places = np.flatnonzero(weights > 0)
        return self.at(places).times(weights[places])

    def at(self, places: Places) -> Rows:
        """Return the windows at some places."""
        return Rows(
            kind=self.kind,
            known=self.known[places],
            seconds=self.seconds[places],
            energy=self.energy.at(places),
            estimated_j=self.estimated_j[places],
            pue=self.pue[places],
            intensity_g_per_kwh=self.intensity_g_per_kwh[places],
        )

    def times(self, weights: Floats) -> Rows:
        """Return the windows, each times its weight."""
        return Rows(
            kind=self.kind,
            known=self.known,
            seconds=self.seconds * weights,
            energy=self.energy.scaled(weights),
            estimated_j=self.estimated_j * weights,
            pue=self.pue,
            intensity_g_per_kwh=self.intensity_g_per_kwh,
        )


class RowBlock(Struct, frozen=True, kw_only=True):
    """Consecutive windows that name the same devices, read in the same way. Arrays of devices have the shape (devices,
    windows), all others (windows,)."""

    windows: list[Window]
    notes: list[tuple[str, str]]  # device key and what its meter said, each once
    keys: list[str]
    kinds: list[EnergyKind]
    start_unix_s: Floats
    duration_s: Floats
    known: Flags
    energy: RangeArray
    estimated_j: Floats
    pue: Floats
    intensity_g_per_kwh: Floats

    def rows(self, device: int, shares: Floats | None) -> Rows:
        """Return one device, each window times its share. With `shares` None every window counts as a whole."""
        rows = Rows(
            kind=self.kinds[device],
            known=self.known[device],
            seconds=self.duration_s,
            energy=self.energy.at(device),
            estimated_j=self.estimated_j[device],
            pue=self.pue,
            intensity_g_per_kwh=self.intensity_g_per_kwh,
        )
        return rows if shares is None else rows.times(shares)

    def phases(self) -> dict[Phase, Places | None]:
        """Return the phases, each with the places of its windows, or None if all windows are of one phase."""
        places: dict[Phase, list[int]] = {}
        for number, window in enumerate(self.windows):
            places.setdefault(window.phase, []).append(number)
        if len(places) == 1:
            return dict.fromkeys(places)
        return {phase: np.array(found) for phase, found in places.items()}


def blocks_of(windows: Sequence[Window], factors: tuple[float | None, float | None]) -> Iterator[RowBlock]:
    """Yield the windows, in their order, as blocks. `factors` are intensity (g/kWh) and PUE for windows that state
    none."""
    if not windows:
        return
    energies = [energy for window in windows for energy in window.energies]
    count = len(windows[0].energies)
    keys, kinds = [energy.key for energy in energies], [energy.kind for energy in energies]
    alike = (
        keys == keys[:count] * len(windows)
        and kinds == kinds[:count] * len(windows)
        and all(len(window.energies) == count for window in windows)
    )
    if alike:
        yield _block(list(windows), energies, keys[:count], kinds[:count], factors)
    else:  # a GPU was lost or has come back, which is so rare that small blocks do not matter
        half = len(windows) // 2
        yield from blocks_of(windows[:half], factors)
        yield from blocks_of(windows[half:], factors)


def _block(
    windows: list[Window],
    energies: Sequence[DeviceEnergy],
    keys: list[str],
    kinds: list[EnergyKind],
    factors: tuple[float | None, float | None],
) -> RowBlock:
    shape = (len(windows), len(keys))
    energy_j = _devices([energy.energy_j for energy in energies], shape)
    low_j = _devices([energy.low_j for energy in energies], shape)
    high_j = _devices([energy.high_j for energy in energies], shape)
    intensity, pue = (np.nan if factor is None else factor for factor in factors)
    own_intensity = np.array([window.intensity_g_per_kwh for window in windows], dtype=float)
    own_pue = np.array([window.pue for window in windows], dtype=float)
    return RowBlock(
        windows=windows,
        notes=_notes(energies),
        keys=keys,
        kinds=kinds,
        start_unix_s=np.array([window.start_unix_s for window in windows]),
        duration_s=np.array([window.duration_s for window in windows]),
        known=~np.isnan(energy_j),
        energy=RangeArray.of(energy_j, low_j, high_j),
        estimated_j=np.nan_to_num(_devices([energy.estimated_j for energy in energies], shape)),
        pue=np.where(np.isnan(own_pue), pue, own_pue),
        intensity_g_per_kwh=np.where(np.isnan(own_intensity), intensity, own_intensity),
    )


def _notes(energies: Sequence[DeviceEnergy]) -> list[tuple[str, str]]:
    noted = [energy for energy in energies if energy.note]
    return list(dict.fromkeys((energy.key, energy.note or "") for energy in noted))


def _devices(values: list[float | None], shape: tuple[int, int]) -> Floats:
    """Return values that are ordered window by window as an array of (devices, windows), with NaN for None."""
    return np.ascontiguousarray(np.array(values, dtype=float).reshape(shape).T)
