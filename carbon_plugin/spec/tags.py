"""Define who is responsible for a run, so that the accounts of a fleet can be grouped by it."""

from __future__ import annotations

from msgspec import Struct


class TagFields(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One instance says whose a run is. None stands for "not stated".

    Args:
        team: The team that trains.
        project: The project that the run belongs to. Without one: the account of the SLURM job.
        owner: Who answers for it.
        cost_centre: Who pays for it.
        user: Who started it. Without one: the user of the SLURM job.
    """

    team: str | None = None
    project: str | None = None
    owner: str | None = None
    cost_centre: str | None = None
    user: str | None = None
