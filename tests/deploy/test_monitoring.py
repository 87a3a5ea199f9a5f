"""The agent of a node, scraped by a real Prometheus server, and every query of the dashboards and alerts run there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from carbon_plugin.audit.summary import summarise
from tests.deploy.conftest import DEPLOY, POWERS_W, SCRAPE_S, Server, Site, await_it

DASHBOARDS = sorted((DEPLOY / "grafana").glob("*.json"))
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]


def dashboard(path: Path) -> Any:
    return json.loads(path.read_text())


def queries(path: Path) -> list[str]:
    return [target["expr"] for panel in dashboard(path)["panels"] for target in panel["targets"]]


def filled(query: str) -> str:
    """Return a query with Grafana's variables replaced as Grafana replaces them for "All"."""
    for name, value in (("$__rate_interval", "4s"), ("$__range", "1m"), ("$run", ".*"), ("$host", ".*")):
        query = query.replace(name, value)
    assert "$" not in query
    return query


@pytest.fixture(scope="module")
def server(site: Site) -> Server:
    """Return the server, once it has figures of several windows of the run."""
    server = site.server
    if server is None:
        pytest.skip("prometheus is not installed")
    await_it(server.answers, "an answer of Prometheus")
    await_it(lambda: server.values("carbon_plugin_step_time_ratio"), "a comparison of the run")
    await_it(lambda: server.values("rate(carbon_plugin_operational_emissions_grams_total[4s]) > 0"), "a rate of carbon")
    return server


def test_agent_shows_every_gpu_of_the_node_and_the_run_that_goes_on(site):
    text = await_it(
        lambda: (t := site.scrape()) and "carbon_plugin_run_device_energy_joules_total{" in t and t, "the run"
    )

    powers = dict(
        re.findall(r'carbon_plugin_device_power_watts\{cluster="a",device="(GPU-[^"]+)".*rung="gpu"\} (\S+)', text)
    )
    assert sorted(map(float, powers.values())) == POWERS_W
    charged = set(re.findall(r'carbon_plugin_run_device_energy_joules_total\{.*device="(GPU-[^"]+)"', text))
    assert charged == set(powers)
    assert re.search(r'carbon_plugin_run_active\{cluster="a",run="llama",run_id="\w+"\} 1.0', text)


def test_promtool_finds_nothing_in_what_the_agent_shows(site):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    text = await_it(
        lambda: (t := site.scrape()) and "carbon_plugin_projected_energy_joules{" in t and t, "a projection"
    )

    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_energy_in_prometheus_is_that_of_the_audit(site, server):
    rounding = 1e-9  # the agent adds the same energies in another order
    before_j = summarise(site.run_dir).energy.energy_j * (1 - rounding)
    seen = await_it(lambda: [v for _, v in server.values("carbon_plugin_energy_joules_total") if v >= before_j], "it")
    after_j = summarise(site.run_dir).energy.energy_j * (1 + rounding)

    assert before_j <= seen[0] <= after_j


def test_energy_grows_by_the_power(site, server):
    """A sample shows what the agent read some time before, and counts from some time after the agent was started."""

    def mean_powers_w() -> list[tuple[float, float]]:
        """Return, by GPU, the whole energy over the longest time in which it can have been counted, and the growth
        between samples over the time between them: at most the power, and about the power once that time is long.
        """
        found = []
        for samples in server.samples('carbon_plugin_device_energy_joules_total{rung="gpu"}'):
            (first_s, first_j), (last_s, last_j) = samples[0], samples[-1]
            longest_s = last_s + SCRAPE_S - site.agent_started_s  # an answer may come so long after the sample's time
            if last_s - first_s > 0.55 * longest_s:  # so that a counter twice as fast would exceed the power
                found.append((last_j / longest_s, (last_j - first_j) / (last_s - first_s)))
        return sorted(found)

    def have_grown(found: list[tuple[float, float]]) -> bool:
        return len(found) == 2 and all(grown_w > 0.9 * w for (_, grown_w), w in zip(found, POWERS_W, strict=True))

    found = await_it(lambda: (f := mean_powers_w()) and have_grown(f) and f, f"a growth by {POWERS_W} W")

    assert all(whole_w <= power_w for (whole_w, _), power_w in zip(found, POWERS_W, strict=True)), found


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_query_of_a_dashboard_finds_something(path, server):
    for query in map(filled, queries(path)):  # a power that nobody has read for a while is not shown
        await_it(lambda query=query: server.values(query), query)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_expression_of_an_alert_runs_and_does_not_fire_on_a_run_that_is_well(rule, server):
    # An alert has to hold for minutes; on a busy machine a single scrape may fail.
    await_it(lambda: not server.values(rule["expr"]), f"a moment without {rule['alert']}")


def test_server_has_loaded_every_alert(server):
    loaded = {rule["name"]: rule["health"] for group in server.ask("rules")["groups"] for rule in group["rules"]}

    assert set(loaded) == {rule["alert"] for rule in ALERTS}
    assert set(loaded.values()) <= {"ok", "unknown"}


def test_every_metric_that_a_query_names_is_exported(server):
    exported = set(server.ask("label/__name__/values"))

    named = {
        name
        for query in [*(q for path in DASHBOARDS for q in queries(path)), *(rule["expr"] for rule in ALERTS)]
        for name in re.findall(r"carbon_plugin_\w+", query)
    }
    assert named <= exported


def test_variables_of_the_dashboards_find_the_run_and_the_node(server):
    found = {}
    for path in DASHBOARDS:
        for variable in dashboard(path)["templating"]["list"]:
            if variable["type"] == "query":
                metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
                found[variable["name"]] = server.ask(f"label/{label}/values", **{"match[]": metric})

    assert set(found) == {"run", "host"}
    assert all(len(values) == 1 for values in found.values())
