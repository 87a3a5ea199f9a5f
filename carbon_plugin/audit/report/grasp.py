"""Make a total tangible: the distance of a car drive that emits the same carbon."""

from __future__ import annotations

from msgspec import Struct

from carbon_plugin.show import wording
from carbon_plugin.spec.numbers.amounts import fitting_unit

CAR_KG_PER_KM = 0.400 / 1.609344
"""The tailpipe CO2 of an average US passenger vehicle: about 400 g a mile (US EPA, EPA-420-F-23-014, June 2023)."""
CAR_SOURCE = "US EPA: Tailpipe Greenhouse Gas Emissions From a Typical Passenger Vehicle (EPA-420-F-23-014, 2023)"
CAR_ADDRESS = "https://www.epa.gov/greenvehicles/greenhouse-gas-emissions-typical-passenger-vehicle"

_LENGTH_UNITS = ((1e-2, "cm"), (1.0, "m"), (1e3, "km"))


class EverydayComparison(Struct, frozen=True, kw_only=True):
    """A distance driven by car that emits as much as the run, with its source and the address of the source."""

    text: str
    source: str
    address: str


def as_a_drive(carbon_kg: float) -> EverydayComparison | None:
    """Return the distance over which an average US petrol car emits as much, or None for no carbon."""
    if carbon_kg <= 0:
        return None
    size, unit = fitting_unit(carbon_kg / CAR_KG_PER_KM * 1e3, _LENGTH_UNITS, 2)
    length = f"{wording.number(carbon_kg / CAR_KG_PER_KM * 1e3 / size, 2)} {unit}"
    return EverydayComparison(
        text=f"about {length} in an average US petrol car", source=CAR_SOURCE, address=CAR_ADDRESS
    )
