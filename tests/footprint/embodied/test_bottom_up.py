"""The bottom-up model against published footprints of accelerators."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.errors import FootprintError
from carbon_plugin.footprint.embodied.bottom_up import carbon_per_area_kg_per_cm2, device_bill_kg, modelled_device_kg
from carbon_plugin.spec.hardware.cluster import Die

GB = 2**30  # as memory is sold and drivers report it
H100_DIE = Die(area_mm2=814, process="tsmc-4n")


@pytest.mark.parametrize(
    ("process", "kg_per_cm2"),
    [("14nm", 1.64), ("8nm", 1.91), ("7nm", 2.46), ("5nm", 2.96), ("3nm", 3.38)],  # ACT inputs, Taiwan, yield 0.875
)
def test_carbon_per_area_follows_from_the_fab_inputs(process: str, kg_per_cm2: float) -> None:
    assert carbon_per_area_kg_per_cm2(process) == pytest.approx(kg_per_cm2, abs=0.006)


def test_a_marketed_process_is_its_class() -> None:
    assert carbon_per_area_kg_per_cm2("TSMC-4N") == carbon_per_area_kg_per_cm2("5nm")


def test_h100_meets_the_footprint_that_it_is_calibrated_on() -> None:
    # NVIDIA HGX H100 product carbon footprint, July 2025: 1,312 kg for 8 GPUs, of it memory 546 and ICs 332 kg.
    bill = device_bill_kg([H100_DIE], 80 * GB, 700, "sxm")

    assert sum(bill.values()) == pytest.approx(164, rel=0.005)
    assert bill["memory"] == pytest.approx(546 / 8, rel=0.005)
    assert bill["logic dies"] + bill["other ICs"] == pytest.approx(332 / 8, rel=0.01)
    assert bill["cooling"] == pytest.approx(230 / 8, rel=0.005)


@pytest.mark.parametrize(
    ("dies", "memory_bytes", "tdp_w", "form", "published_kg"),
    [
        # NVIDIA HGX B200 product carbon footprint, 24 July 2025: 2,274 kg for 8 GPUs with their baseboard.
        ([Die(area_mm2=800, process="tsmc-4np", count=2)], 180 * GB, 1000, "sxm", 284.25),
        # Falk et al. 2025, arXiv 2509.00093, A100 SXM 40 GB, cradle to gate: the module without a baseboard.
        ([Die(area_mm2=826, process="tsmc-n7")], 40 * GB, 400, "sxm_module", 127.6),
    ],
)
def test_devices_that_it_is_not_calibrated_on_are_within_25_percent(
    dies: list[Die], memory_bytes: float, tdp_w: float, form: str, published_kg: float
) -> None:
    figure = modelled_device_kg(dies, memory_bytes, tdp_w, form)

    assert figure.value == pytest.approx(published_kg, rel=0.25)
    assert figure.low <= published_kg <= figure.high
    assert figure.kind == "modelled"


@given(
    area=st.floats(50, 900),
    more_area=st.floats(0, 500),
    gigabytes=st.floats(4, 300),
    more_gigabytes=st.floats(0, 300),
    form=st.sampled_from(["sxm", "pcie", "gddr_card"]),
)
def test_more_silicon_and_more_memory_never_cost_less(
    area: float, more_area: float, gigabytes: float, more_gigabytes: float, form: str
) -> None:
    small = modelled_device_kg([Die(area_mm2=area, process="5nm")], gigabytes * GB, 300, form)
    large = modelled_device_kg(
        [Die(area_mm2=area + more_area, process="5nm")], (gigabytes + more_gigabytes) * GB, 300, form
    )

    assert large.value >= small.value


def test_a_module_in_a_server_has_its_share_of_the_baseboard() -> None:
    module, share = (sum(device_bill_kg([H100_DIE], 80 * GB, 700, form).values()) for form in ("sxm_module", "sxm"))

    assert share - module == pytest.approx((17.4 - 12.0 + 10.5 - 8.0) * 1.1009)


def test_chiplets_share_the_other_ics_of_the_full_size_dies_that_they_make_up() -> None:
    whole = device_bill_kg([Die(area_mm2=800, process="5nm", count=2)], 180 * GB, 1000, "sxm")
    chiplets = device_bill_kg([Die(area_mm2=100, process="5nm", count=16)], 180 * GB, 1000, "sxm")

    assert chiplets == pytest.approx(whole)


def test_an_unknown_process_or_form_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(FootprintError, match=r"die process '2nm' is unknown, expected one of .*3nm"):
        carbon_per_area_kg_per_cm2("2nm")
    with pytest.raises(
        FootprintError, match="device form 'oam' is unknown, expected one of sxm, sxm_module, pcie, gddr_card"
    ):
        device_bill_kg([H100_DIE], 80 * GB, 700, "oam")


def test_a_device_without_dies_is_refused_because_its_silicon_would_be_missing() -> None:
    with pytest.raises(FootprintError, match="dies is empty"):
        modelled_device_kg([], 80 * GB, 700, "sxm")
