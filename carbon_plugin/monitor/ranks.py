"""Read from its launcher's environment which rank this process is. This needs no communication and no framework."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
from msgspec import Struct


class Ranks(Struct, frozen=True, kw_only=True):
    """Holds the place of this process in the job: its rank in the world and on its node, and its node among the
    nodes.

    `untold` says that nothing told how many ranks a node has. `doubt` is then what a user should know of how it was
    read, empty where that is clear.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    node: int = 0
    nodes: int = 1
    untold: bool = False
    doubt: str = ""


class Others(NamedTuple):
    """Names the ranks of this host that were `heard` of, and the ledgers that ranks are `writing` which still live."""

    heard: set[int]
    writing: set[str]


_OF_MPI = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ("PMI_RANK", "PMI_SIZE", "PMI_LOCAL_RANK", "PMI_LOCAL_SIZE"),
)
"""What Open MPI, MVAPICH, MPICH with Intel MPI, and Cray's launcher set for each process, in this order: its rank, the
number of ranks, and both on its node.
"""

_OF_A_NODE = (
    "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE", "NODE_RANK", "GROUP_RANK",
    "GROUP_WORLD_SIZE",
)  # fmt: skip
"""Variables that tell the place of a process on its node, or that of its node."""


def ranks_from_environ(environ: Mapping[str, str]) -> Ranks:
    """Return the ranks that torchrun, DeepSpeed, srun or mpirun set, or those of a single process where none of them
    did.

    Scripts often set RANK and WORLD_SIZE from what srun or mpirun told them, and leave out how many ranks a node has.
    Where the launcher means the same rank, it tells that. A variable that is no number counts as absent, because a
    broken environment must not stop a training.
    """
    # Inside of SLURM mpirun starts its daemons by srun, whose variables the ranks inherit: those of MPI are nearer.
    launchers = [found for found in (_of_mpi(environ), _of_slurm(environ)) if found is not None]
    if "RANK" not in environ or "WORLD_SIZE" not in environ:
        return launchers[0] if launchers else Ranks()
    rank, world = _number(environ, "RANK", 0), _number(environ, "WORLD_SIZE", 1)
    launched = next((found for found in launchers if (found.rank, found.world_size) == (rank, world)), None)
    if launched is None and world > 1 and not any(name in environ for name in _OF_A_NODE):
        return _by_two_numbers(environ, rank, world)
    # DeepSpeed's launcher writes LOCAL_SIZE, CROSS_RANK and CROSS_SIZE.
    local = _number(environ, "LOCAL_WORLD_SIZE", _number(environ, "LOCAL_SIZE", 0))
    if not 0 < local <= max(1, world):
        local = launched.local_world_size if launched else world
    local = max(1, local)
    local_rank = _number(environ, "LOCAL_RANK", launched.local_rank if launched else rank % local)
    node, nodes = (launched.node, launched.nodes) if launched else (rank // local, -(-world // local))
    for name in ("CROSS_RANK", "NODE_RANK", "GROUP_RANK"):
        node = _number(environ, name, node)
    for name in ("CROSS_SIZE", "GROUP_WORLD_SIZE"):
        nodes = _number(environ, name, nodes)
    return _ranks(rank=rank, world=world, local_rank=local_rank, local=local, node=node, nodes=nodes)


def ranks_of_group(launched: Ranks, *, rank: int, world: int) -> Ranks:
    """Return the ranks of a process that its script has numbered itself, as a process group has it.

    Each process that a launcher started on several nodes may have started as many again, as with
    `torch.multiprocessing.spawn`. So may each that has nothing but RANK and WORLD_SIZE: these then number the nodes.
    Otherwise all processes of the group count as those of one node.
    """
    if world == launched.world_size:
        return launched
    each, rest = divmod(world, launched.world_size)
    if rest or not each or rank // each != launched.rank or (launched.nodes == 1 and not launched.untold):
        return _ranks(rank=rank, world=world, local_rank=rank, local=world, node=0, nodes=1)
    if launched.untold:
        node, local_rank = divmod(rank, each)
        return _ranks(rank=rank, world=world, local_rank=local_rank, local=each, node=node, nodes=launched.world_size)
    return _ranks(
        rank=rank,
        world=world,
        local_rank=launched.local_rank * each + rank % each,
        local=launched.local_world_size * each,
        node=launched.node,
        nodes=launched.nodes,
    )


def _by_two_numbers(environ: Mapping[str, str], rank: int, world: int) -> Ranks:
    """Return the place of a process that has RANK and WORLD_SIZE alone, which may number ranks or nodes.

    Kubeflow's operator numbers nodes and tells torchrun the same. Where the address of rank 0 is that of another host,
    there are several, and how many ranks each has is not told; one process a node needs no further variable.
    """
    of_node = Ranks(rank=rank, world_size=world, node=rank, nodes=world, untold=True)
    of_host = Ranks(rank=rank, local_rank=rank, world_size=world, local_world_size=world, untold=True)
    if (_number(environ, "PET_NNODES", 0), _number(environ, "PET_NODE_RANK", -1)) == (world, rank):
        return of_node
    import multiprocessing

    address = environ.get("MASTER_ADDR", "").strip().lower()
    if not address or _is_loopback(address) or multiprocessing.parent_process() is not None:
        return of_host
    taken, how = (of_host, "all of them on this host") if _is_here(address) else (of_node, "one process a node")
    doubt = (
        f"nothing tells how many of the {world} ranks of WORLD_SIZE a node has: read as {how}, because MASTER_ADDR is "
        f"{address}; set LOCAL_RANK and LOCAL_WORLD_SIZE (torchrun does) if it is otherwise"
    )
    return msgspec.structs.replace(taken, doubt=doubt)


def _is_loopback(address: str) -> bool:
    return address in ("localhost", "::1") or address.startswith("127.")


def _is_here(address: str) -> bool:
    """Return whether an address is a name or number of this host. It asks no name server, which may take long."""
    import socket

    import psutil

    if address.partition(".")[0] == socket.gethostname().lower().partition(".")[0]:
        return True
    return any(address == one.address for ones in psutil.net_if_addrs().values() for one in ones)


def _of_slurm(environ: Mapping[str, str]) -> Ranks | None:
    # These are set inside `srun` only; a batch script has the task count of the whole job and one process.
    if "SLURM_STEP_NUM_TASKS" not in environ or "SLURM_PROCID" not in environ:
        return None
    world = _number(environ, "SLURM_STEP_NUM_TASKS", 1)
    nodes = _number(environ, "SLURM_STEP_NUM_NODES", 1)
    node = _number(environ, "SLURM_NODEID", 0)
    return _ranks(
        rank=_number(environ, "SLURM_PROCID", 0),
        world=world,
        local_rank=_number(environ, "SLURM_LOCALID", 0),
        local=_tasks_of(environ.get("SLURM_STEP_TASKS_PER_NODE", ""), node) or -(-world // max(nodes, 1)),
        node=node,
        nodes=nodes,
    )


def _tasks_of(tasks_per_node: str, node: int) -> int | None:
    """Return how many tasks a node has by a text such as "4(x2),3", or None where it does not say."""
    before = 0
    for part in tasks_per_node.split(","):
        found = re.fullmatch(r"([0-9]{1,9})(?:\(x([0-9]{1,9})\))?", part)
        if found is None:
            return None
        before += int(found[2] or 1)
        if node < before:
            return int(found[1])
    return None


def _of_mpi(environ: Mapping[str, str]) -> Ranks | None:
    names = next((names for names in _OF_MPI if all(environ.get(name, "").isdecimal() for name in names)), None)
    if names is None:
        return None
    rank, world, local_rank, local = (_number(environ, name, 0) for name in names)
    node, nodes = rank // max(local, 1), -(-world // max(local, 1))
    return _ranks(rank=rank, world=world, local_rank=local_rank, local=local, node=node, nodes=nodes)


def _ranks(*, rank: int, world: int, local_rank: int, local: int, node: int, nodes: int) -> Ranks:
    return Ranks(
        rank=rank,
        local_rank=local_rank,
        world_size=max(1, world),
        local_world_size=max(1, local),
        node=node,
        nodes=max(1, nodes, node + 1),
    )


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    value = environ.get(name, "")
    return int(value) if value.isdecimal() else default
