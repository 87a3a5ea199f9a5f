"""Bandwidths of a spec or profile may have their unit; bare numbers are bytes/s, and other text is refused."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.hardware.cluster import ScaleUp
from carbon_plugin.spec.hardware.profiles import load_accelerator, load_node
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.parsing.decoding import decode
from carbon_plugin.spec.parsing.document import Document
from carbon_plugin.spec.parsing.rates_of_links import PORTS

SHIPPED_PROFILES = Path(str(files("carbon_plugin.hardware_profiles")))
RATE = {"source": "ours", "confidence": "read"}


def scaleup(value: Any) -> float:
    fields = {"technology": "NVLink", "domain": 8, "bandwidth_bytes_per_s": {"value": value, **RATE}}
    return decode(Document(fields, "h.yaml", {}), ScaleUp).bandwidth_bytes_per_s.value


@given(rate=st.integers(1, 9999), prefix=st.sampled_from(["M", "G", "T"]), count=st.integers(1, 64))
def test_a_rate_with_its_unit_is_the_number_in_bytes_per_s(rate, prefix, count) -> None:
    size = {"M": 1e6, "G": 1e9, "T": 1e12}[prefix]
    assert scaleup(f"{rate} {prefix}B/s") == pytest.approx(rate * size)
    assert scaleup(f"{rate}{prefix}b/s") == pytest.approx(rate * size / 8)
    assert scaleup(f"{count}x{rate} {prefix}B/s") == pytest.approx(count * rate * size)
    assert scaleup(rate * size) == rate * size


@given(text=st.text(max_size=20).filter(lambda text: not any(character.isdigit() for character in text)))
@example("400")
@example("8x")
@example("400 GiB/s")
@example("400 Gb/s\nper node")
@example("9" * 400 + " Gb/s")
def test_any_other_text_is_refused_by_field_in_one_line(text) -> None:
    # Networks that are named by their generation ("HDR") are rates without a digit.
    assume(text.strip().lower() not in PORTS)
    with pytest.raises(SpecError, match=r"^h\.yaml: bandwidth_bytes_per_s\.value: ") as refusal:
        scaleup(text)
    assert "\n" not in str(refusal.value)


def profile(folder: Path, kind: str, name: str, change: dict[str, Any]) -> Path:
    fields = yaml.safe_load((SHIPPED_PROFILES / kind / f"{name}.yaml").read_text())
    fields |= {"name": "ours", "aliases": [], "device_names": []} if kind == "accelerators" else {"name": "ours"}
    for field, text in change.items():
        part, _, inner = field.partition(".")
        (fields[part][inner] if inner else fields[part])["value"] = text
    (folder / "ours.yaml").write_text(yaml.safe_dump(fields))
    return folder


@pytest.mark.parametrize(
    ("text", "expected", "shared"), [("400 Gb/s", 50e9, 1), ("8x 400 Gb/s", 50e9, 1), ("4x 200G", 12.5e9, 2)]
)
def test_counted_nics_of_a_node_are_shared_by_its_devices(tmp_path, text, expected, shared) -> None:
    folder = profile(tmp_path, "nodes", "dgx-h100", {"network.bandwidth_bytes_per_s": text})
    network = load_node("ours", profile_dirs=[folder]).network
    assert network.bandwidth_bytes_per_s.value == pytest.approx(expected)
    assert network.devices_per_nic == shared


def test_less_than_one_device_on_a_nic_is_refused(tmp_path) -> None:
    folder = profile(tmp_path, "nodes", "dgx-h100", {})
    text = (folder / "ours.yaml").read_text().replace("technology:", "devices_per_nic: 0.5\n  technology:")
    (folder / "ours.yaml").write_text(text)
    with pytest.raises(SpecError, match=r"devices_per_nic is 0\.5, expected 1 or more"):
        load_node("ours", profile_dirs=[folder])


def test_a_network_without_a_unit_that_we_know_is_refused_by_its_field(tmp_path) -> None:
    folder = profile(tmp_path, "nodes", "dgx-h100", {"network.bandwidth_bytes_per_s": "3.2 Tb/s per node"})
    with pytest.raises(SpecError, match=r"ours\.yaml:\d+: network\.bandwidth_bytes_per_s\.value: '3\.2 Tb/s per node'"):
        load_node("ours", profile_dirs=[folder])


def test_a_count_at_the_share_of_one_device_is_refused(tmp_path) -> None:
    change = {"scaleout_bandwidth_bytes_per_s": "8x 400 Gb/s"}
    with pytest.raises(SpecError, match=r"scaleout_bandwidth_bytes_per_s\.value: expected the share of one device"):
        load_accelerator("ours", profile_dirs=[profile(tmp_path, "accelerators", "h100-sxm", change)])


def test_storage_of_a_run_spec_may_have_its_unit() -> None:
    def spec(rate: Any) -> Any:
        training = {"seq_len": 4096, "global_batch_size": 64, "steps": 10}
        training["reliability"] = {"storage_bytes_per_s_per_node": rate}
        cluster = {"accelerator": "h100-sxm", "nodes": 1}
        return build_run_spec(
            {"model": "llama3-8b", "cluster": cluster, "training": training, "site": {"zone": "FRA"}}
        ).training.reliability

    assert spec("2 GB/s") == spec(2e9)
    with pytest.raises(SpecError, match=r"training\.reliability\.storage_bytes_per_s_per_node: 'quick'"):
        spec("quick")
