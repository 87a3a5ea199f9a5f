"""The names that `carbon_plugin` itself offers: they are there, documented, and cheap until they are used."""

from __future__ import annotations

import copy
import inspect
import pickle
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import pytest

import carbon_plugin
from carbon_plugin.errors import CarbonPluginError, SpecError
from carbon_plugin.monitor.settings.arguments import MonitorArguments

RUN = Path(__file__).resolve().parents[2] / "examples" / "specs" / "moe-1t-h100-auto.yaml"
RESULTS = {"AuditSummary", "CarbonPluginError", "Forecast", "StepPrediction"}
"""What comes out of the functions; nobody calls it."""
CALLED = sorted(set(carbon_plugin.__all__) - RESULTS)


def fresh(statement: str) -> str:
    """Return what a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True, check=True, cwd="/")
    return done.stdout.strip()


def test_every_public_name_is_there_and_listed():
    assert set(carbon_plugin.__all__) <= set(dir(carbon_plugin))
    assert all(getattr(carbon_plugin, name) is not None for name in carbon_plugin.__all__)
    assert list(carbon_plugin.__all__) == sorted(carbon_plugin.__all__)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="predictions"):
        _ = carbon_plugin.predictions


@pytest.mark.parametrize("first", ["carbon_plugin.audit.summary", "carbon_plugin.predict.step", "carbon_plugin"])
def test_packages_that_are_functions_too_are_both_whatever_is_imported_first(first):
    statement = f"import {first}; from carbon_plugin import audit, predict; import carbon_plugin.predict.step as step"

    assert fresh(f"{statement}; print(callable(audit), callable(predict), callable(step.predict_step))") == (
        "True True True"
    )


@pytest.mark.parametrize("name", carbon_plugin.__all__)
def test_every_public_name_can_be_handed_to_processes_of_a_pool_and_copied(name):
    value = getattr(carbon_plugin, name)

    assert pickle.loads(pickle.dumps(value)) is value
    assert copy.deepcopy(value) is value


@pytest.mark.parametrize("name", CALLED)
def test_help_names_every_argument_its_result_and_its_errors(name):
    function = getattr(carbon_plugin, name)
    said = pydoc.plain(pydoc.render_doc(function))

    described = re.findall(r"^[ |]+(\w+)(?: \([^\n]*\))?: ", said.partition("Args:")[2], flags=re.MULTILINE)
    named = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    assert set(named) <= set(described)
    assert "Raises:" in said
    assert inspect.isclass(function) or "Returns:" in said


@pytest.mark.parametrize("name", ["watch", "CarbonMonitor"])
def test_help_of_what_measures_names_every_argument_with_its_default(name):
    said = pydoc.plain(pydoc.render_doc(getattr(carbon_plugin, name)))

    described = dict(re.findall(r"^[ |]+(\w+) \(([^\n]*)\): ", said, flags=re.MULTILINE))
    missing = [
        argument for argument in MonitorArguments.__annotations__ if "default" not in described.get(argument, "")
    ]
    assert not missing


def test_prediction_of_a_spec_without_a_layout_is_that_of_the_plan():
    spec = carbon_plugin.load_run_spec(RUN)

    forecast = carbon_plugin.make_forecast(spec)

    assert spec.layout is None
    assert carbon_plugin.predict(spec) == forecast.prediction


@pytest.mark.parametrize("name", ["predict", "search", "make_forecast"])
def test_path_in_place_of_a_spec_is_refused_with_what_reads_it(name):
    with pytest.raises(SpecError, match="spec is a str, expected a RunSpec; load_run_spec"):
        getattr(carbon_plugin, name)(str(RUN))


def test_section_that_is_overridden_by_no_mapping_is_refused_by_name():
    with pytest.raises(SpecError, match=r"command line: training: expected a mapping, got 3"):
        carbon_plugin.load_run_spec(RUN, overrides={"training": 3})


def test_one_name_is_as_good_as_a_list_of_one(tmp_path):
    with pytest.raises(CarbonPluginError, match="zone 'SWX'"):
        carbon_plugin.search(carbon_plugin.load_run_spec(RUN), zones="SWX")
    with pytest.raises(SpecError, match="'h101'"):
        carbon_plugin.search(carbon_plugin.load_run_spec(RUN), accelerators="h101")
    for nodes in (0, [0], [2.5]):
        with pytest.raises(SpecError, match="search: nodes is"):
            carbon_plugin.search(carbon_plugin.load_run_spec(RUN), nodes=nodes)


def test_search_returns_options_by_rising_time_where_a_layout_that_may_not_fit_counts_as_longer():
    report = carbon_plugin.search(carbon_plugin.load_run_spec(RUN), zones=("SWE", "POL"))

    times = [option.run_time_s.value / option.fit_probability for option in report.options]
    assert times == sorted(times)
    assert {option.zone for option in report.options} == {"SWE"}


def test_audit_of_a_folder_without_ledgers_is_an_error_of_ours(tmp_path):
    with pytest.raises(CarbonPluginError):
        carbon_plugin.audit(tmp_path)
