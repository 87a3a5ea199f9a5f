"""The files of `deploy/`: dashboards, alert rules, manifests and scripts, checked by the real tools."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.deploy.conftest import DEPLOY

DASHBOARDS = sorted((DEPLOY / "grafana").glob("*.json"))
ALERT_TESTS = """
rule_files: ["{rules}"]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {{series: 'carbon_plugin_run_active{{run_id="1",run="a"}}', values: "1x120"}}
      - {{series: 'carbon_plugin_last_window_timestamp_seconds{{run_id="1",run="a"}}', values: "0 60 120 120x120"}}
      - {{series: 'carbon_plugin_run_active{{run_id="2",run="ended"}}', values: "0x120"}}
      - {{series: 'carbon_plugin_last_window_timestamp_seconds{{run_id="2",run="ended"}}', values: "0x120"}}
      - {{series: 'carbon_plugin_step_time_ratio{{run_id="1",run="a"}}', values: "1.5x120"}}
      - {{series: 'carbon_plugin_step_time_ratio{{run_id="2",run="ended"}}', values: "1.1x120"}}
      - {{series: 'carbon_plugin_measured_gpus_ratio{{run_id="1",run="a"}}', values: "0.5x120"}}
      - {{series: 'carbon_plugin_measured_gpus_ratio{{run_id="2",run="ended"}}', values: "1x120"}}
      - {{series: 'carbon_plugin_device_power_watts{{device="G1",host="n",rung="gpu"}}', values: "400x120"}}
      - {{series: 'carbon_plugin_run_device_power_watts{{device="G1",host="n",run_id="1"}}', values: "400x120"}}
      - {{series: 'carbon_plugin_device_power_watts{{device="G2",host="n",rung="gpu"}}', values: "300x120"}}
      - {{series: 'carbon_plugin_device_power_watts{{device="G3",host="n",rung="gpu"}}', values: "60x120"}}
      - {{series: 'up{{job="carbon-plugin-agent",instance="n:9440"}}', values: "0x120"}}
      - {{series: 'up{{job="other",instance="m:9440"}}', values: "0x120"}}
    promql_expr_test:
      - expr: count by (alertname, alertstate) (ALERTS{{alertstate="firing"}})
        eval_time: 100m
        exp_samples:
          - {{labels: '{{alertname="CarbonPluginRunStalled", alertstate="firing"}}', value: 1}}
          - {{labels: '{{alertname="CarbonPluginStepSlowerThanPredicted", alertstate="firing"}}', value: 1}}
          - {{labels: '{{alertname="CarbonPluginGpusNotMeasured", alertstate="firing"}}', value: 1}}
          - {{labels: '{{alertname="CarbonPluginGpuDrawsWithoutRun", alertstate="firing"}}', value: 1}}
          - {{labels: '{{alertname="CarbonPluginAgentDown", alertstate="firing"}}', value: 1}}
      - expr: count by (device) (ALERTS{{alertname="CarbonPluginGpuDrawsWithoutRun", alertstate="firing"}})
        eval_time: 100m
        exp_samples:
          - {{labels: '{{device="G2"}}', value: 1}}
      - expr: count(ALERTS{{alertname="CarbonPluginRunStalled", run="a"}})
        eval_time: 100m
        exp_samples: [{{value: 1}}]
"""


def checked(*command: str) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_alert_rules():
    checked("promtool", "check", "rules", "--lint-fatal", str(DEPLOY / "prometheus" / "alerts.yml"))


def test_each_alert_fires_for_what_it_is_for_and_for_nothing_else(tmp_path):
    (tmp_path / "tests.yml").write_text(ALERT_TESTS.format(rules=DEPLOY / "prometheus" / "alerts.yml"))

    checked("promtool", "test", "rules", str(tmp_path / "tests.yml"))


def test_promtool_accepts_the_scrape_configuration():
    checked("promtool", "check", "config", str(DEPLOY / "prometheus" / "scrape.yml"))


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboard_has_what_grafana_needs_to_import_it(path):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((DEPLOY.parent / "tests" / "deploy" / "data" / "dashboard.schema.json").read_text())

    document = json.loads(path.read_text())

    jsonschema.validate(document, schema)
    assert len({panel["id"] for panel in document["panels"]}) == len(document["panels"])
    named = {variable["name"] for variable in document["templating"]["list"]}
    assert "datasource" in named


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, f"{path}/{name}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{path}/{number}")
    else:
        yield path, value


def as_grafana_knows_it(document: Any) -> dict[str, Any]:
    """Return the paths and values of a dashboard after the types of Grafana's own SDK have read and written it. A field
    with a wrong name or in a wrong place is lost on the way.
    """
    pytest.importorskip("grafana_foundation_sdk", reason="Grafana's SDK is not installed; `make test` installs it")
    from grafana_foundation_sdk.cog import plugins
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.dashboard import Dashboard

    plugins.register_default_plugins()
    return dict(leaves(json.loads(JSONEncoder().encode(Dashboard.from_json(document)))))


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_types_of_grafana_know_every_field_of_a_dashboard(path):
    document = json.loads(path.read_text())

    assert dict(leaves(document)).items() <= as_grafana_knows_it(document).items()


def test_field_of_a_dashboard_with_a_wrong_name_would_be_found():
    document = json.loads(DASHBOARDS[0].read_text())
    document["panels"][0]["gridPosition"] = document["panels"][0].pop("gridPos")

    assert "/panels/0/gridPosition/x" not in as_grafana_knows_it(document)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_of_a_dashboard_do_not_overlap(path):
    cells: set[tuple[int, int]] = set()

    for panel in json.loads(path.read_text())["panels"]:
        at = panel["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not own & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        cells |= own
