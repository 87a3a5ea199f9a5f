"""Turn the windows of a file into arrays, so that one operation adds hundreds of windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

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


class Metered(Struct, frozen=True, kw_only=True):
    """One instance holds the energies of some devices in several windows, without what an earlier file has metered.
    Arrays have the shape (devices, windows), except `priced`, which has the shape (windows,).

    `energy` is in J, and 0 where `known` is false, because the window does not know it. `estimated_j` is the part of
    it that is estimated because the meter could not tell it, or 0. `priced` says whether PUE and intensity are known.
    `facility_j` is the energy times the PUE, and `weighted_j_g_per_kwh` that times the intensity; both are 0 where a
    window is not priced.
    """

    keys: list[str]
    kinds: list[EnergyKind]
    known: Flags
    seconds: Floats
    energy: RangeArray
    estimated_j: Floats
    priced: Flags
    facility_j: Floats
    weighted_j_g_per_kwh: Floats

    def weighted(self, weights: Floats) -> Metered:
        """Return the windows with a weight above 0, each times its weight, shape (windows,)."""
        places = np.flatnonzero(weights > 0)
        weights = weights[places]
        return Metered(
            keys=self.keys,
            kinds=self.kinds,
            known=self.known[:, places],
            seconds=self.seconds[:, places] * weights,
            energy=RangeArray(*(numbers[:, places] * weights for numbers in self.energy)),
            estimated_j=self.estimated_j[:, places] * weights,
            priced=self.priced[places],
            facility_j=self.facility_j[:, places] * weights,
            weighted_j_g_per_kwh=self.weighted_j_g_per_kwh[:, places] * weights,
        )


class RowBlock(Struct, frozen=True, kw_only=True):
    """Consecutive windows that name the same devices and know their energy in the same way. Arrays of devices have the
    shape (devices, windows), all others (windows,).
    """

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

    def metered(self, shares: Mapping[int, Floats | None]) -> Metered:
        """Return some devices by their positions, with each window of a device times its share. Without shares (None)
        every window counts as a whole.
        """
        devices = list(shares)
        known, energy, estimated_j = self.known, self.energy, self.estimated_j
        if len(devices) < len(self.keys):
            known, estimated_j = known[devices], estimated_j[devices]
            energy = RangeArray(*(numbers[devices] for numbers in energy))
        seconds = np.ones((len(devices), 1)) * self.duration_s
        if any(each is not None for each in shares.values()):
            whole = np.ones(len(self.windows))
            parts = np.array([whole if each is None else each for each in shares.values()])
            seconds, energy, estimated_j = seconds * parts, energy.scaled(parts), estimated_j * parts
        facility_j = energy.value * self.pue
        weighted = facility_j * self.intensity_g_per_kwh
        priced = ~np.isnan(self.pue + self.intensity_g_per_kwh)
        if not priced.all():
            facility_j, weighted = np.where(priced, facility_j, 0.0), np.where(priced, weighted, 0.0)
        return Metered(
            keys=[self.keys[device] for device in devices],
            kinds=[self.kinds[device] for device in devices],
            known=known,
            seconds=seconds,
            energy=energy,
            estimated_j=estimated_j,
            priced=priced,
            facility_j=facility_j,
            weighted_j_g_per_kwh=weighted,
        )

    def phases(self) -> dict[Phase, Places | None]:
        """Return the phases, each with the positions of its windows, or None if all windows are of one phase."""
        places: dict[Phase, list[int]] = {}
        for number, window in enumerate(self.windows):
            places.setdefault(window.phase, []).append(number)
        if len(places) == 1:
            return dict.fromkeys(places)
        return {phase: np.array(found) for phase, found in places.items()}


def blocks_of(windows: Sequence[Window], factors: tuple[float | None, float | None]) -> Iterator[RowBlock]:
    """Yield the windows in their order as blocks. `factors` are intensity (g/kWh) and PUE for windows that
    state none.
    """
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
        estimated_j=_estimates(energies, shape),
        pue=np.where(np.isnan(own_pue), pue, own_pue),
        intensity_g_per_kwh=np.where(np.isnan(own_intensity), intensity, own_intensity),
    )


def _notes(energies: Sequence[DeviceEnergy]) -> list[tuple[str, str]]:
    noted = [energy for energy in energies if energy.note]
    return list(dict.fromkeys((energy.key, energy.note or "") for energy in noted))


def _estimates(energies: Sequence[DeviceEnergy], shape: tuple[int, int]) -> Floats:
    """Return the estimated part of each energy as an array of (devices, windows), with 0 for None."""
    estimates: list[float | None] = [energy.estimated_j or 0.0 for energy in energies]
    return _devices(estimates, shape) if any(estimates) else np.zeros((shape[1], shape[0]))


def _devices(values: Sequence[float | None], shape: tuple[int, int]) -> Floats:
    """Return values that are ordered window by window as an array of (devices, windows), with NaN for None."""
    return np.ascontiguousarray(np.array(values, dtype=float).reshape(shape).T)
