"""Defaults < carbon_plugin.yaml < environment < arguments, with the source of each value, by one schema."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from jsonschema import Draft202012Validator

import carbon_plugin
from carbon_plugin.audit.exports.json_schemas import published_schema
from carbon_plugin.cli.main import run
from carbon_plugin.errors import CarbonPluginError, SpecError
from carbon_plugin.monitor.settings.arguments import MonitorArguments
from carbon_plugin.monitor.settings.configured import effective, merged, read_configuration, variables
from carbon_plugin.monitor.settings.options import MonitorOptions
from carbon_plugin.monitor.settings.settings import DEFAULTS, make_settings
from carbon_plugin.spec.configuration import OTHER_VARIABLES, Configuration
from carbon_plugin.spec.options import SpanRule
from tests.pages import blocks_of

FILE = """\
site:
  zone: FRA
  pue: 1.2
planned: plans/forecast.json
window_s: 20
programme: ours
budget:
  energy_kwh: 5e3
  on_exceed: stop
"""
PAGE = Path(__file__).resolve().parents[3] / "docs" / "configuration.md"
OF_ONE_CALL = {"log", "step"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "carbon_plugin.yaml").write_text(FILE)
    inner = tmp_path / "scripts" / "deep"
    inner.mkdir(parents=True)
    return inner


def test_every_argument_is_in_the_configuration_or_belongs_to_one_call():
    from carbon_plugin.monitor.settings.settings import ARGUMENT_TYPES

    arguments = set(get_type_hints(MonitorArguments, localns=ARGUMENT_TYPES))
    assert arguments - OF_ONE_CALL == set(Configuration.__struct_fields__)


def test_the_file_is_found_upwards_and_its_paths_are_of_its_own_folder(project):
    found = read_configuration({}, project)

    assert found.file == project.parents[1] / "carbon_plugin.yaml"
    assert found.values["planned"] == str(project.parents[1] / "plans" / "forecast.json")
    assert found.sources["budget.energy_kwh"] == f"{found.file}:8"


def test_a_stronger_source_replaces_single_fields_and_every_value_has_its_source(project):
    environ = {"CARBON_PLUGIN_BUDGET_ENERGY_KWH": "12", "CARBON_PLUGIN_WINDOW_S": "30", "CARBON_PLUGIN_QUIET": "true"}
    configured = read_configuration(environ, project)
    arguments = {"window_s": 40.0, "programme": None}

    assert merged(arguments, configured)["window_s"] == 40.0
    assert merged(arguments, configured)["budget"] == {"energy_kwh": 12, "on_exceed": "stop"}
    fields = effective(arguments, configured, DEFAULTS)
    assert fields["window_s"] == {"value": 40.0, "source": "argument"}
    assert fields["programme"]["source"] == f"{configured.file}:6"
    assert fields["quiet"] == {"value": True, "source": "environment variable CARBON_PLUGIN_QUIET"}
    assert fields["budget"]["source"] == (f"environment variable CARBON_PLUGIN_BUDGET_ENERGY_KWH; {configured.file}:9")
    assert fields["role"] == {"value": None, "source": "default"}


def test_a_field_of_the_environment_stands_beside_a_zone_of_the_file(tmp_path):
    (tmp_path / "carbon_plugin.yaml").write_text("site: FRA\n")

    found = read_configuration({"CARBON_PLUGIN_SITE_PUE": "1.3"}, tmp_path)

    assert found.values["site"] == {"zone": "FRA", "pue": 1.3}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("windows_s: 20\n", ":1: windows_s: unknown field; nearest: window_s"),
        ("a: 1\nwindow_s: long\n", ":1: a: unknown field"),
        ("window_s: long\n", ":1: window_s: expected number, got 'long'"),
        ("total_steps: many\n", ":1: total_steps: expected int, got 'many'"),
        ("budget:\n  energy: 3\n", ":2: budget.energy: unknown field; nearest: energy_kwh"),
        ("budget:\n  on_exceed: halt\n", ":2: budget.on_exceed: expected one of warn, stop, got 'halt'"),
        ("site:\n  pue: 12\n  zone: FRA\n", "pue is 12, expected 1 to 10"),
        ("role: best\n", ":1: role: expected one of final"),
        ("- site\n", "expected fields such as site: FRA"),
        ("site: [\n", "not valid YAML"),
    ],
)  # fmt: skip
def test_a_bad_field_is_one_sentence_with_its_place_its_value_and_what_was_expected(tmp_path, text, said):
    (tmp_path / "carbon_plugin.yaml").write_text(text)

    with pytest.raises(CarbonPluginError) as error:
        read_configuration({}, tmp_path)

    assert str(error.value).startswith(str(tmp_path / "carbon_plugin.yaml"))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bad_variable_is_named_and_so_is_a_value_that_only_the_monitor_can_judge(tmp_path, monkeypatch):
    with pytest.raises(
        CarbonPluginError, match="environment variable CARBON_PLUGIN_WINDOW_S: window_s: expected number"
    ):
        read_configuration({"CARBON_PLUGIN_WINDOW_S": "soon"}, tmp_path)
    (tmp_path / "carbon_plugin.yaml").write_text("name: x\nwindow_s: 2\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CarbonPluginError, match=r"carbon_plugin.yaml:2: window_s is 2.0, expected at least 5 seconds"):
        make_settings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("window_s: 20\nsite:\n  pue: 1.2\n  zone: Farnce\n", ":4: site.zone: zone 'Farnce' is unknown"),
        ("window_s: 20\nsite: Farnce\n", ":2: site: zone 'Farnce' is unknown"),
        ("budget:\n  on_exceed: warn\n  energy_kwh: -1\n", ":3: budget: energy_kwh is -1"),
    ],
)
def test_a_value_that_a_later_step_refuses_is_named_with_file_line_and_field(tmp_path, monkeypatch, text, said):
    (tmp_path / "carbon_plugin.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)

    with pytest.raises(CarbonPluginError) as error:
        make_settings()
    assert f"carbon_plugin.yaml{said}" in str(error.value)


def test_settings_follow_the_file_and_record_where_each_value_is_from(project, monkeypatch):
    (project.parents[1] / "carbon_plugin.yaml").write_text(FILE.replace("planned: plans/forecast.json\n", ""))
    monkeypatch.chdir(project)

    settings = make_settings(programme="mine")

    assert (settings.window_s, settings.programme) == (20.0, "mine")
    assert settings.declared.site is not None
    assert (settings.declared.site.zone, settings.declared.site.pue) == ("FRA", 1.2)
    assert settings.budget is not None
    assert settings.budget.document() == {"energy_kwh": 5000.0, "on_exceed": "stop", "on": "central"}
    assert settings.configuration["programme"] == {"value": "mine", "source": "argument"}


def test_no_file_is_read_where_the_variable_is_empty_and_another_where_it_names_one(project, tmp_path):
    assert read_configuration({"CARBON_PLUGIN_CONFIG": ""}, project).values == {}
    (tmp_path / "other.yaml").write_text("name: other\n")
    assert read_configuration({"CARBON_PLUGIN_CONFIG": str(tmp_path / "other.yaml")}, project).values == {
        "name": "other"
    }


def test_names_of_variables_are_different():
    assert len(set(variables().values())) == len(variables())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"budget": {"emissions_kg": 1.0}}, "budget: emissions_kg needs a site"),
        ({"budget": {"cost": 1.0}}, "budget: cost needs a price"),
        ({"budget": {"energy": 1.0}}, "energy_kwh"),
        ({"budget": 3}, "budget is 3, expected a CarbonBudget"),
        ({"alerts": {"lest": 1.0}}, "least"),
        ({"alerts": "no"}, "alerts is 'no', expected AlertRules"),
        ({"alerts": {"least": "0.2"}}, "least is '0.2', expected a relative deviation above 0"),
        ({"alerts": {"least": True}}, "least is True, expected a relative deviation above 0"),
        ({"options": {"min_window_s": -1}}, "options.min_window_s is -1, expected a positive number of seconds"),
        ({"alerts": {"webhook": "ftp://x"}}, "webhook is no http:// or https:// address"),
    ],
)
def test_a_budget_or_rules_that_can_never_work_are_refused(arguments, said):
    with pytest.raises(CarbonPluginError, match=said):
        make_settings(**arguments)


def test_a_zone_of_the_environment_replaces_the_zone_of_the_file_and_keeps_its_other_fields(tmp_path):
    (tmp_path / "carbon_plugin.yaml").write_text(
        "site: {zone: FRA, pue: 1.15, live: {provider: neso}}\nbudget: {energy_kwh: 9, on_exceed: stop}\n"
    )
    environ = {"CARBON_PLUGIN_SITE": "SWE", "CARBON_PLUGIN_BUDGET": "{energy_kwh: 3}"}

    found = read_configuration(environ, tmp_path)

    assert found.values["site"] == {"zone": "SWE", "pue": 1.15}, "what is asked for France is not of Sweden"
    assert found.values["budget"] == {"energy_kwh": 3, "on_exceed": "stop"}
    assert found.sources["site.zone"] == "environment variable CARBON_PLUGIN_SITE"
    assert found.sources["site.pue"] == f"{tmp_path / 'carbon_plugin.yaml'}:1"


def test_an_unknown_variable_is_one_warning_with_the_nearest_name(caplog):
    environ = {
        "CARBON_PLUGIN_WINDOWS": "3",
        "CARBON_PLUGIN_AGENT_SERVICE_HOST": "10.0.0.1",
        "CARBON_PLUGIN_AGENT_PORT_9440_TCP_ADDR": "10.0.0.1",
        **dict.fromkeys(OTHER_VARIABLES, ""),
        "CARBON_PLUGIN_RUN_ID": "x",
        "CARBON_PLUGIN_CONFIG": "",
    }

    for _ in range(2):
        read_configuration(environ)

    (said,) = caplog.messages
    assert "CARBON_PLUGIN_WINDOWS is not known and has no effect; nearest: CARBON_PLUGIN_WINDOW_S" in said


def test_every_variable_of_the_source_is_a_field_or_is_known_as_one_of_another_part():
    package = Path(carbon_plugin.__file__).parent
    rooms = (package, package / "integrations")  # in a checkout a link, which rglob does not follow
    files = [path for room in rooms for path in room.rglob("*.py") if "hardware_profiles" not in path.parts]
    named = {name for path in files for name in re.findall(r'"(CARBON_PLUGIN_[A-Z_]*[A-Z])"', path.read_text())}

    assert len(named) > 10
    assert named <= {*variables().values(), *OTHER_VARIABLES}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("site: XYZ\n", "zone 'XYZ' is unknown"),
        ("window_s: -4\n", "window_s is -4"),
        ("budget: {energy_kwh: -1}\n", "energy_kwh is -1"),
    ],
)
def test_config_show_refuses_what_a_run_refuses_in_the_same_words(tmp_path, monkeypatch, capsys, text, said):
    (tmp_path / "carbon_plugin.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CarbonPluginError) as refused:
        make_settings()

    assert run(["config", "show"]) == 2

    assert str(refused.value) in capsys.readouterr().err
    assert said in str(refused.value)


@pytest.mark.parametrize("text", ["1e-9", "5e3", "1_000", "2.5"])
def test_a_number_in_the_environment_is_written_as_one_in_the_file(tmp_path, text):
    (tmp_path / "carbon_plugin.yaml").write_text(f"budget:\n  energy_kwh: {text}\n")

    of_file = read_configuration({}, tmp_path).values
    of_environment = read_configuration({"CARBON_PLUGIN_CONFIG": "", "CARBON_PLUGIN_BUDGET_ENERGY_KWH": text}).values

    assert of_environment == of_file == {"budget": {"energy_kwh": float(text)}}


def test_options_are_a_section_like_any_other(tmp_path, monkeypatch, capsys):
    (tmp_path / "carbon_plugin.yaml").write_text(
        "options:\n  node: dgx-h100\n  min_window_s: 2\n  span_rule: {min_steps: 4}\n  training: {seq_len: 512}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CARBON_PLUGIN_OPTIONS_MIN_WINDOW_S", "3")
    monkeypatch.setenv("CARBON_PLUGIN_OPTIONS_RESERVED_GPUS", "[0, GPU-7]")

    settings = make_settings()
    argument = make_settings(options=MonitorOptions(run_id="stated"))

    options = settings.options
    assert (options.min_window_s, options.reserved_gpus, options.training) == (3, (0, "GPU-7"), {"seq_len": 512})
    assert options.span_rule == SpanRule(min_steps=4)
    assert settings.declared.node is not None
    assert settings.declared.node.name == "dgx-h100"
    assert argument.options == MonitorOptions(run_id="stated")
    assert run(["config", "show"]) == 0
    assert "span_rule" in capsys.readouterr().out
    source = settings.configuration["options"]["source"]
    assert "environment variable CARBON_PLUGIN_OPTIONS_MIN_WINDOW_S" in source
    assert f"{tmp_path / 'carbon_plugin.yaml'}:2" in source


def test_config_show_writes_values_as_a_user_does(tmp_path, monkeypatch, capsys):
    (tmp_path / "carbon_plugin.yaml").write_text("site: {zone: FRA, building: true}\n")
    monkeypatch.chdir(tmp_path)

    assert run(["config", "show"]) == 0

    shown = capsys.readouterr().out
    assert "building: true" in shown
    assert "None" not in shown


@pytest.fixture(scope="module")
def published() -> Draft202012Validator:
    """Return the schema of the file, as editors get it."""
    return Draft202012Validator(published_schema("configuration"))


def fields_of(schema: dict[str, Any]) -> dict[str, list[str]]:
    return {name: sorted(one.get("properties", ())) for name, one in schema["$defs"].items()}


def test_the_published_schema_is_the_one_that_is_printed_and_takes_the_file_of_the_page(published, capsys):
    (text,) = (block.code for block in blocks_of("docs/configuration.md", "yaml"))

    assert run(["config", "schema"]) == 0

    printed = json.loads(capsys.readouterr().out)
    assert fields_of(printed) == fields_of(published.schema)  # releases of msgspec word the rest differently
    assert list(published.iter_errors(yaml.safe_load(text))) == []


@pytest.mark.parametrize(
    "text",
    [
        "windw_s: 20", "window_s: often", "site: {zone: FRA, pu: 1.2}", "budget: {energy_kwh: a lot}",
        "budget: {on_exceed: halt}", "alerts: {least: x}", "tags: [a]", "options: {run_id: of one call}",
        "options: {span_rule: {min_steps: few}}",
    ],
)  # fmt: skip
def test_the_published_schema_refuses_what_a_run_refuses(published, tmp_path, text):
    (tmp_path / "carbon_plugin.yaml").write_text(text + "\n")

    assert list(published.iter_errors(yaml.safe_load(text)))
    with pytest.raises(SpecError):
        read_configuration({}, tmp_path)
