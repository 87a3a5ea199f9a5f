"""Shipped tables that a script writes from a source file are what the script writes."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("tool", ["egrid_table.py", "consumption_table.py"])
def test_a_table_is_what_its_script_writes(tool: str) -> None:
    script = runpy.run_path(str(ROOT / "tools" / tool))

    assert script["TABLE"].read_text(encoding="utf-8") == script["table"]()


def test_rates_of_three_gases_become_one_intensity() -> None:
    """SRVC of eGRID2024: 637.4 lb CO2, 0.047 lb CH4 and 0.007 lb N2O a MWh."""
    script = runpy.run_path(str(ROOT / "tools" / "egrid_table.py"))

    assert script["g_per_kwh"](637.4, 0.047, 0.007) == pytest.approx(289.12 + 0.576 + 0.867, abs=0.01)
