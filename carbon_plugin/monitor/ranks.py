"""Read from its launcher's environment which rank this process is. This needs no communication and no framework."""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct


class Ranks(Struct, frozen=True, kw_only=True):
    """Holds the place of this process in the job: its rank in the world and on its node, and its node among the
    nodes.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    node: int = 0
    nodes: int = 1


_OF_MPI = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ("PMI_RANK", "PMI_SIZE", "PMI_LOCAL_RANK", "PMI_LOCAL_SIZE"),
)
"""What Open MPI, MVAPICH, MPICH with Intel MPI, and Cray's launcher set for each process, in this order: its rank, the
number of ranks, and both on its node.
"""


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
    `torch.multiprocessing.spawn`. Otherwise all processes of the group count as those of one node.
    """
    if world == launched.world_size:
        return launched
    each, rest = divmod(world, launched.world_size)
    if launched.nodes == 1 or not each or rest or rank // each != launched.rank:
        return _ranks(rank=rank, world=world, local_rank=rank, local=world, node=0, nodes=1)
    return _ranks(
        rank=rank,
        world=world,
        local_rank=launched.local_rank * each + rank % each,
        local=launched.local_world_size * each,
        node=launched.node,
        nodes=launched.nodes,
    )


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
