"""Build the manifest of a node's ledger: the known facts about the job, its devices and their meters."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

import carbon_plugin
from carbon_plugin.ledger.records import LEDGER_VERSION, Manifest, RunIdentity
from carbon_plugin.monitor.context import Context
from carbon_plugin.monitor.job import WatchedJob
from carbon_plugin.monitor.node.metering import with_ranks
from carbon_plugin.monitor.processes.leader import Claim
from carbon_plugin.spec.metered import DeviceIdentity


class OnRecord(Struct, frozen=True, kw_only=True):
    """Holds a host and its metered devices, as a manifest names them. `host_share` is the part of the host that is
    charged to the job."""

    host_key: str
    hostname: str
    devices: Sequence[DeviceIdentity]
    host_share: float


class Beginning(Struct, frozen=True, kw_only=True):
    """Holds the moments at which a record begins.

    `started_unix_s` and `started_boot_s` are the start of the record, in Unix seconds and in seconds since the machine
    was started. `reserved_since_unix_s` is the moment from which on the training is charged for its reservation.
    `follows` names the files of its launch that the record goes on from.
    """

    started_unix_s: float
    started_boot_s: float
    reserved_since_unix_s: float
    follows: tuple[str, ...] = ()


def manifest_of(
    job: WatchedJob,
    identity: RunIdentity,
    context: Context,
    metered: OnRecord,
    claims: Sequence[Claim],
    beginning: Beginning,
) -> Manifest:
    """Return the manifest with the facts that are known now. The journal sets the attempt and the name of the file."""
    ranks, forecast = job.ranks, job.settings.forecast
    return Manifest(
        version=LEDGER_VERSION,
        run_id=identity.run_id,
        attempt=0,
        node=ranks.node,
        nodes=ranks.nodes,
        host_key=metered.host_key,
        hostname=metered.hostname,
        world_size=ranks.world_size,
        started_unix_s=beginning.started_unix_s,
        started_boot_s=beginning.started_boot_s,
        reserved_since_unix_s=min(beginning.reserved_since_unix_s, beginning.started_unix_s),
        devices=with_ranks(metered.devices, claims),
        effective=context.effective.fields,
        factors=context.document(context.factors) or {},
        versions={"carbon-plugin": carbon_plugin.__version__, **job.versions},
        total_steps=context.effective.total_steps,
        tokens_per_step=context.effective.tokens_per_step,
        forecast=context.document(forecast),
        prediction=context.document(context.prediction),
        assumptions=[context.document(assumption) or {} for assumption in context.assumptions],
        host_share=metered.host_share,
        spec=context.document(context.effective.spec),
        seen_gpus=sorted({key for claim in claims for key in claim.sees}),
        ranks_without_gpu=[claim.rank for claim in claims if claim.looked and not claim.uuids],
        budget=job.settings.budget.document() if job.settings.budget else None,
        configuration=job.settings.configuration,
        tags=job.settings.tags,
        follows=list(beginning.follows),
    )
