"""Convert rates of links and networks as people write them into bytes/s in one direction.

The unit is read and never assumed: "8x50 GB/s" is bytes and "8x400 Gb/s" is bits; "400G", "NDR400" and "100GbE" are the
port names of networks, which count bits. A text that holds a number in any other form is refused, and the error quotes
it; a text without a number states no rate.
"""

from __future__ import annotations

import re

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.parsing.boundary import shown, whole_number

BITS = 8
LONGEST = 60
"""The most characters of a rate that a person writes."""
PREFIXES = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
PORTS = {
    "fdr": 56e9,
    "edr": 100e9,
    "hdr": 200e9,
    "ndr": 400e9,
    "xdr": 800e9,
    "slingshot-10": 100e9,
    "slingshot-11": 200e9,
}
"""The rate in bit/s of one port of a network that is named without its rate."""
NVLINK_BYTES_PER_S = {1: 20e9, 2: 25e9, 3: 25e9, 4: 25e9, 5: 50e9}
"""The rate of one NVLink in one direction, by generation; data sheets print the sum of both directions."""
MOST_NVLINKS = {1: 4, 2: 6, 3: 12, 4: 18, 5: 18}
"""The number of links of the largest device of each generation: P100, V100, A100, H100, B200."""
NO_RATE = (
    "single", "torus", "nvswitch", "nvl72", "infinity fabric", "neuronlink", "data-centre network", "pcie", "ici",
    "dcn", "multislice",
)  # fmt: skip
"""The words of phrases that name a fabric and no rate."""
_RATE = re.compile(
    r"(?:(?P<count>\d+)\s*[x\u00d7*]\s*)?(?:(?P<port>[EHNXF]DR)\s*)?(?P<value>\d+(?:\.\d+)?)\s*"
    r"(?P<prefix>[kKMGT])(?P<kind>bE|bit|b|B)?(?:ps|/s|\b)",
)
_NAMED = re.compile(r"(?:(?P<count>\d+)\s*[x\u00d7*]\s*)?(?P<port>[EHNXF]DR)\s*(?P<value>\d+)?", re.IGNORECASE)
_NVLINK = re.compile(r"NVLink\s*(?P<generation>\d)", re.IGNORECASE)
# Digits after letters are part of a name: NVL72 is a rack, not 72 links.
_LINKS = re.compile(r"(?<![A-Za-z0-9])(?P<links>\d+)\s*(?:of\s*\d+\s*)?(?:x\s*)?(?:NV)?links?", re.IGNORECASE)
_PER_NODE = re.compile(r"(?:per|a|/)\s*(?:node|server|host|machine)", re.IGNORECASE)
_PER_DEVICE = re.compile(r"(?:per|a|/)\s*(?:GPU|chip|device|accelerator|tile|core)", re.IGNORECASE)


def rate_bytes_per_s(text: str) -> float:
    """Return the bytes/s of a rate such as "400 Gb/s", "400Gb", "3.2 Tb/s", "50 GB/s", "4x 200G" or "NDR400".

    Raises `SpecError` naming the text where it is not a rate above 0, or holds more than the rate: words such as "per
    node" would change what the number counts.
    """
    plain = text.strip()
    whole = len(plain) <= LONGEST and (_RATE.fullmatch(plain) or _NAMED.fullmatch(plain) or plain.lower() in PORTS)
    found = _found_rate(plain) if whole else None
    if found is None or found <= 0:
        raise SpecError(f"{shown(text)} is not a rate; expected a number with its unit, such as 400 Gb/s or 50 GB/s")
    return found


def is_counted(text: str) -> bool:
    """Return whether a rate has a count before it, as in "8x 400 Gb/s"."""
    return re.match(r"\s*\d+\s*[x\u00d7*]", text) is not None


def nic_bytes_per_s(text: str, devices_per_node: int) -> float | None:
    """Return the one-way bytes/s of NIC that a device has by a phrase such as "1600 Gb/s RoCE per node" or "8x NDR400
    IB".

    A count of NICs is taken as that of a node, even where it is 1. Returns None where the phrase names no rate, or does
    not say what the rate belongs to. Raises `SpecError` for a number that is no rate.
    """
    plain = re.sub(r"\([^)]*\)", "", text).strip()
    rate = _found_rate(plain)
    if rate is None:
        # A digit inside a word is the name of a part (A100), not a rate.
        if re.search(r"(?<![A-Za-z0-9])\d", plain) and not any(word in plain.lower() for word in NO_RATE):
            raise SpecError(
                f"inter_node {text!r} is not understood; expected a rate such as 8x 400 Gb/s or 200 Gb/s per GPU"
            )
        return None
    if _PER_DEVICE.search(plain):
        return rate
    if _PER_NODE.search(plain) or re.search(r"\d+\s*[x\u00d7*]", plain):
        return rate / devices_per_node
    return None


def scaleup_bytes_per_s(text: str) -> float | None:
    """Return the one-way bytes/s of a device's scale-up links by a phrase such as "NVLink3 (4 links)" or "NVLink (400
    GB/s)".

    A rate beside the word NVLink counts both directions, as data sheets do. Returns None where the phrase states
    neither. Raises `SpecError` for a generation, or a number of links, that does not exist.
    """
    generation, links = _NVLINK.search(text), _LINKS.search(text)
    if generation is not None and links is not None:
        number = int(generation.group("generation"))
        if number not in NVLINK_BYTES_PER_S:
            raise SpecError(f"{shown(text)} names NVLink generation {number}, expected 1 to 5")
        count, most = whole_number(links.group("links")), MOST_NVLINKS[number]
        if count is None or not 1 <= count <= most:
            raise SpecError(f"{shown(text)}: expected 1 to {most} links, which a device of NVLink {number} has")
        return count * NVLINK_BYTES_PER_S[number]
    if "nvlink" in text.lower():
        rate = _found_rate(text[text.lower().index("nvlink") + len("nvlink") :])
        return None if rate is None else rate / 2
    return None


def _found_rate(text: str) -> float | None:
    """Return the first rate in a text in bytes/s, times the count before it; None where there is none."""
    if found := _RATE.search(text):
        value = float(found["value"]) * PREFIXES[found["prefix"].lower()]
        bytes_per_s = value if found["kind"] == "B" else value / BITS
    elif found := _NAMED.search(text):
        value = float(found["value"]) * 1e9 if found["value"] else PORTS[found["port"].lower()]
        bytes_per_s = value / BITS
    else:
        name = next((name for name in PORTS if name in text.lower()), None)
        return None if name is None else PORTS[name] / BITS
    return bytes_per_s * int(found["count"] or 1)
