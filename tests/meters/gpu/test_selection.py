"""Which GPUs are the job's, from what NVML lists and what the environment says."""

from __future__ import annotations

import pytest

from carbon_plugin.meters.gpu.driver import Gpu, Slice
from carbon_plugin.meters.gpu.selection import select_devices, visible_devices

UUIDS = ["GPU-8f21aa00-1", "GPU-8f9933bb-2", "GPU-c0ffee00-3", "GPU-dead0000-4"]


def gpu(index: int, *, name: str = "NVIDIA H100 80GB HBM3", slices: tuple[Slice, ...] = ()) -> Gpu:
    return Gpu(
        index=index,
        uuid=UUIDS[index],
        name=name,
        minor=index + 4,
        compute_capability=(9, 0),
        power_limit_w=700.0,
        memory_bytes=80 << 30,
        mig_enabled=bool(slices),
        slices=slices,
    )


FOUR = [gpu(index) for index in range(4)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0,1", [0, 1]),
        ("2,0", [2, 0]),
        (" 1 , 3 ", [1, 3]),
        ("0,9,1", [0]),
        ("0,-1,1", [0]),
        ("1,x,2", [1]),
        ("1gpu,2", [1, 2]),
        ("-1", []),
        ("", []),
        ("none", []),
        ("NoDevFiles", []),
        ("0,0", []),
        ("GPU-c0ffee00-3,GPU-8f21aa00-1", [2, 0]),
        ("GPU-c0f,GPU-8f21", [2, 0]),
        ("gpu-c0f", [2]),
        ("GPU-8f", []),
        ("GPU-c0f,GPU-nope,GPU-dead", [2]),
        ("GPU-c0f,0", [2]),
        ("0,GPU-c0f", [0]),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(value: str, expected: list[int]) -> None:
    selection = select_devices(FOUR, {"CUDA_VISIBLE_DEVICES": value})
    assert list(selection.uuids) == [UUIDS[index] for index in expected]
    assert selection.source == "cuda_visible_devices"
    assert selection.reason == f"CUDA_VISIBLE_DEVICES={value}"


def test_a_local_rank_finds_its_gpu_in_cuda_order() -> None:
    assert visible_devices(FOUR, {"CUDA_VISIBLE_DEVICES": "3,1"}).uuids[0] == UUIDS[3]
    assert visible_devices(FOUR, {}).uuids == tuple(UUIDS)


def test_without_any_hint_all_gpus_are_reserved_and_that_is_an_assumption() -> None:
    selection = select_devices(FOUR, {})
    assert selection.uuids == tuple(UUIDS)
    assert selection.assumptions == (
        "all 4 GPUs that NVML shows are taken as reserved: neither SLURM nor CUDA names any",
    )


def test_a_reservation_by_slurm_outlives_a_narrower_cuda_view() -> None:
    selection = select_devices(FOUR, {"SLURM_JOB_GPUS": "4,5,6", "CUDA_VISIBLE_DEVICES": "0"})
    assert selection.uuids == tuple(UUIDS[:3])
    assert selection.source == "slurm"
    assert selection.reason == "SLURM_JOB_GPUS=4,5,6, as numbers of /dev/nvidia files"


def test_under_device_isolation_slurm_numbers_differ_and_nvml_shows_just_the_job() -> None:
    selection = select_devices(FOUR[:2], {"SLURM_JOB_GPUS": "6,7"})
    assert selection.uuids == tuple(UUIDS[:2])
    assert "as many as NVML shows" in selection.reason


def test_on_several_nodes_the_step_speaks_for_this_node() -> None:
    environ = {"SLURM_JOB_GPUS": "0,1,2,3", "SLURM_STEP_GPUS": "4-5", "SLURM_NNODES": "2"}
    assert select_devices(FOUR, environ).uuids == tuple(UUIDS[:2])


def test_what_slurm_names_and_nvml_does_not_list_is_missing_not_forgotten() -> None:
    selection = select_devices(FOUR, {"SLURM_JOB_GPUS": "1,9"})
    assert selection.uuids == (UUIDS[1],)
    assert selection.missing == ("9",)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("SLURM_GPUS_PER_TASK", "1"), ("SLURM_TRES_PER_TASK", "1"), ("SLURM_STEP_TASKS_PER_NODE", "4(x2)")],
)
def test_gpus_that_slurm_gave_to_other_tasks_are_theirs_to_meter_and_not_missing(variable: str, value: str) -> None:
    selection = select_devices(FOUR[:1], {"SLURM_STEP_GPUS": "0-3", variable: value})
    assert selection.uuids == (UUIDS[0],)
    assert (selection.hidden, selection.missing) == (3, ())
    assert selection.assumptions == ("3 more GPUs of the job on this node are seen, and metered, by its other tasks",)


def test_gpus_that_no_other_task_of_the_node_could_see_are_missing() -> None:
    selection = select_devices(FOUR[:1], {"SLURM_STEP_GPUS": "0-3", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"})
    assert (selection.hidden, len(selection.missing)) == (0, 3)


def test_gpu_device_ordinal_is_the_last_hint() -> None:
    assert select_devices(FOUR, {"GPU_DEVICE_ORDINAL": "1"}).uuids == (UUIDS[1],)


def test_the_caller_names_gpus_by_index_uuid_or_prefix_and_each_counts_once() -> None:
    selection = select_devices(FOUR, {"CUDA_VISIBLE_DEVICES": "0"}, [1, "GPU-c0f", UUIDS[1], "GPU-gone"])
    assert selection.uuids == (UUIDS[1], UUIDS[2])
    assert selection.missing == ("GPU-gone",)
    assert selection.source == "explicit"


@pytest.mark.parametrize(
    ("value", "uuids", "cut_off"),
    [
        ("0,9,1", (UUIDS[0],), "names 9, which is no GPU that the driver counts"),
        (f"{UUIDS[1]},GPU-gone", (UUIDS[1],), "names GPU-gone, which is no GPU that the driver counts"),
        ("1,1", (), "names a GPU twice"),
        ("0,-1,1", (UUIDS[0],), None),
        ("", (), None),
    ],
)
def test_a_list_that_cuda_cuts_off_says_so_unless_it_is_meant_to_end(
    value: str, uuids: tuple[str, ...], cut_off: str | None
) -> None:
    selection = select_devices(FOUR, {"CUDA_VISIBLE_DEVICES": value})
    assert selection.uuids == uuids
    assert selection.missing == ()
    assert (
        (cut_off in selection.cut_off and selection.cut_off in selection.assumptions)
        if cut_off
        else (selection.cut_off is None)
    )


def test_a_mig_device_is_found_by_its_uuid_and_not_beside_its_whole_gpu() -> None:
    slices = (Slice("MIG-1111", "H100 MIG 3g", 3 / 7), Slice("MIG-2222", "H100 MIG 4g", 4 / 7))
    gpus = [gpu(0, slices=slices), gpu(1)]
    assert select_devices(gpus, {"CUDA_VISIBLE_DEVICES": "MIG-2222"}).uuids == ("MIG-2222",)
    assert select_devices(gpus, {"CUDA_VISIBLE_DEVICES": "MIG-"}).uuids == ()
    assert select_devices(gpus, {}, ["MIG-1111", UUIDS[0]]).uuids == (UUIDS[0],)


def test_cuda_indices_on_a_mixed_node_are_an_assumption_unless_ordered_by_pci() -> None:
    mixed = [gpu(0, name="NVIDIA T4"), gpu(1)]
    (caveat,) = select_devices(mixed, {"CUDA_VISIBLE_DEVICES": "0"}).assumptions
    assert "mixes NVIDIA H100 80GB HBM3, NVIDIA T4" in caveat
    environ = {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert select_devices(mixed, environ).assumptions == ()
    assert select_devices(FOUR, {"CUDA_VISIBLE_DEVICES": "0"}).assumptions == ()
