"""One key is set in a model card; every other byte stays, and the Hub's own library reads the result."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.audit.exports.front_matter import set_key, write_key
from carbon_plugin.audit.exports.model_card import KEY, as_fields, as_yaml, model_card_emissions, write_model_card
from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.audit.summary import summarise
from carbon_plugin.errors import ReportError
from carbon_plugin.footprint.values import Factors
from tests.ledger.builder import Job


def read_by_the_hub(card: str) -> dict[str, Any]:
    """Return the front matter of a card as the Hub's own library reads it."""
    from huggingface_hub import ModelCard  # takes most of a second, in every worker that loads this file

    return ModelCard(card).data.to_dict()


FIELDS: dict[str, Any] = {
    "emissions": 1234.5,
    "source": "carbon-plugin: measured",
    "training_type": "pre-training",
    "geographical_location": "France (FRA)",
    "hardware_used": "4 x H100",
}
ENTRY = (
    "co2_eq_emissions:\n  emissions: 1234.5\n  source: 'carbon-plugin: measured'\n  training_type: pre-training\n"
    "  geographical_location: France (FRA)\n  hardware_used: 4 x H100\n"
)
CARD = """---
# who may use it
license: apache-2.0   # the code too
language:
- en
- 'no'                # Norwegian, not false
tags: [text-generation,   pytorch]
{there}# results of our own
model-index:
  - name: "x"
    results: []
---

# A model

---
co2_eq_emissions: in the body
"""


@pytest.mark.parametrize(
    "there",
    [
        "co2_eq_emissions: 12\n",
        "co2_eq_emissions: {emissions: 12, source: guess}\n",
        "co2_eq_emissions: {emissions: 12,\n  source: guess}\n",
        "co2_eq_emissions:\n  emissions: 12\n  source: guess\n",
        "co2_eq_emissions:\n  source: |\n    two\n    lines\n",
        "co2_eq_emissions:\n",
        "co2_eq_emissions: null\n",
        "'co2_eq_emissions': [1, 2]\n",
    ],
)
def test_old_value_in_any_style_is_replaced_and_all_else_kept(there: str) -> None:
    assert set_key(CARD.format(there=there), KEY, FIELDS) == CARD.format(there=ENTRY)


def test_comments_between_the_value_and_the_next_key_are_kept() -> None:
    card = "---\nco2_eq_emissions:\n  emissions: 1\n\n# a remark\n\nlicense: mit\n---\nbody\n"
    assert set_key(card, KEY, FIELDS) == f"---\n{ENTRY}\n# a remark\n\nlicense: mit\n---\nbody\n"


def test_key_is_appended_where_it_is_not_there() -> None:
    before, after = CARD.format(there="").split("---\n\n# A model")
    assert set_key(CARD.format(there=""), KEY, FIELDS) == f"{before}{ENTRY}---\n\n# A model{after}"


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_breaks_and_byte_order_mark_are_kept(newline: str, mark: str) -> None:
    card = mark + newline.join(["---", "license: mit", "---", "body", ""])
    expected = mark + newline.join(["---", "license: mit", *ENTRY.splitlines(), "---", "body", ""])
    assert set_key(card, KEY, FIELDS) == expected


@pytest.mark.parametrize("card", ["", "# A model\n", "text --- text\n", "\n\n# late\n"])
def test_front_matter_is_made_where_there_is_none(card: str) -> None:
    changed = set_key(card, KEY, FIELDS)
    assert changed == f"---\n{ENTRY}---\n{card}"
    assert read_by_the_hub(changed) == {KEY: FIELDS}


@pytest.mark.parametrize("empty", ["---\n---\nbody\n", "---\n\n---\nbody\n", "---\n# only a remark\n---\nbody\n"])
def test_empty_front_matter_is_filled(empty: str) -> None:
    changed = set_key(empty, KEY, FIELDS)
    assert changed.endswith(f"{ENTRY}---\nbody\n")
    assert read_by_the_hub(changed) == {KEY: FIELDS}


def test_setting_twice_changes_nothing_more() -> None:
    once = set_key(CARD.format(there=""), KEY, FIELDS)
    assert set_key(once, KEY, FIELDS) == once


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("---\n{license: mit}\n---\n", "expected a mapping with one key a line"),
        ("---\n- a\n- b\n---\n", "expected a mapping with one key a line"),
        ("---\nlicense: [mit\n---\n", "not valid YAML"),
        ("---\nco2_eq_emissions: 1\nco2_eq_emissions: 2\n---\n", "is there 2 times"),
        ("---  \nlicense: mit\n---\n", "a --- line ends with spaces"),
        ("---\nlicense: mit\n---\t\n", "a --- line ends with spaces"),
        ("---\nco2_eq_emissions: &one {a: 1}\nother: *one\n---\n", "cannot be set in it"),
    ],
)
def test_front_matter_that_could_be_harmed_is_refused(card: str, message: str) -> None:
    with pytest.raises(ReportError, match=message):
        set_key(card, KEY, FIELDS)


names = st.sampled_from(["license", "tags", "datasets", "base_model", "widget", KEY])
values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(st.characters(codec="utf-8", exclude_categories=["C"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(names, values), st.booleans(), st.text(st.characters(codec="utf-8", exclude_categories=["C"])))
def test_any_card_keeps_its_data_and_its_body(data: dict[str, Any], flow: bool, body: str) -> None:
    import yaml

    # YAML writes a mapping of scalars alone as `{a: 1}`, which is refused (above).
    flow = flow and any(isinstance(value, list | dict) for value in data.values())
    block = yaml.safe_dump(data, default_flow_style=None if flow else False, sort_keys=False, allow_unicode=True)
    block = "" if not data else block
    card = f"---\n{block}---\n{body}"
    changed = set_key(card, KEY, FIELDS)
    assert changed.endswith(f"---\n{body}")
    assert yaml.safe_load(changed[4 : changed.index("\n---\n", 4) + 1]) == {**data, KEY: FIELDS}


def test_file_is_written_in_one_step_with_its_mode_and_through_links(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text(CARD.format(there=""))
    card.chmod(0o640)
    link = tmp_path / "link.md"
    link.symlink_to(card)
    write_key(link, KEY, FIELDS)
    assert link.is_symlink()
    assert ENTRY in card.read_text()
    assert stat.S_IMODE(card.stat().st_mode) == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "link.md"]


def test_card_that_is_refused_stays_as_it_was(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_bytes(b"---\nlicense: \xff\n---\n")
    with pytest.raises(ReportError, match=r"README\.md: is not UTF-8 at byte 13"):
        write_key(card, KEY, FIELDS)
    assert card.read_bytes() == b"---\nlicense: \xff\n---\n"
    assert os.listdir(tmp_path) == ["README.md"]
    with pytest.raises(ReportError, match="cannot be written: No such file or directory"):
        write_key(tmp_path / "nowhere" / "README.md", KEY, FIELDS)


@pytest.fixture
def summary(factors: Factors, tmp_path: Path) -> AuditSummary:
    job = Job(
        factors=msgspec.to_builtins(factors), intensity_g_per_kwh=factors.intensity.figure.value, pue=factors.pue.value
    )
    job.write(tmp_path / "run")
    return summarise(tmp_path / "run")


def test_emissions_are_grams_of_operational_carbon_and_load_in_the_hubs_library(
    summary: AuditSummary, tmp_path: Path
) -> None:
    assert summary.footprint is not None
    emissions = model_card_emissions(summary, "fine-tuning")
    path = tmp_path / "README.md"
    path.write_text(CARD.format(there=""))
    write_model_card(path, emissions)
    card = read_by_the_hub(path.read_text())
    assert card[KEY] == as_fields(emissions)
    assert card["license"] == "apache-2.0"
    assert emissions.emissions == pytest.approx(summary.footprint.operational_kg.value * 1000, rel=1e-3)
    assert emissions.geographical_location == "France (FRA)"
    assert emissions.hardware_used == "4 x NVIDIA H100 80GB HBM3"
    assert "not included" in emissions.source
    assert read_by_the_hub(f"---\n{as_yaml(emissions)}---\n")[KEY] == as_fields(emissions)


def test_kind_of_training_is_never_guessed(summary: AuditSummary) -> None:
    with pytest.raises(ReportError, match="training_type is not known of run simulated"):
        model_card_emissions(summary)
    with pytest.raises(ReportError, match="expected pre-training or fine-tuning"):
        model_card_emissions(summary, "training")


def test_frozen_parameters_say_fine_tuning(summary: AuditSummary) -> None:
    assert summary.work is not None
    frozen = msgspec.structs.replace(summary, work=msgspec.structs.replace(summary.work, trainable_fraction=0.01))
    assert model_card_emissions(frozen).training_type == "fine-tuning"
