"""How many GPUs ledgers must speak of, from the sets that processes see and the ranks that compute on none of them."""

from __future__ import annotations

import pytest

from carbon_plugin.ledger.held.expected import expected_gpus
from carbon_plugin.ledger.records import Manifest
from carbon_plugin.spec.metered import DeviceIdentity


def manifest(
    devices: dict[str, list[int]],
    *,
    world: int,
    seen: str = "",
    cpu: tuple[int, ...] = (),
    node: int = 0,
    nodes: int = 1,
) -> Manifest:
    """Return the manifest of a file that meters some GPUs, with the ranks that compute on each."""
    gpus = [
        DeviceIdentity(key=key, name="H100", rung="gpu", scope="gpu", meter="m", energy_kind="counter", ranks=ranks)
        for key, ranks in devices.items()
    ]
    return Manifest(
        version=1, run_id="run", attempt=0, node=node, nodes=nodes, host_key="h", hostname="h", world_size=world,
        started_unix_s=0.0, reserved_since_unix_s=None, devices=gpus, effective={}, factors={}, versions={},
        seen_gpus=seen.split(), ranks_without_gpu=list(cpu),
    )  # fmt: skip


A, B, C, D = (f"GPU-{letter}" for letter in "abcd")

# Manifests, how many GPUs there must be, and how many of them are in no ledger.
CASES = {
    "each rank on its GPU": ([manifest({A: [0], B: [1]}, world=2)], 2, 0),
    "two GPUs a rank": ([manifest({A: [0], B: [0], C: [1], D: [1]}, world=2)], 4, 0),
    "two ranks on one GPU": ([manifest({A: [0, 1]}, world=2)], 1, 0),
    "an idle GPU": ([manifest({A: [0], B: []}, world=1)], 2, 0),
    "a rank that has not said yet may be on the idle one": ([manifest({A: [0], B: []}, world=2)], 2, 0),
    "half of the ranks on no metered GPU": ([manifest({A: [0], B: [1]}, world=4)], 4, 2),
    "a rank on a CPU": ([manifest({A: [0], B: [1]}, world=3, cpu=(2,))], 2, 0),
    "ranks that have said nothing": ([manifest({A: [], B: []}, world=4)], 4, 2),
    "a GPU that a process sees": ([manifest({A: [0], B: [1]}, world=2, seen=f"{A} {B} {C}")], 3, 1),
    "seen by the rank that computes on it": ([manifest({A: [0]}, world=2, seen=f"{A} {B}")], 2, 1),
    "seen here and metered there": (
        [manifest({A: [0]}, world=2, seen=f"{A} {B}"), manifest({B: [1]}, world=2, seen=B)], 2, 0,
    ),
    "a slice by another name": ([manifest({"MIG-a": [0]}, world=1, seen="GPU-a")], 1, 0),
    "a node whose ledger is missing": ([manifest({A: [0], B: [1]}, world=4, nodes=2)], 2, 0),
    "two nodes, one of them half metered": (
        [manifest({A: [0], B: [1]}, world=4, nodes=2), manifest({C: [2]}, world=4, node=1, nodes=2)], 4, 1,
    ),
    "a job on CPUs": ([manifest({}, world=8)], 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_gpus_that_must_have_been_used_and_are_in_no_ledger(case):
    manifests, gpus, missing = CASES[case]

    expected = expected_gpus(manifests)

    assert (expected.gpus, expected.missing) == (gpus, missing)
    assert (expected.sentence is None) == (missing == 0)


@pytest.mark.parametrize(
    ("manifests", "unheard"),
    [
        ([manifest({A: [], B: []}, world=2, cpu=(0,))], 1),  # a script that measures on rank 0 alone
        ([manifest({A: [0], B: []}, world=2)], 1),
        ([manifest({}, world=4, cpu=(0, 2))], 2),
        ([manifest({A: [0], B: [1]}, world=4, nodes=2)], 0),  # the others are on the node whose ledger is missing
        ([manifest({A: [], B: []}, world=4)], 0),  # an adapter that does not see where ranks compute
        ([manifest({A: [0], B: [1]}, world=2)], 0),
    ],
)
def test_ranks_that_said_nothing_are_counted_where_others_spoke(manifests, unheard):
    assert expected_gpus(manifests).unheard_ranks == unheard


def test_gpus_without_a_rank_are_counted_once_every_rank_has_said_where_it_computes():
    assert expected_gpus([manifest({A: [], B: []}, world=2, cpu=(0, 1))]).without_rank == 2
    assert expected_gpus([manifest({A: [0], B: []}, world=1)]).without_rank == 1
    assert expected_gpus([manifest({A: [], B: []}, world=2, cpu=(0,))]).without_rank == 0
    assert expected_gpus([manifest({A: [0], B: [1]}, world=2)]).without_rank == 0


def test_the_sentence_says_how_it_is_known():
    seen = expected_gpus([manifest({A: [0], B: [1]}, world=4, seen=f"{A} {C}")]).sentence
    silent = expected_gpus([manifest({A: []}, world=2)]).sentence

    assert seen == (
        "2 of the 4 GPUs that the job must have used are in no ledger, and their energy is in no total: GPU-c is seen "
        "by its processes and 1 rank computes on none of the metered GPUs."
    )
    assert silent == (
        "1 of the 2 GPUs that the job must have used is in no ledger, and its energy is in no total: there are more "
        "ranks than that, and none has said that it shares a GPU."
    )
