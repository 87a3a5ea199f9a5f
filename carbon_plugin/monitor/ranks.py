"""Read from its launcher's environment which rank this process is. This needs no communication and no framework."""

from __future__ import annotations

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


def ranks_from_environ(environ: Mapping[str, str]) -> Ranks:
    """Return the ranks that torchrun, srun or mpirun set, or those of a single process where none of them did.

    A variable that is no number counts as absent, because a broken environment must not stop a training.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        world = _number(environ, "WORLD_SIZE", 1)
        local = _number(environ, "LOCAL_WORLD_SIZE", world)
        rank = _number(environ, "RANK", 0)
        return _ranks(
            rank=rank,
            world=world,
            local_rank=_number(environ, "LOCAL_RANK", rank % max(local, 1)),
            local=local,
            node=_number(environ, "GROUP_RANK", _number(environ, "NODE_RANK", rank // max(local, 1))),
            nodes=_number(environ, "GROUP_WORLD_SIZE", -(-world // max(local, 1))),
        )
    # These are set inside `srun` only; a batch script has the task count of the whole job and one process.
    if "SLURM_STEP_NUM_TASKS" in environ and "SLURM_PROCID" in environ:
        world = _number(environ, "SLURM_STEP_NUM_TASKS", 1)
        nodes = _number(environ, "SLURM_STEP_NUM_NODES", 1)
        return _ranks(
            rank=_number(environ, "SLURM_PROCID", 0),
            world=world,
            local_rank=_number(environ, "SLURM_LOCALID", 0),
            local=-(-world // max(nodes, 1)),
            node=_number(environ, "SLURM_NODEID", 0),
            nodes=nodes,
        )
    if "OMPI_COMM_WORLD_RANK" in environ and "OMPI_COMM_WORLD_SIZE" in environ:
        rank, world = _number(environ, "OMPI_COMM_WORLD_RANK", 0), _number(environ, "OMPI_COMM_WORLD_SIZE", 1)
        local = _number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE", 1)
        local_rank = _number(environ, "OMPI_COMM_WORLD_LOCAL_RANK", 0)
        nodes = -(-world // max(local, 1))
        return _ranks(
            rank=rank, world=world, local_rank=local_rank, local=local, node=rank // max(local, 1), nodes=nodes
        )
    return Ranks()


def _ranks(*, rank: int, world: int, local_rank: int, local: int, node: int, nodes: int) -> Ranks:
    return Ranks(
        rank=rank,
        local_rank=local_rank,
        world_size=max(1, world),
        local_world_size=max(1, local),
        node=node,
        nodes=max(1, nodes),
    )


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    value = environ.get(name, "")
    return int(value) if value.isdecimal() else default
