"""Prepare the windows of a file for sums, as arrays that one operation adds up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from carbon_plugin.ledger.columns import Flags, WindowColumns, divided, joined
from carbon_plugin.ledger.records import Phase
from carbon_plugin.spec.metered import EnergyKind
from carbon_plugin.spec.numbers.range_array import Floats, RangeArray

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

    windows: WindowColumns
    known: Flags
    energy: RangeArray
    estimated_j: Floats
    pue: Floats
    intensity_g_per_kwh: Floats

    @property
    def keys(self) -> list[str]:
        """Return the keys of the devices."""
        return self.windows.keys

    @property
    def start_unix_s(self) -> Floats:
        """Return the start of each window by the clock of its node."""
        return self.windows.start_unix_s

    @property
    def duration_s(self) -> Floats:
        """Return the length of each window."""
        return self.windows.duration_s

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
            kinds=[self.windows.kinds[device] for device in devices],
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
        phases = self.windows.phases
        if phases.count(phases[0]) == len(phases):
            return {phases[0]: None}
        places: dict[Phase, list[int]] = {}
        for number, phase in enumerate(phases):
            places.setdefault(phase, []).append(number)
        return {phase: np.array(found) for phase, found in places.items()}


def blocks_of(pieces: Sequence[WindowColumns], factors: tuple[float | None, float | None]) -> Iterator[RowBlock]:
    """Yield consecutive windows in their order as blocks. `factors` are intensity (g/kWh) and PUE for windows that
    state none.
    """
    if not pieces:
        return
    if all(piece.is_like(pieces[0]) for piece in pieces):
        yield _block(joined(pieces), factors)
    else:  # a GPU was lost or has come back, which is so rare that small blocks do not matter
        for half in divided(pieces, sum(map(len, pieces)) // 2):
            yield from blocks_of(half, factors)


def _block(windows: WindowColumns, factors: tuple[float | None, float | None]) -> RowBlock:
    intensity, pue = (np.nan if factor is None else factor for factor in factors)
    return RowBlock(
        windows=windows,
        known=~np.isnan(windows.energy_j),
        energy=RangeArray.of(windows.energy_j, windows.low_j, windows.high_j),
        estimated_j=np.nan_to_num(windows.estimated_j),
        pue=np.where(np.isnan(windows.pue), pue, windows.pue),
        intensity_g_per_kwh=np.where(np.isnan(windows.intensity_g_per_kwh), intensity, windows.intensity_g_per_kwh),
    )
