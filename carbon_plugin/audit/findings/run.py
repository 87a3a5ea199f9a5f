"""Define what an audit says about the run itself: its identity, its time with attempts and gaps, what the ledgers
cover, and its work.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from carbon_plugin.ledger.held.claims import Overlap


class Run(Struct, frozen=True, kw_only=True):
    """The identity of a run, its size and software, and the effective spec with the source of each field."""

    run_id: str
    name: str
    programme: str | None
    role: str | None
    parent_run_id: str | None
    world_size: int
    versions: dict[str, str]
    effective: dict[str, Any]


class Attempt(Struct, frozen=True, kw_only=True):
    """One start of the job on all nodes, numbered from 0.

    `ended` is the reason of an orderly end on every node, or None if any node was killed.
    """

    attempt: int
    start_unix_s: float
    end_unix_s: float
    nodes: int
    world_size: int
    steps: int
    last_step: int
    redone_steps: int
    ended: str | None


class Gap(Struct, frozen=True, kw_only=True):
    """A time between attempts that no node recorded and no allocation covered. Its energy is unknown and in
    no total.
    """

    start_unix_s: float
    duration_s: float


class Period(Struct, frozen=True, kw_only=True):
    """The time of a run: `wall_s` from the first record to the last, and the `active_s` in which some node recorded.

    `stalled_s` is time of the training in which no step ended, although many should have.
    """

    start_unix_s: float
    end_unix_s: float
    wall_s: float
    active_s: float
    attempts: list[Attempt]
    gaps: list[Gap]
    stalled_s: float = 0.0


class Coverage(Struct, frozen=True, kw_only=True):
    """One instance says which part of the job the ledgers cover.

    `gpus` is how many GPUs there should be, `gpus_seen` how many a ledger names, `gpus_measured` how many of these have
    measured energy, and `gpu_slices` how many of these are MIG slices. `whole_gpus` is the sum over all `gpus`, with a
    slice as its share. `gpus_missing` GPUs must have been used by nodes whose ledgers are here, but no ledger names
    them; `missing` says how that is known, a sentence a launch. No rank of a launch computed on
    `gpus_without_rank` of the GPUs that it metered, and `ranks_unheard` of its ranks have reported nothing.

    `overlaps` are devices that two files metered at once. `clock_offsets_s` says by how many seconds the times of a
    ledger are ahead of those of the run, because clocks of nodes disagree or the clock of a host was set between two of
    its ledgers. `side_by_side` are the names of ledgers that two jobs wrote at the same time, each from the same place
    in its job.
    """

    nodes: int
    nodes_seen: int
    gpus: int
    gpus_seen: int
    gpus_measured: int
    gpu_slices: int
    whole_gpus: float
    overlaps: list[Overlap]
    clock_offsets_s: dict[str, float] = {}
    gpus_missing: int = 0
    missing: list[str] = []
    side_by_side: list[str] = []
    gpus_without_rank: int = 0
    ranks_unheard: int = 0


class Progress(Struct, frozen=True, kw_only=True):
    """One instance says what the energy was spent on: the `steps` and `tokens` that were executed, including those that
    were done again, and the last step reached.

    `tokens_source` says how the tokens were counted; `tokens` are None where nobody counted them.
    """

    steps: int
    last_step: int
    total_steps: int | None
    tokens: int | None
    tokens_source: str = "not recorded"


class Work(Struct, frozen=True, kw_only=True):
    """One instance describes what was trained and on what hardware, as far as the run knew.

    `hardware` is in words. `planned_parameters` are stated where the plan has another number than the live model. The
    FLOPs are those of one optimizer step of the whole job as its prediction counts them (`model_...` without recompute,
    `hardware_...` with it).
    """

    model: str | None
    parameters: int | None
    planned_parameters: int | None = None
    trainable_fraction: float | None
    precision: str | None
    hardware: str
    model_flops_per_step: float | None
    hardware_flops_per_step: float | None
    attention_convention: str | None
