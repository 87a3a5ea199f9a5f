"""Mixtures that a stranger tries first: their published configs give the published parameters and sane plans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from carbon_plugin.plan.search.layouts import search_layout
from carbon_plugin.plan.warnings import warnings_of
from carbon_plugin.predict.step import predict_step
from carbon_plugin.spec.huggingface.config import model_from_hf_config
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.models.model import TransformerModel

MIXTURES: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "data" / "mixtures.yaml").read_text())


def model(name: str) -> TransformerModel:
    return model_from_hf_config(MIXTURES[name]["config"], name)


def agrees(ours: float, printed: str) -> bool:
    """Return whether a count in billions is within 1 % of a printed one, or is rounded or cut to it."""
    published = float(printed)
    last_digit = 10.0 ** -len(printed.partition(".")[2])
    return abs(ours - published) <= 0.01 * published or -last_digit / 2 <= ours - published < last_digit


@pytest.mark.parametrize("name", MIXTURES)
def test_the_config_of_a_mixture_gives_its_published_parameters(name: str) -> None:
    published, found = MIXTURES[name]["published"], model(name)

    assert agrees(found.parameters / 1e9, published["total"])
    if "active" in published:
        table = found.vocab * found.hidden
        assert agrees((found.active_parameters - published["tables_left_out"] * table) / 1e9, published["active"])


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_is_planned_sanely_on_a_cluster_that_somebody_might_have(name: str, tmp_path: Path) -> None:
    """No published training of a mixture in 16 bit is below a tenth or above 55 % of the peak."""
    config, chosen = tmp_path / "config.json", MIXTURES[name]["cluster"]
    config.write_text(json.dumps(MIXTURES[name]["config"]))
    document = {
        "name": name,
        "model": str(config),
        "cluster": {"accelerator": chosen["accelerator"], "nodes": chosen["nodes"]},
        "training": {"seq_len": chosen["seq_len"], "global_batch_size": 2048, "tokens": 1e12},
        "site": {"zone": "USA"},
        "stack": "tuned",
    }
    spec = build_run_spec(document)
    spec = msgspec.structs.replace(spec, layout=search_layout(spec).layout)

    prediction = predict_step(spec)

    assert prediction.memory.fits
    assert 0.1 < prediction.mfu < 0.55
    assert warnings_of(spec, prediction) == []
