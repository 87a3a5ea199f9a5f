"""Find the profile of a device, and the chips of a slice, by the names that published rows give them."""

from __future__ import annotations

import re
from functools import cache

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.hardware.profiles import find_accelerator, match_device_name

# Names that rows give to devices and that no profile has, by the start of the phrase.
PCIE_DEVICES: tuple[tuple[str, str], ...] = (
    ("A100-80GB", "a100-pcie-80gb"),
    ("A100-PCIe", "a100-pcie-80gb"),
    ("H100", "h100-pcie"),
)
DEVICES: tuple[tuple[str, str], ...] = (
    ("A100-80GB-SXM", "a100-sxm-80gb"),
    ("A100-40GB", "a100-sxm-40gb"),
    ("A100-SXM-40GB", "a100-sxm-40gb"),
    ("A100-SXM4-40GB", "a100-sxm-40gb"),
    ("A100", "a100-sxm-80gb"),
    ("V100-SXM3", "v100-sxm3-32gb"),
    ("V100", "v100-sxm2-32gb"),
    ("H100-96GB-HBM2e", "h100-sxm-96gb-hbm2e-500w"),
    ("A800", "a800-sxm-80gb"),
    ("H100-NVL", "h100-nvl"),
    ("H100", "h100-sxm"),
    ("H200", "h200-sxm"),
    ("H800", "h800-sxm"),
    ("H20", "h20-sxm"),
    ("GB300", "gb300-nvl72"),
    ("GB200", "gb200-nvl72"),
    ("B300", "b300-sxm"),
    ("B200", "b200-sxm"),
    ("GH200", "gh200"),
    ("MI300X", "mi300x"),
    ("MI325X", "mi325x"),
    ("MI250X", "mi250x"),
    ("MI350X", "mi350x"),
    ("MI355X", "mi355x"),
    ("Gaudi2", "gaudi2"),
    ("RTX-4090", "rtx4090"),
    ("RTX-A6000", "rtx-a6000"),
    ("TPUv4", "tpu-v4"),
    ("TPUv5e", "tpu-v5e"),
    ("TPUv5p", "tpu-v5p"),
    ("TPUv6e", "tpu-v6e"),
)
TPU_SLICE = re.compile(r"(?i)(?:TPU-?)?(v\d(?:e|p|litepod)?)-(\d+)")
"""Google's name of a slice: a generation and a size."""
CORES_NAMED = frozenset(("v2", "v3", "v4", "v5p"))
"""Generations of TPU whose slices have their number of cores in their name, two a chip; later ones have their chips
(TPU versions of Google's documentation)."""


def slice_chips(gpu: str) -> int | None:
    """Return the chips of a slice of TPUs that a row names in place of its device ("v5p-128" has 64), else None."""
    found = TPU_SLICE.fullmatch(_device_words(gpu))
    if found is None:
        return None
    return int(found.group(2)) // (2 if found.group(1).lower() in CORES_NAMED else 1)


def _device_words(gpu: str) -> str:
    return re.sub(r"^((NVIDIA|AMD|Google|Tesla|GeForce|Quadro)-)+", "", re.sub(r"[\s_]+", "-", gpu.strip()))


@cache
def accelerator_name(gpu: str) -> str:
    """Return the profile name of a device as rows write it. Raises `SpecError` for one without a profile."""
    name = _device_words(gpu)
    if (tpu := TPU_SLICE.fullmatch(name)) is not None:
        name = f"tpu-{tpu.group(1)}"
    found = find_accelerator(name) or find_accelerator(name.replace("-", "")) or match_device_name(gpu)
    if found is not None:
        return found.name
    if (part := re.search(r"\b(gcd|tile|die|neuroncore)\b", gpu, re.IGNORECASE)) is not None:
        module = re.split(r"[-\s(]*$", name[: name.lower().index(part.group(1).lower())])[0]
        half = find_accelerator(f"{module}-{part.group(1)}")
        if half is not None:
            return half.name
        # The profile of the module describes two such devices, so that it is not the profile of what the row counts.
        raise SpecError(f"gpu {gpu!r} counts parts of a module, which have no profile of their own")
    known = PCIE_DEVICES if "PCIE" in name.upper() else DEVICES
    for start, profile in known:
        if re.match(rf"{re.escape(start)}(?!\d)", name, re.IGNORECASE):  # an H1000 is no H100
            return profile
    raise SpecError(f"gpu {gpu!r} has no profile")
