"""The one line of a window."""

from __future__ import annotations

from msgspec.structs import replace

from carbon_plugin.sinks.line import line_of


def test_line_has_step_time_power_spent_and_projected_with_ranges(rows):
    (row,) = rows(1)

    assert line_of(row) == (
        "step 10 of 200, measured 1.25 s a step (+25 % against the predicted 1.00 s), 710 W, "
        "spent 2.50 kWh (75 % measured, the rest modelled) and 1.20 kgCO2e, "
        "projected by measured rates 50.0 kWh (45.0 to 55.0 kWh) and 24.0 kgCO2e (21.6 to 26.4 kgCO2e), 2.00 h to go"
    )


def test_line_leaves_out_what_is_unknown(rows):
    (row,) = rows(1)
    known = {"carbon/energy_kwh": 0.5, "carbon/operational_kg": 0.2, "carbon/step_time_s": 0.5}

    line = line_of(replace(row, metrics=known, run=replace(row.run, total_steps=None)))

    assert line == "step 10, measured 500 ms a step, spent 500 Wh and 200 gCO2e in operation"


def test_line_says_of_every_amount_whether_it_was_measured_modelled_or_predicted(rows):
    (row,) = rows(1)

    def line(**figures):
        return line_of(replace(row, metrics=row.metrics | {f"carbon/{key}": value for key, value in figures.items()}))

    assert "spent 2.50 kWh (measured) and" in line(measured_share=1.0)
    assert "spent 2.50 kWh (modelled) and" in line(measured_share=0.0)
    assert "projected as predicted, 50.0 kWh" in line(projected_by_rates=0.0)
