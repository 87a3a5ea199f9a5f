"""Mistakes of the user are said where they are made, before training, with names and numbers."""

from __future__ import annotations

import copy
import pickle
import time

import pytest

from carbon_plugin.audit.report.charts.all_charts import charts_of
from carbon_plugin.audit.summary import summarise
from carbon_plugin.errors import CarbonPluginError, FootprintError, SpecError
from carbon_plugin.ledger.files import ledger_files
from carbon_plugin.ledger.reader import manifest_of, read_run
from carbon_plugin.ledger.records import KNOWN_PHASES, Event, Window
from carbon_plugin.ledger.verification.verify import verify_run
from carbon_plugin.monitor.clock import MAX_OWN
from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.monitor.settings.options import MonitorOptions
from carbon_plugin.monitor.settings.settings import make_settings
from carbon_plugin.plan.forecast import make_forecast
from carbon_plugin.spec.loading import build_run_spec
from carbon_plugin.spec.site import Site


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"site": "FRB"}, "FRB"),
        ({"site": 3}, "site is 3, expected a zone"),
        ({"site": {"zone": "FRA", "pu": 1.2}}, r"arguments: site.pu: unknown field; nearest: pue"),
        ({"site": {"zone": "FRA", "pue": 0.5}}, "pue is 0.5"),
        ({"site": Site(zone=5)}, "arguments: site.zone: expected text, got 5"),
        ({"site": Site(zone="FRA", pue=True)}, "arguments: site.pue: expected number, got True"),
        ({"total_steps": 0}, "total_steps is 0"),
        ({"tokens_per_step": -5}, "tokens_per_step is -5"),
        ({"window_s": 1.0}, "window_s is 1.0, expected at least 5"),
        ({"total_steps": "many"}, "total_steps is 'many', expected int"),
        ({"tokens_per_step": 4e6}, "tokens_per_step is 4000000.0, expected int"),
        ({"step": True}, "step is True, expected int"),
        ({"window_s": "10"}, "window_s is '10', expected float or int"),
        ({"role": "finale"}, "role is 'finale', expected .*final"),
        ({"layout": 8}, "layout is 8, expected ParallelLayout or Mapping"),
        ({"layout": {"tp": "two"}}, "layout.tp is 'two', expected"),
        ({"layout": {"zero_stage": 9}}, "layout.zero_stage is 9, expected"),
        ({"layout": {"cp": -2}}, "layout.cp is -2, expected a positive integer"),
        ({"layout": {"micro_batch_size": 0}}, "layout.micro_batch_size is 0, expected a positive integer"),
        ({"options": MonitorOptions(training={"steps": 0})}, "training.steps is 0, expected a positive integer"),
        ({"options": MonitorOptions(training={"tokens": float("nan")})}, "training.tokens is nan, expected a number"),
        ({"options": "quick"}, "options is 'quick', expected MonitorOptions"),
        ({"options": {"min_window": 1}}, "options.min_window: unknown field; nearest: min_window_s"),
        ({"options": {"node": "dgx-h10"}}, "unknown node 'dgx-h10'"),
        ({"options": MonitorOptions(training={"seq_len": "long"})}, "training.seq_len is 'long', expected"),
        ({"layout": {"tensor_parallel": 2}}, "unknown layout field 'tensor_parallel'"),
        ({"options": MonitorOptions(training={"seqlen": 2})}, "unknown training field 'seqlen'"),
        ({"accelerator": "h10"}, "h10"),
        ({"model_spec": "lama3-8b"}, "lama3-8b"),
        ({"planned": "/nowhere/forecast.json"}, "/nowhere/forecast.json"),
    ],
)
def test_argument_that_cannot_be_used_is_named(arguments, message):
    with pytest.raises(CarbonPluginError, match=message) as raised:
        make_settings(**arguments)

    assert isinstance(raised.value, SpecError | FootprintError)
    assert "\n" not in str(raised.value)


def test_site_is_given_by_zone_by_fields_or_whole():
    whole = Site(zone="FRA", pue=1.2)

    assert make_settings(site={"zone": "FRA", "pue": 1.2}).declared.site == whole
    assert make_settings(site=whole).declared.site == whole
    assert make_settings(site="FRA").declared.site == Site(zone="FRA")


@pytest.mark.parametrize(
    ("site", "pue"),
    [
        ("FRA", 1.1),
        ("France", 1.1),
        ({"zone": "fr"}, 1.1),
        (None, None),
        ("DEU", None),
        ("aws:eu-west-3", None),
        ({"zone": "FRA", "pue": 1.3}, 1.3),
        ({"zone": "FRA", "lifetime_years": 4}, None),
        ({"intensity_g_per_kwh": 30}, None),
    ],
)
def test_bare_zone_of_the_plan_stands_for_the_site_that_the_plan_states(site, pue):
    plan = {
        "model": "llama3-8b",
        "cluster": {"accelerator": "h100-sxm", "nodes": 1},
        "layout": {"dp_shard": 8, "zero_stage": 3, "micro_batch_size": 1},
        "training": {"steps": 10},
        "site": {"zone": "FRA", "pue": 1.1},
    }
    declared = make_settings(site=site, planned=make_forecast(build_run_spec(plan))).declared.site
    assert (declared and declared.pue) == pue


def test_attempt_that_begins_at_0_after_another_is_warned_of_and_told_what_to_do(tmp_path, caplog):
    def attempt(steps: int, **arguments: int) -> list[str]:
        caplog.clear()
        with CarbonMonitor(run_dir=tmp_path, site="FRA", **arguments) as monitor:
            for _ in range(steps):
                monitor.step_end()
        return [record.message for record in caplog.records if record.levelname == "WARNING"]

    assert attempt(5) == []
    (warning,) = attempt(2)
    assert "has reached step 5" in warning
    assert "pass step=" in warning
    assert attempt(0) == []  # an evaluation
    assert attempt(2, step=5) == []
    assert attempt(2, step=0) == []  # said on purpose
    kinds = [r.kind for file in read_run(tmp_path).files for r in file.records if isinstance(r, Event)]
    assert kinds.count("restarted_at_0") == 1


def test_more_steps_than_the_run_was_to_have_are_said(tmp_path, caplog):
    with CarbonMonitor(run_dir=tmp_path, site="FRA", total_steps=3) as monitor:
        for _ in range(4):
            monitor.step_end()

    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "step 4 is past the 3 steps" in warning


def test_misspelt_argument_is_refused():
    with pytest.raises(TypeError, match="no argument 'sit', did you mean 'site'"):
        CarbonMonitor(sit="FRA")  # type: ignore[call-arg]


def test_an_option_that_is_given_as_an_argument_says_where_it_belongs():
    with pytest.raises(TypeError, match=r"no argument 'reserved_gpus'; it is a field of options=\{'reserved_gpus'"):
        CarbonMonitor(reserved_gpus=[0])  # type: ignore[call-arg]


def test_without_a_site_nothing_is_guessed():
    assert make_settings().declared.site is None
    assert make_settings(site="FRA").declared.site == Site(zone="FRA")


def test_name_is_fit_for_a_directory():
    assert make_settings(name="my run/7: π").name == "my-run-7--π"
    assert make_settings(name="..").name == "run"


def test_disabled_monitor_checks_nothing_and_does_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("CARBON_PLUGIN_DISABLED", "1")
    monitor = CarbonMonitor(site="no such place", run_dir=tmp_path / "run")

    with monitor, monitor.phase("evaluation"):
        monitor.step_end()

    assert (monitor.active, monitor.metrics(), monitor.head, monitor.step) == (False, {}, None, 0)
    assert not (tmp_path / "run").exists()


def test_calls_before_start_and_after_close_do_nothing(tmp_path):
    monitor = CarbonMonitor(run_dir=tmp_path / "run")

    monitor.step_end()
    monitor.enter("train")
    monitor.close()

    assert not (tmp_path / "run").exists()


def test_copy_of_a_running_monitor_is_one_that_has_not_started(tmp_path):
    with CarbonMonitor(run_dir=tmp_path / "run") as monitor:
        for other in (copy.deepcopy(monitor), pickle.loads(pickle.dumps(monitor))):
            other.step_end()
            other.close()

            assert not other.active
            assert other.run_dir == monitor.run_dir

        assert monitor.active
        assert monitor.step == 0


def test_any_name_is_a_phase_and_too_many_of_them_are_one(tmp_path, caplog):
    monitor = CarbonMonitor(run_dir=tmp_path / "run", site="FRA")
    monitor.start()
    while monitor.head is None:  # what is before the first reading of the meters is in no window
        time.sleep(0.01)

    for name in ["rollout", "generation", "", 7, *(f"step {number}" for number in range(100))]:
        with monitor.phase(name):
            time.sleep(0.001)
            monitor.step_end()
    monitor.close()

    assert monitor.step == 104
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    windows = [record for record in read_run(tmp_path / "run").files[0].records if isinstance(record, Window)]
    phases = {window.phase for window in windows}
    assert {"rollout", "generation", "7", "other", "step 0"} <= phases
    assert len(phases - set(KNOWN_PHASES)) <= MAX_OWN + 1
    summary = summarise(tmp_path / "run")
    assert summary.by_phase["rollout"].energy_j > 0
    assert "rollout" in charts_of(summary)["phases"].wide


def test_steps_go_on_from_a_checkpoint():
    monitor = CarbonMonitor(run_dir="unused")

    monitor.load_state_dict({"step": 120, "energy_kwh": 7.0})

    assert monitor.step == 120
    assert monitor.state_dict()["step"] == 120


def test_checkpoint_that_is_loaded_while_training_takes_the_run_back_to_its_step(tmp_path):
    def last_steps() -> list[int]:
        if not ledger_files(tmp_path):  # the thread of the monitor makes the file
            return []
        return [r.last_step for file in read_run(tmp_path).files for r in file.records if isinstance(r, Window)]

    with CarbonMonitor(run_dir=tmp_path, window_s=0.3, options=MonitorOptions(min_window_s=0.1)) as monitor:
        for _ in range(30):
            monitor.step_end()
        deadline_s = time.monotonic() + 240
        while 30 not in last_steps() and time.monotonic() < deadline_s:
            time.sleep(0.05)
        monitor.load_state_dict({"step": 10})
        for _ in range(5):
            monitor.step_end()

        assert monitor.step == 15

    assert max(last_steps()) == 30
    assert last_steps()[-1] == 15
    assert [r.kind for r in read_run(tmp_path).files[0].records if isinstance(r, Event)].count("resumed") == 1
    assert verify_run(tmp_path).all_problems == []


def test_who_answers_for_a_run_is_stated_or_known_from_the_scheduler(tmp_path, monkeypatch):
    monkeypatch.setenv("CARBON_PLUGIN_TAGS_TEAM", "language")
    monkeypatch.setenv("SLURM_JOB_ACCOUNT", "account-7")
    monkeypatch.setenv("SLURM_JOB_USER", "ada")

    assert make_settings().tags == {"team": "language", "project": "account-7", "user": "ada"}
    stated = make_settings(tags={"project": "atlas", "cost_centre": "4711"})
    assert stated.tags == {"project": "atlas", "cost_centre": "4711", "user": "ada"}
    with pytest.raises(SpecError, match="tags"):
        make_settings(tags={"colour": "blue"})


def test_the_manifest_says_who_answers_for_the_run(tmp_path):
    with CarbonMonitor(run_dir=tmp_path / "run", tags={"team": "vision"}, quiet=True):
        pass

    (ledger,) = read_run(tmp_path / "run").files
    manifest = manifest_of(ledger.records)
    assert manifest is not None
    assert manifest.tags["team"] == "vision"
