"""Convert rates of links and networks as people write them into bytes/s in one direction.

The unit is read and never assumed: "8x50 GB/s" is bytes and "8x400 Gb/s" is bits; "400G", "NDR400" and "100GbE" are the
port names of networks, which count bits. A text that holds a number in any other form is refused, and the error quotes
it; a text without a number states no rate.
"""

from __future__ import annotations

import math
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
_COUNTED = re.compile(r"\d\s*[x\u00d7*]|[x\u00d7*]\s*\d")
TIMES = r"\s*[x\u00d7*]\s*"
WHOLE = r"(?<![\w.,'\u2019+\-])"
"""What a number is not preceded by: it would be the end of a longer number, such as 1_600 or -400, or of a name."""
_RATE = re.compile(
    rf"{WHOLE}(?:(?P<count>\d+){TIMES})?(?:(?P<port>[EHNXF]DR)\s*)?"
    r"(?P<value>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)\s*"
    r"(?P<prefix>[kKMGT]|[mgt](?=b(?:it|ps)))(?P<kind>bE|bits?|b|B)?(?:ps|/s|\b)",
)
_NAMED = re.compile(rf"{WHOLE}(?:(?P<count>\d+){TIMES})?(?P<port>[EHNXF]DR)\s*(?P<value>\d+)?", re.IGNORECASE)
# Digits within a word or after its dash are part of a name: A100, Slingshot-11.
_NUMBER = re.compile(r"(?<![A-Za-z0-9])(?<![A-Za-z]-)\d")
_COUNT_WORD = re.compile(r"\b(?:dual|double|twin|triple|quad|two|three|four|six|eight|sixteen)\b", re.IGNORECASE)
_GENERATION = re.compile(r"^\s*\d(?:\.0)?\b")
_ONE_WAY = re.compile(r"(?:each|per|one|a|single)[ -](?:direction|way)|uni-?directional", re.IGNORECASE)
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
    found = _rate_and_rest(plain)[0] if whole else None
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
    not say what the rate belongs to. Raises `SpecError` for a number that is no rate, and for one beside the rate,
    which may count NICs.
    """
    plain = re.sub(r"\([^)]*\)", "", text).strip()
    rate, rest = _rate_and_rest(plain)
    of_device, of_node = _PER_DEVICE.search(plain), _PER_NODE.search(plain) or _COUNTED.search(plain)
    if rate is None:
        understood = any(word in plain.lower() for word in NO_RATE) or not _NUMBER.search(rest)
    else:
        understood = not (of_device or of_node) or not (_NUMBER.search(rest) or _COUNT_WORD.search(rest))
    if not understood:
        raise SpecError(
            f"inter_node {shown(text)} is not understood; expected a rate such as 8x 400 Gb/s or 200 Gb/s per GPU"
        )
    if rate is None or not (of_device or of_node):
        return None
    return rate if of_device else rate / devices_per_node


def devices_per_nic(text: str, devices_per_node: int) -> float:
    """Return how many devices of a node share one NIC by a phrase such as "1x 25 Gb/s" or "4x EDR", 1 where each has
    one or more, and where the phrase counts none.
    """
    plain = re.sub(r"\([^)]*\)", "", text).strip()
    found = _RATE.search(plain) or _NAMED.search(plain)
    counted = int(found["count"] or 0) if found and not _PER_DEVICE.search(plain) else 0
    return max(devices_per_node / counted, 1.0) if counted else 1.0


def scaleup_bytes_per_s(text: str, own_bytes_per_s: float) -> float | None:
    """Return the one-way bytes/s of a device's scale-up links by a phrase such as "NVLink3 (4 links)" or "NVLink (400
    GB/s)".

    A rate beside the word NVLink counts both directions, as data sheets do, unless it says that it counts one or equals
    `own_bytes_per_s`, the rate that the device has in one. Returns None where the phrase states neither. Raises
    `SpecError` for a generation, or a number of links, that does not exist, and for a number that is no rate.
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
    if "nvlink" not in text.lower():
        return None
    rate, rest = _rate_and_rest(text[text.lower().index("nvlink") + len("nvlink") :])
    if _NUMBER.search(_GENERATION.sub("", rest)):
        raise SpecError(
            f"{shown(text)} is not understood; expected a rate such as NVLink (400 GB/s) or NVLink3 (4 links)"
        )
    if rate is None:
        return None
    one_way = _ONE_WAY.search(text) is not None or math.isclose(rate, own_bytes_per_s, rel_tol=1e-3)
    return rate if one_way else rate / 2


def _rate_and_rest(text: str) -> tuple[float | None, str]:
    """Return the first rate in a text in bytes/s, times the count before it, and the text without it; None and all of
    the text where there is none.
    """
    if found := _RATE.search(text):
        value = float(found["value"].replace(",", "")) * PREFIXES[found["prefix"].lower()]
        bytes_per_s = value if found["kind"] == "B" else value / BITS
    elif found := _NAMED.search(text):
        value = float(found["value"]) * 1e9 if found["value"] else PORTS[found["port"].lower()]
        bytes_per_s = value / BITS
    else:
        name = next((name for name in PORTS if name in text.lower()), None)
        return (None if name is None else PORTS[name] / BITS), text
    return bytes_per_s * int(found["count"] or 1), text[: found.start()] + text[found.end() :]
