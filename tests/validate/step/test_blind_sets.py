"""The blind sets are shipped with their predictions, and the pages say what came of them."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from carbon_plugin.calibrate.rows.published import all_published_rows, blind_predictions, blind_sets
from carbon_plugin.validate.step.blind_sets import blind_errors

ROOT = Path(__file__).resolve().parents[3]


def test_every_row_of_a_blind_set_is_shipped_with_its_blind_prediction() -> None:
    predicted = blind_predictions()
    shipped = {row.id: row for row in all_published_rows()[0]}
    blind = {one.collection for one in blind_sets()}

    assert predicted.keys() == {name for name, row in shipped.items() if row.collection in blind}


def test_the_page_of_the_blind_sets_says_what_their_predictions_come_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    page = (ROOT / "docs" / "blind_sets.md").read_text(encoding="utf-8").replace("**", "")
    row = r"^\| (dense|mixtures), mean over [a-z ]+ \| (\d+) \| ([\d.]+) \| ([+-][\d.]+) \| (\d+) % \|"

    said = re.findall(row, page, flags=re.MULTILINE)

    newest_first = runpy.run_path(str(ROOT / "docs" / "blind_sets.py"))["newest_first"]
    found = [
        (one.kind, str(one.rows), f"{one.mean:.1f}", f"{one.bias:+.1f}", f"{one.inside_range:.0f}")
        for one in newest_first(blind_errors())
    ]
    assert said == found


def test_the_tables_of_the_blind_sets_are_those_of_their_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    pages = [tmp_path / "validation.md", tmp_path / "README.md"]
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("docs/validation.md", "README.md")]
    for page, text in zip(pages, texts, strict=True):
        page.write_text(text, encoding="utf-8")

    runpy.run_path(str(ROOT / "docs" / "blind_sets.py"))["write"](*pages)

    assert all(f"| {blind_sets()[-1].name} " in text for text in texts)
    assert [page.read_text(encoding="utf-8") for page in pages] == texts, "run `python docs/blind_sets.py`"
