"""Rates of links are read with their units: bits and bytes are eight apart, whatever words stand around them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.parsing.rates_of_links import nic_bytes_per_s, rate_bytes_per_s, scaleup_bytes_per_s

H100_ONE_WAY = 450e9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("400Gb", 50e9),
        ("400 Gb/s", 50e9),
        ("400G", 50e9),
        ("400 Gbps", 50e9),
        ("3.2 Tb/s", 400e9),
        ("8x50 GB/s", 400e9),
        ("8x400G", 400e9),
        ("4x 200 Gb/s", 100e9),
        ("100GbE", 12.5e9),
        ("24x 100GbE", 300e9),
        ("NDR400", 50e9),
        ("8x HDR", 200e9),
        ("Slingshot-11", 25e9),
    ],
)
def test_rates_are_read_in_their_own_unit(text, expected) -> None:
    assert rate_bytes_per_s(text) == pytest.approx(expected)


@given(
    value=st.floats(0.1, 9999).map(lambda number: round(number, 3)),
    prefix=st.sampled_from(["M", "G", "T"]),
    count=st.integers(1, 64),
    space=st.sampled_from(["", " "]),
)
def test_bytes_are_eight_bits_and_prefixes_a_thousand_at_any_size(value, prefix, count, space) -> None:
    bits = rate_bytes_per_s(f"{value}{space}{prefix}b/s")
    assert rate_bytes_per_s(f"{value}{space}{prefix}B/s") == pytest.approx(8 * bits)
    assert rate_bytes_per_s(f"{count}x{space}{value} {prefix}b/s") == pytest.approx(count * bits)
    assert bits == pytest.approx(value * {"M": 1e6, "G": 1e9, "T": 1e12}[prefix] / 8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1600 Gb/s RoCE per node", 25e9),
        ("400Gb/s RDMA per GPU", 50e9),
        ("400 GB/s per node", 50e9),
        ("8x50 GB/s", 50e9),
        ("8x NDR400 IB (Eos, memory)", 50e9),
        ("8x HDR200 IB (Selene, memory)", 25e9),
        ("Google A3 Ultra / A4 RoCE 8x400G", 50e9),
        ("1x 100 Gb/s IB (EDR)", 12.5e9 / 8),
        ("24x 100GbE NIC per node", 37.5e9),
        ("single node", None),
        ("DGX A100 cluster IB", None),
        ("ICI torus", None),
        ("", None),
    ],
)
def test_network_phrases_of_the_sources_are_understood(text, expected) -> None:
    found = nic_bytes_per_s(text, 8)
    assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    "text",
    [
        "3.2 Tb/s per node",
        "about 400 Gb/s",
        "400 GiB/s",
        "400 GB/s, 200 Gb/s",
        "0 Gb/s",
        "-50 GB/s",
        "8x",
        "9" * 400 + "G",
    ],
)
def test_a_rate_with_other_words_around_it_is_refused(text) -> None:
    with pytest.raises(SpecError, match="is not a rate"):
        rate_bytes_per_s(text)


@pytest.mark.parametrize("text", ["100", "fast, 100 per second", "4 furlongs"])
def test_a_number_that_is_no_rate_is_refused_by_its_words(text) -> None:
    with pytest.raises(SpecError, match=text):
        nic_bytes_per_s(text, 8)
    with pytest.raises(SpecError, match=text):
        rate_bytes_per_s(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NVLink3 (4 links)", 100e9),
        ("NVLink4, 18 links", 450e9),
        ("NVLink3, 4 of 12 NVLinks", 100e9),
        ("NVLink (400 GB/s, export version)", 200e9),
        ("NVLink4 900 GB/s", 450e9),
        ("NVLink 3.0 (600 GB/s)", 300e9),
        ("NVLink (1,800 GB/s)", 900e9),
        ("NVLink4 (450 GB/s)", 450e9),
        ("NVLink, 200 GB/s each direction", 200e9),
        ("NVLink, 200 GB/s unidirectional", 200e9),
        ("NVLink4/NVSwitch", None),
        ("NVL72 NVLink5", None),
        ("NVL72 NVLink5, 18 links", 900e9),
        ("Infinity Fabric", None),
    ],
)
def test_scaleup_links_of_the_node_at_hand_are_read(text, expected) -> None:
    found = scaleup_bytes_per_s(text, H100_ONE_WAY)
    assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("text", ["NVLink3, 600 GiB/s", "NVLink (1_800 GB/s)", "NVLink 400"])
def test_a_number_of_links_that_is_no_rate_is_refused_by_its_words(text) -> None:
    with pytest.raises(SpecError, match="is not understood"):
        scaleup_bytes_per_s(text, H100_ONE_WAY)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,600 Gb/s per node", 25e9),
        ("400 gbps per GPU", 50e9),
        ("400 Gbit/s per GPU", 50e9),
        ("400 Gbits/s per GPU", 50e9),
        ("Slingshot-11 4x200 Gb/s", 12.5e9),
        ("8 x NDR 400 per node", 50e9),
    ],
)
def test_rates_are_read_as_people_write_them(text, expected) -> None:
    assert nic_bytes_per_s(text, 8) == pytest.approx(expected)


@pytest.mark.parametrize("grouping", ["_", "'", "\u2019", " ", "."])
@given(thousands=st.integers(1, 9), hundreds=st.integers(100, 999))
def test_a_number_is_never_read_from_its_middle(grouping, thousands, hundreds) -> None:
    text = f"{thousands}{grouping}{hundreds} Gb/s per node"
    if grouping == ".":
        assert nic_bytes_per_s(text, 8) == pytest.approx(float(f"{thousands}.{hundreds}") * 1e9 / 64)
    else:
        with pytest.raises(SpecError, match="is not understood"):
            nic_bytes_per_s(text, 8)
    whole = (1000 * thousands + hundreds) * 1e9 / 64
    assert nic_bytes_per_s(f"{thousands},{hundreds} Gb/s per node", 8) == pytest.approx(whole)


@pytest.mark.parametrize(
    "text",
    [
        "1,5 Tb/s per node",
        "1e3 Gb/s per node",
        "-400 Gb/s per GPU",
        "8 NICs of 400 Gb/s per node",
        "8 ConnectX-7 400 Gb/s per node",
        "400 Gb/s * 8 per node",
        "200 Gb/s x 4",
        "dual 200G per node",
        "10 Gb/s to 100 Gb/s per node",
    ],
)
def test_a_number_beside_a_rate_that_may_count_nics_is_never_left_out(text) -> None:
    with pytest.raises(SpecError, match="is not understood"):
        nic_bytes_per_s(text, 8)
