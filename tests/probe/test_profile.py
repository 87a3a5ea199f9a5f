"""A probe's measurements become profiles like any other, and say what was measured and what was assumed."""

from __future__ import annotations

import msgspec
import pytest
import yaml

from carbon_plugin.errors import SpecError
from carbon_plugin.probe.probe import profile_yaml, write_profiles
from carbon_plugin.probe.profile import build_profiles
from carbon_plugin.probe.result import CollectiveTime, GemmRate, Machine, Measurements, Probe, combine
from carbon_plugin.spec.hardware.cluster import Accelerator, Cluster, Node
from carbon_plugin.spec.hardware.profiles import load_accelerator, load_node

LAPTOP = Machine(
    kind="cpu",
    device="AMD Test 8-Core",
    device_memory_bytes=16e9,
    devices=2,
    cpu="AMD Test 8-Core",
    cpu_architecture="x86_64",
    sockets=1,
    cores=8,
    cpu_power_limit_w=None,
    dram_bytes=16e9,
    disk_bytes=500e9,
    torch_version="2.13.0",
    threads=1,
    ranks=2,
    backend="gloo",
    date="2026-11-22",
)
SERVER = msgspec.structs.replace(
    LAPTOP, kind="gpu", device="NVIDIA H100 80GB HBM3", device_memory_bytes=80e9, devices=8, backend="nccl", ranks=8
)


def gemm(dtype: str, width: int, rate: float) -> GemmRate:
    return GemmRate(dtype=dtype, tokens=1024, width=width, flops_per_s=rate)


def measured(*gemms: GemmRate, collectives: tuple[CollectiveTime, ...] = ()) -> Measurements:
    return Measurements(
        gemms=gemms,
        memory_bytes_per_s=20e9,
        elementwise_bytes_per_s=8e9,
        attention_flops={"flash": 45e9},
        kernel_time_s=10e-6,
        host_op_time_s=0.0,
        collectives=collectives,
    )


@pytest.mark.parametrize(("share", "busy"), [(None, False), (0.97, False), (0.4, True)])
def test_rates_of_a_busy_machine_are_called_so_in_the_profile(share, busy):
    rates = msgspec.structs.replace(measured(*CPU_RATES), running_share=share)
    accelerator, _ = build_profiles("here", LAPTOP, combine([rates, rates]), None)

    assert accelerator.notes[0].startswith("measured on a busy machine: a process had its core for only 40 %") == busy


CPU_RATES = (gemm("fp32", 256, 90e9), gemm("fp32", 512, 95e9), gemm("fp32", 1024, 100e9))


def test_peak_of_a_cpu_is_its_best_product_and_the_share_is_what_products_usually_reach():
    accelerator, _ = build_profiles("here", LAPTOP, measured(*CPU_RATES), None)

    assert accelerator.peak_flops["fp32"].value == 100e9
    assert accelerator.efficiency.gemm_share is not None
    assert accelerator.efficiency.gemm_share.value == pytest.approx(0.95)
    assert accelerator.efficiency.gemm_share.confidence == "measured"


def test_the_source_names_the_date_the_torch_and_the_threads():
    accelerator, node = build_profiles("here", LAPTOP, measured(*CPU_RATES), None)

    expected = "carbon-plugin probe, 2026-11-22, torch 2.13.0, 2 processes at once over gloo, 1 thread each"
    assert accelerator.sources["probe"] == expected
    assert accelerator.efficiency.memory_share is not None
    assert accelerator.efficiency.memory_share.value == pytest.approx(0.4)
    assert node.accelerator == accelerator.name == "here"


def test_power_and_embodied_carbon_of_a_cpu_are_assumed_with_a_range():
    accelerator, node = build_profiles("here", LAPTOP, measured(*CPU_RATES), None)

    for value in (accelerator.tdp_w, accelerator.embodied_kg, node.host.base_power_w):
        assert value.confidence == "assumed"
        assert value.low is not None
        assert value.high is not None
        assert value.low < value.value < value.high


def test_two_ranks_of_one_thread_do_not_get_the_power_of_all_eight_cores():
    accelerator, node = build_profiles("here", LAPTOP, measured(*CPU_RATES), None)

    assert 2 * accelerator.tdp_w.value == pytest.approx(node.host.cpu_tdp_w.value * 2 / 8)


def test_a_power_limit_that_the_firmware_states_is_used():
    stated = msgspec.structs.replace(LAPTOP, cpu_power_limit_w=120.0, threads=4, sockets=2)

    accelerator, node = build_profiles("here", stated, measured(*CPU_RATES), None)

    assert node.host.cpu_tdp_w.value == 60.0
    assert accelerator.tdp_w.value == 60.0
    assert accelerator.tdp_w.source == "firmware"


def test_every_source_key_in_use_is_explained():
    for machine, datasheet in ((LAPTOP, None), (SERVER, load_accelerator("h100-sxm")), (SERVER, None)):
        for profile in build_profiles("here", machine, measured(*CPU_RATES), datasheet):
            assert _source_keys(msgspec.to_builtins(profile)) <= profile.sources.keys()


def test_a_known_gpu_keeps_its_datasheet_and_gets_measured_efficiency():
    datasheet = load_accelerator("h100-sxm")
    rates = (gemm("bf16", 4096, 600e12), gemm("bf16", 8192, 700e12), gemm("fp8", 8192, 1300e12))

    accelerator, node = build_profiles("here", SERVER, measured(*rates), datasheet)

    assert accelerator.peak_flops == datasheet.peak_flops
    assert accelerator.embodied_kg == datasheet.embodied_kg
    assert accelerator.tdp_w == datasheet.tdp_w
    efficiency, peak = accelerator.efficiency, datasheet.peak_flops["bf16"].value
    assert efficiency.gemm_share is not None
    assert efficiency.fp8_gemm_share is not None
    assert efficiency.gemm_share.value == pytest.approx(650e12 / peak)
    assert efficiency.fp8_gemm_share.value * efficiency.gemm_share.value == pytest.approx(
        1300e12 / datasheet.peak_flops["fp8"].value
    )
    assert efficiency.overlap_contention == datasheet.efficiency.overlap_contention
    assert (accelerator.aliases, node.accelerators) == ([], 8)


def test_an_unknown_gpu_is_described_by_what_it_reached():
    unknown = msgspec.structs.replace(SERVER, device="Future GPU", gpu_power_limit_w=1500.0)

    accelerator, _ = build_profiles("here", unknown, measured(gemm("bf16", 8192, 3e15)), None)

    assert accelerator.peak_flops["bf16"].value == 3e15
    assert accelerator.tdp_w.value == 1500.0
    assert accelerator.embodied_kg.confidence == "assumed"


def test_no_product_measured_is_an_error_that_names_the_device():
    with pytest.raises(SpecError, match="no matrix product was measured on AMD Test 8-Core; expected one of fp32"):
        build_profiles("here", LAPTOP, measured(), None)


def test_written_profiles_are_read_back_by_name(tmp_path):
    measurements = measured(*CPU_RATES)
    accelerator, node = build_profiles("here", LAPTOP, measurements, None)
    probe = Probe(machine=LAPTOP, measurements=measurements, accelerator=accelerator, node=node, elapsed_s=10.0)

    write_profiles(probe, tmp_path)
    write_profiles(probe, tmp_path)

    again = load_accelerator("here", profile_dirs=(tmp_path,))
    around = load_node("here", profile_dirs=(tmp_path,))
    assert again == accelerator
    assert around.accelerators == node.accelerators
    assert Cluster(accelerator=again, node=around, nodes=1, devices_per_node=2).devices == 2


@pytest.mark.parametrize("machine", [LAPTOP, SERVER], ids=["cpu", "gpu"])
def test_yaml_of_a_profile_has_no_empty_fields_and_decodes(machine):
    accelerator, node = build_profiles("here", machine, measured(*CPU_RATES), None)

    texts = profile_yaml(accelerator), profile_yaml(node)

    assert not any("null" in text for text in texts)
    msgspec.convert(yaml.safe_load(texts[0]), Accelerator)
    msgspec.convert(yaml.safe_load(texts[1]), Node)


def test_ranks_are_combined_by_the_median_of_each_rate():
    ranks = [measured(gemm("fp32", 256, rate)) for rate in (90e9, 100e9, 20e9)]

    assert combine(ranks).gemms[0].flops_per_s == 90e9


def _source_keys(value: object) -> set[str]:
    if isinstance(value, dict):
        own = {value["source"]} if "confidence" in value else set()
        return own.union(*(_source_keys(item) for item in value.values()))
    return set()


def test_attention_is_kept_at_the_rate_of_its_reference_length():
    rates = msgspec.structs.replace(measured(*GPU_RATES), attention_flops={"flash2": 300e12, "cudnn": 400e12})
    accelerator, _ = build_profiles("here", SERVER, rates, load_accelerator("h100-sxm"))
    kept = {kernel: accelerator.efficiency.attention_flops[kernel].value for kernel in ("flash2", "cudnn")}

    # Measured on 2,048 and 4,096 tokens, of which the mean was kept: on 4,096 both are faster, cuDNN by more.
    assert kept["flash2"] == pytest.approx(300e12 * 2 / (1 + (1 + 350 / 4096) / (1 + 350 / 2048)))
    assert kept["cudnn"] == pytest.approx(400e12 * 2 / (1 + 1.5 / 2))
    on_cpu, _ = build_profiles("here", LAPTOP, measured(*CPU_RATES), None)
    assert on_cpu.efficiency.attention_flops["flash"].value == 45e9


GPU_RATES = (gemm("bf16", 4096, 600e12), gemm("fp32", 4096, 50e12))
