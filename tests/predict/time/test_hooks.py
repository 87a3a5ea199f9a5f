"""Hooks by which software gathers and scatters sharded parameters cost the host where something is shared out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from carbon_plugin.predict.case.from_spec import layout_of
from carbon_plugin.predict.rates.rates import Rates
from carbon_plugin.predict.time.host import hook_slots
from carbon_plugin.spec.layout import ParallelLayout

SLOTS = 12.0


@pytest.mark.parametrize(
    ("layout", "slots"),
    [
        ({"dp_shard": 8, "zero_stage": 3}, SLOTS),
        ({"tp": 8, "dp_shard": 2, "zero_stage": 2}, SLOTS),
        ({}, SLOTS),  # nobody knows whether software on one device was asked to shard
        ({"dp_replicate": 8}, 0),
        ({"tp": 8}, 0),
        ({"pp": 2}, 0),
    ],
)
def test_software_that_shards_by_hooks_has_none_on_several_devices_that_share_out_nothing(
    rates: Callable[..., Rates], layout: dict[str, int], slots: float
) -> None:
    assert float(hook_slots(layout_of(ParallelLayout(**layout)), rates(shard_host_ops=SLOTS))) == slots
