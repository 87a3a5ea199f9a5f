"""The closing line says what its total lacks: ranks that have not said yet what they meter."""

from __future__ import annotations

from pathlib import Path

import pytest

from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.processes.leader import Claim, Election
from carbon_plugin.monitor.run import projector


@pytest.mark.parametrize("settled", [True, False])
def test_rank_that_has_not_decided_yet_what_it_meters_is_not_heard_of_in_the_closing_line(
    settled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    claims, other = Election.claims, Claim(rank=1, local_rank=1, sees=["GPU-1"], settled=settled)
    monkeypatch.setattr(Election, "claims", lambda self, **which: [*claims(self, **which), other])
    monkeypatch.setattr(projector, "SETTLE_S", 0.0)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)

    with caplog.at_level("INFO"), CarbonMonitor(run_dir=tmp_path / "run", site="FRA") as monitor:
        monitor.step_end()

    said = " ".join(caplog.messages)
    assert "and has used" in said
    assert ("without 1 other rank of this host, not heard of yet" in said) is not settled
