"""How likely a layout fits."""

from __future__ import annotations

import numpy as np
import pytest

from carbon_plugin.predict.uncertainty.fit import MEMORY, error_at, error_density, fit_probability, fits, width

POPULATIONS = tuple(MEMORY)


@pytest.mark.parametrize("population", POPULATIONS)
def test_the_probability_falls_from_one_to_nothing_with_the_need(population: str) -> None:
    fills = np.linspace(0.05, 4, 500)
    likely = fit_probability(fills, population)

    assert (np.diff(likely) <= 0).all()
    assert likely[0] > 0.999
    assert likely[-1] < 0.001


@pytest.mark.parametrize("population", POPULATIONS)
def test_a_layout_that_leaves_the_offset_free_fits_as_often_as_not(population: str) -> None:
    capacity = 80 * 2**30
    assert fit_probability(np.exp(-MEMORY[population].offset), population) == pytest.approx(0.5, abs=1e-6)
    for fill in (0.5, 0.9, 0.999, 1.001, 1.5):
        assert bool(fits(fill * capacity, capacity)) == (fill < 1)


def test_ordinary_software_is_never_surer_to_fit_than_software_that_people_tuned() -> None:
    assert fit_probability(0.9, "tuned") >= fit_probability(0.9, "ordinary") > 0.5
    assert 0.5 > fit_probability(1.0, "tuned") >= fit_probability(1.0, "ordinary")


@pytest.mark.parametrize("population", POPULATIONS)
def test_the_density_adds_up_and_is_that_of_as_many_sources_as_there_are(population: str) -> None:
    errors, density = error_density(population)
    known = MEMORY[population]

    assert density.sum() == pytest.approx(1)
    assert float((errors * density).sum()) == pytest.approx(known.offset, abs=1e-9)
    assert width(known) == pytest.approx(np.sqrt(known.between**2 * (1 + 1 / known.sources) + known.within**2))


@pytest.mark.parametrize("population", POPULATIONS)
def test_an_error_at_a_probability_is_the_room_that_makes_it(population: str) -> None:
    for probability in (0.1, 0.5, 0.8):
        room = error_at(probability, MEMORY[population])
        assert float(fit_probability(np.exp(-room), population)) == pytest.approx(probability, abs=1e-3)
