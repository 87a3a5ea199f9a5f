"""Hardware profiles: what is shipped, how a name is resolved, and how the user's own come in."""

from __future__ import annotations

import os
import re
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.hardware.cluster import Accelerator, Node
from carbon_plugin.spec.hardware.profiles import (
    ANY_ACCELERATOR,
    PROFILES_VARIABLE,
    default_node_for,
    find_accelerator,
    list_accelerators,
    list_nodes,
    load_accelerator,
    load_node,
    match_device_name,
    sourced_values,
)

SHIPPED = Path(str(files("carbon_plugin.hardware_profiles")))
PROMISED = [
    "v100-sxm2-32gb",
    "a100-sxm-40gb",
    "a100-sxm-80gb",
    "h100-sxm",
    "h100-pcie",
    "h200-sxm",
    "b200-sxm",
    "gb200-nvl72",
    "l4",
    "l40s",
    "a10",
    "t4",
    "mi300x",
    "rtx4090",
    "mi325x",
    "mi350x",
    "gaudi2",
    "max-1550",
    "trainium1",
    "rtx-a6000",
]
PARTS = {"mi250x-gcd": "mi250x", "max-1550-tile": "max-1550", "trainium1-core": "trainium1"}
"""What frameworks call a device where a module holds two of them."""
ALL = [*list_accelerators(), *list_nodes()]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Make a directory with a copy of the H100 that draws 650 W, under its own name and an alias."""
    (tmp_path / "accelerators").mkdir()
    profile = yaml.safe_load((SHIPPED / "accelerators" / "h100-sxm.yaml").read_text())
    profile |= {"name": "ours", "aliases": ["mine"], "device_names": ["Our GPU"], "default_node": None}
    profile["tdp_w"]["value"] = 650
    (tmp_path / "accelerators" / "ours.yaml").write_text(yaml.safe_dump(profile))
    return tmp_path


def rewrite(path: Path, **fields: object) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | fields))


@pytest.mark.parametrize("name", PROMISED)
def test_every_promised_accelerator_is_shipped(name):
    assert load_accelerator(name).name == name


@pytest.mark.parametrize("profile", ALL, ids=lambda profile: f"{type(profile).__name__}-{profile.name}")
def test_every_value_has_a_source_that_is_cited_and_a_range_around_it(profile):
    for field, value in sourced_values(profile):
        assert value.source in profile.sources, field
        assert value.low is None or value.low <= value.value, field
        assert value.high is None or value.high >= value.value, field
        assert (value.low is None) == (value.high is None), field


@pytest.mark.parametrize("profile", ALL, ids=lambda profile: f"{type(profile).__name__}-{profile.name}")
def test_no_citation_is_without_a_value(profile):
    assert set(profile.sources) == {value.source for _, value in sourced_values(profile)}


@pytest.mark.parametrize("profile", ALL, ids=lambda profile: f"{type(profile).__name__}-{profile.name}")
def test_a_file_is_named_after_its_profile(profile):
    folder = "accelerators" if isinstance(profile, Accelerator) else "nodes"

    assert (SHIPPED / folder / f"{profile.name}.yaml").is_file()


def test_names_and_aliases_are_distinct():
    for profiles in (list_accelerators(), list_nodes()):
        names = [name for profile in profiles for name in (profile.name, *profile.aliases)]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("accelerator", list_accelerators(), ids=lambda accelerator: accelerator.name)
def test_datasheet_values_are_plausible(accelerator: Accelerator):
    peaks = accelerator.peak_flops

    assert 1e13 < max(peak.value for peak in peaks.values()) < 2e16
    assert accelerator.idle_power_w.value < accelerator.tdp_w.value
    assert 8 * 2**30 <= accelerator.memory_bytes.value <= 512 * 2**30
    if "fp8" in peaks:
        # Twice the rate of bf16, but for Gaudi 3, whose engines run both at one rate; Trainium2 has 1.95 times.
        ratio = peaks["fp8"].value / peaks["bf16"].value
        assert ratio == pytest.approx(1.0 if accelerator.name == "gaudi3" else 2.0, rel=0.03)
    if accelerator.idle_context_power_w is not None:
        assert accelerator.idle_context_power_w.value > accelerator.idle_power_w.value


@pytest.mark.parametrize(("part", "module"), PARTS.items())
def test_two_parts_are_their_module_in_rate_power_and_embodied_carbon(part, module):
    half, whole = load_accelerator(part), load_accelerator(module)
    fields = ("memory_bytes", "memory_bandwidth_bytes_per_s", "tdp_w", "idle_power_w", "embodied_kg")

    for field in fields:
        assert 2 * getattr(half, field).value == pytest.approx(getattr(whole, field).value), field
    assert set(half.peak_flops) == set(whole.peak_flops)
    for dtype, peak in half.peak_flops.items():
        assert 2 * peak.value == pytest.approx(whole.peak_flops[dtype].value), dtype
    assert 2 * half.scaleup.bandwidth_bytes_per_s.value == pytest.approx(whole.scaleup.bandwidth_bytes_per_s.value)


def test_an_mi300a_has_the_peaks_of_228_of_the_304_units_of_an_mi300x() -> None:
    whole, part = load_accelerator("mi300x").peak_flops, load_accelerator("mi300a").peak_flops

    assert set(part) == set(whole)
    for dtype, peak in part.items():
        assert peak.value == pytest.approx(whole[dtype].value * 228 / 304, rel=1e-3), dtype
        assert peak.confidence == "derived", dtype


@pytest.mark.parametrize(("part", "module"), PARTS.items())
def test_a_node_of_parts_is_the_node_of_modules_with_twice_as_many_devices(part, module):
    parts, modules = default_node_for(load_accelerator(part)), default_node_for(load_accelerator(module))

    assert parts.accelerators == 2 * modules.accelerators
    assert parts.host == modules.host
    for field in ("bandwidth_bytes_per_s", "power_w_per_device", "embodied_kg_per_device"):
        halves, wholes = getattr(parts.network, field).value, getattr(modules.network, field).value
        assert parts.accelerators * halves == pytest.approx(modules.accelerators * wholes), field


@pytest.mark.parametrize("accelerator", list_accelerators(), ids=lambda accelerator: accelerator.name)
def test_every_accelerator_has_a_node_that_takes_it(accelerator: Accelerator):
    assert default_node_for(accelerator).accelerator in (ANY_ACCELERATOR, accelerator.name)


def test_a_full_dgx_h100_draws_what_was_measured():
    node, device = load_node("dgx-h100"), load_accelerator("h100-sxm")

    drawn = node.host.base_power_w.value + 8 * device.tdp_w.value * (1 + node.host.overhead_fraction.value)

    assert drawn == pytest.approx(8400, rel=0.03)  # measured peak of an 8x H100 HGX node, arXiv 2412.08602


@pytest.mark.parametrize("node", [n for n in list_nodes() if n.host.rated_power_w], ids=lambda node: node.name)
def test_a_node_stays_within_its_rating(node: Node):
    device = load_accelerator(node.accelerator)
    host = node.host
    drawn = host.base_power_w.value + node.accelerators * device.tdp_w.value * (1 + host.overhead_fraction.value)

    assert host.rated_power_w is not None
    assert drawn <= 1.03 * host.rated_power_w.value


@pytest.mark.parametrize(
    ("typed", "name"),
    [("h100", "h100-sxm"), ("A100 SXM", "a100-sxm-80gb"), ("RTX_4090", "rtx4090"), ("gb200", "gb200-nvl72")],
)
def test_an_alias_is_found_however_it_is_written(typed, name):
    assert load_accelerator(typed).name == name


def test_a_node_is_found_by_alias():
    assert load_node("hgx-h100").name == "dgx-h100"


def test_an_unknown_name_lists_the_nearest():
    with pytest.raises(
        SpecError, match=r"^unknown accelerator 'h10'; nearest: h100-sxm, h100-nvl, h100-pcie.*CARBON_PLUGIN_PROFILES"
    ):
        load_accelerator("h10")
    with pytest.raises(SpecError, match=r"^unknown node 'dgx-h10'; nearest: dgx-h100"):
        load_node("dgx-h10")
    assert find_accelerator("h10") is None


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb"),
        ("A100-SXM4-40GB", "a100-sxm-40gb"),
        ("Tesla V100-SXM2-32GB", "v100-sxm2-32gb"),
        ("Tesla T4", "t4"),
        ("nvidia geforce rtx 4090", "rtx4090"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "h100-sxm"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA GH200 120GB", "gh200-quad"),
        ("AMD Instinct MI300X OAM", "mi300x"),
    ],
)
def test_a_device_is_recognised_by_what_its_driver_calls_it(driver, name):
    accelerator = match_device_name(driver)

    assert accelerator is not None
    assert accelerator.name == name


def test_a_gh200_in_a_node_of_four_has_less_power_and_links_to_the_others():
    alone, quad = load_accelerator("gh200"), load_accelerator("gh200-quad")

    assert (alone.scaleup.domain, quad.scaleup.domain) == (1, 4)
    assert alone.efficiency is not None
    assert quad.efficiency is not None
    assert quad.efficiency.gemm_share.value < alone.efficiency.gemm_share.value
    assert load_node(quad.default_node).accelerators == 4


@pytest.mark.parametrize("driver", ["NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", "Tesla T4"])
def test_a_device_can_be_named_as_its_driver_calls_it(driver):
    recognised = match_device_name(driver)

    assert recognised is not None
    assert load_accelerator(driver) == recognised
    assert find_accelerator(f"{driver} MIG 1g.10gb") is None  # a slice of it is another device


@pytest.mark.parametrize("driver", ["NVIDIA H100", "NVIDIA A10G", "", "Intel(R) Xeon(R)"])
def test_a_device_that_is_not_known_is_not_guessed(driver):
    assert match_device_name(driver) is None


def test_own_profiles_add_to_the_shipped_ones(own: Path):
    assert load_accelerator("mine", profile_dirs=[own]).tdp_w.value == 650
    assert match_device_name("Our GPU", profile_dirs=[own]) is not None
    assert len(list_accelerators(profile_dirs=[own])) == len(list_accelerators()) + 1
    assert load_accelerator("h100-sxm", profile_dirs=[own]).tdp_w.value == 700


def test_an_own_profile_of_the_same_name_replaces_the_shipped_one(own: Path):
    rewrite(own / "accelerators" / "ours.yaml", name="h100-sxm")

    assert load_accelerator("h100-sxm", profile_dirs=[own]).tdp_w.value == 650
    assert len(list_accelerators(profile_dirs=[own])) == len(list_accelerators())


def test_own_profiles_may_lie_side_by_side(own: Path):
    (own / "accelerators" / "ours.yaml").rename(own / "device.yml")
    node = yaml.safe_load((SHIPPED / "nodes" / "workstation.yaml").read_text())
    (own / "box.yaml").write_text(yaml.safe_dump(node | {"name": "box", "accelerator": "ours"}))

    accelerator = load_accelerator("ours", profile_dirs=[own])

    assert load_node("box", profile_dirs=[own]).accelerator == "ours"
    assert default_node_for(accelerator, profile_dirs=[own]).name == "box"


def test_an_accelerator_without_any_node_gets_the_workstation(own: Path):
    assert default_node_for(load_accelerator("ours", profile_dirs=[own]), profile_dirs=[own]).name == "workstation"


def test_the_environment_names_directories_too(own: Path, tmp_path: Path, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv(PROFILES_VARIABLE, os.pathsep.join([str(empty), str(own)]))

    assert load_accelerator("mine").name == "ours"


def test_an_edited_profile_is_read_again(own: Path):
    path = own / "accelerators" / "ours.yaml"
    assert load_accelerator("ours", profile_dirs=[own]).vendor == "nvidia"

    rewrite(path, vendor="us")
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1_000_000))

    assert load_accelerator("ours", profile_dirs=[own]).vendor == "us"


def test_a_directory_that_is_not_there_is_named(tmp_path: Path, monkeypatch):
    with pytest.raises(SpecError, match=r"^--profiles \(profile_dirs\): .*nowhere is not a directory"):
        load_accelerator("h100", profile_dirs=[tmp_path / "nowhere"])
    monkeypatch.setenv(PROFILES_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(SpecError, match=rf"^{PROFILES_VARIABLE}: .*nowhere is not a directory"):
        load_accelerator("h100")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("value: 700", "value: hot", r"bad\.yaml:\d+: tdp_w\.value: expected number, got 'hot'$"),
        ("tdp_w:", "tpd_w:", r"bad\.yaml:\d+: tpd_w: unknown field; nearest: tdp_w"),
        ("confidence: read", "confidence: sure", r"confidence: expected one of measured, read, .*, got 'sure'$"),
        ("value: 700,", "value: -700,", r"bad\.yaml:\d+: tdp_w is -700, expected a positive number$"),
        ("value: 70,", "value: 970,", r"low 68, value 970, high 74: expected low <= value <= high$"),
        ("value: 70, low: 68, high: 74", "value: 970", r"idle_power_w is 970, expected below tdp_w 700$"),
        ("value: 989.4e12", "value: 0", r"peak_flops\.bf16 is 0, expected a positive number$"),
        ("domain: 8", "domain: 0", r"bad\.yaml:\d+: domain is 0, expected a positive integer$"),
        ("  gemm_share: {value: 0.", "  gemm_share: {value: 68.", r"gemm_share is 68\.\d+, expected at most 10 "),
        ("source: epoch", "source: a-friend", r"bad\.yaml: .*: source is 'a-friend', expected a key of sources: "),
        ("peak_flops:", "peaks:", r"bad\.yaml: neither an accelerator profile \(peak_flops\) nor a node profile"),
    ],
)
def test_a_bad_profile_is_refused_with_file_line_and_field(tmp_path: Path, old, new, message):
    text = (SHIPPED / "accelerators" / "h100-sxm.yaml").read_text()
    assert old in text
    (tmp_path / "bad.yaml").write_text(re.sub(r"^name: .*", "name: bad", text).replace(old, new, 1))

    with pytest.raises(SpecError, match=message):
        load_accelerator("bad", profile_dirs=[tmp_path])


@pytest.mark.parametrize(
    ("name", "measured_flops"),
    [
        ("a40", 122e12),
        ("l40s", 269e12),
        ("gaudi2", 419e12),
        ("jetson-t5000", 113e12),
        ("max-1550-tile", 2645e12 / 12),
        ("mi250x-gcd", (147e12 + 127e12) / 2),
    ],
)
def test_measured_products_count_with_what_an_a100_reaches_of_its_own_in_training(
    name: str, measured_flops: float
) -> None:
    device = load_accelerator(name)
    assert device.efficiency.gemm_share is not None
    sustained_flops = device.efficiency.gemm_share.value * device.peak_flops["bf16"].value
    assert 0.88 <= sustained_flops / measured_flops <= 0.92
