"""Figures for the trainer's logger: a total that was shown never goes back."""

from __future__ import annotations

from carbon_plugin.monitor.run.metrics import never_back


def test_a_total_that_falls_stays_where_it_was_and_all_else_follows():
    shown = {"carbon/energy_kwh": 1.0, "carbon/total_kg": 0.4, "carbon/power_w": 700.0}

    fallen = never_back({"carbon/energy_kwh": 0.97, "carbon/total_kg": 0.5, "carbon/power_w": 600.0}, shown)

    assert fallen == {"carbon/energy_kwh": 1.0, "carbon/total_kg": 0.5, "carbon/power_w": 600.0}


def test_a_total_without_a_figure_before_it_is_shown_as_it_is():
    assert never_back({"carbon/energy_kwh": 0.5}, {}) == {"carbon/energy_kwh": 0.5}
