"""The lines that a run says of itself: seen where nobody configured logging, once, on rank 0, and left to the user's
handlers where somebody did."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from carbon_plugin.footprint.account import carbon_totals
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.monitor.run.voice import closing, opening
from carbon_plugin.show.saying import PACKAGE, say
from carbon_plugin.spec.metered import DeviceIdentity
from carbon_plugin.spec.site import Site
from tests.launcher.client import Launcher

JOB = """
import logging, sys
{setup}
from carbon_plugin.monitor.monitor import CarbonMonitor
with CarbonMonitor(run_dir=sys.argv[1], {arguments}) as monitor:
    for _ in range(3):
        monitor.step_end()
{after}
package = logging.getLogger("carbon_plugin")
print(package.handlers, package.level, logging.getLogger().handlers)
"""


@pytest.fixture
def lines(monitor_launcher: Launcher, tmp_path: Path) -> Callable[..., list[str]]:
    """Run the job in a process of its own, and return the lines of ours on its standard error."""

    def run(*, setup: str = "", arguments: str = "", after: str = "", **variables: str) -> list[str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("CARBON")}
        script = tmp_path / "job.py"
        script.write_text(JOB.format(setup=setup, arguments=arguments, after=after))
        env = {**environ, "TMPDIR": str(tmp_path), **variables}
        done = monitor_launcher.run(script, tmp_path / "run", env=env)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("[] 0 [") or setup, "logging is as it was before"
        return [line for line in done.stderr.splitlines() if "carbon_plugin" in line]

    return run


def test_run_says_a_line_at_its_start_and_one_at_its_end(lines, tmp_path):
    start, end = lines(arguments='site="FRA"')

    assert "the host (modelled)" in start
    assert f"the record is in {tmp_path / 'run'}" in start
    assert "missing" not in start
    assert "step 3 " in end
    assert "CO2e (" in end
    assert end.endswith(f"report: carbon-plugin audit {tmp_path / 'run'}")


def test_missing_site_is_said_at_the_start_and_no_carbon_at_the_end(lines):
    start, end = lines()

    assert "carbon is missing, because no site is known" in start
    assert "CO2e" not in end


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"arguments": "quiet=True"}, 0),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, 0),
        ({"setup": "logging.basicConfig(level=logging.INFO)"}, 2),
        ({"setup": "logging.basicConfig(level=logging.WARNING)"}, 0),
        ({"setup": "logging.getLogger('carbon_plugin').setLevel(logging.ERROR)"}, 0),
        ({"setup": "logging.getLogger('carbon_plugin').addHandler(logging.NullHandler())"}, 0),
    ],
)
def test_lines_are_the_users_to_configure(how, expected, lines):
    assert len(lines(**how)) == expected


def test_line_leaves_no_handler_and_no_level_behind(capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(PACKAGE, "handlers", [])

    say("hello")

    assert capsys.readouterr().err == "carbon_plugin: hello\n"
    assert (PACKAGE.handlers, PACKAGE.level) == ([], logging.NOTSET)


def device(rung: str, kind: str, number: int = 0) -> DeviceIdentity:
    return DeviceIdentity(key=f"{rung}{number}", name="x", rung=rung, scope=rung, meter="x", energy_kind=kind)


def test_devices_are_named_with_how_each_is_known():
    devices = [device("gpu", "counter", n) for n in range(2)] + [device("host", "modelled")]

    assert opening(devices, Path("runs/a"), nodes=4, has_site=True) == (
        "metering 2 GPUs (by energy counter), the host (modelled) on the first of 4 nodes; the record is in runs/a"
    )
    assert opening([], Path("r"), nodes=1, has_site=True, written=False).endswith(
        "the record is kept in memory until it can be written in r"
    )
    assert "no site is known" in opening([], Path("runs/a"), nodes=1, has_site=False)
    assert opening(None, Path("r"), nodes=1, has_site=True).startswith("another process of this node meters")


@pytest.mark.parametrize(
    ("energy_j", "words"),
    [(12.34, "12.3 J"), (7200, "2.00 Wh"), (3.6e6, "1.00 kWh"), (4.5e12, "1.25 GWh"), (0.0, "0 J")],
)
def test_energy_is_said_in_a_unit_that_fits(energy_j, words):
    said = closing(step=1200, energy_j=energy_j, spent=None, nodes_seen=1, nodes=1, run_dir=Path("r"))

    assert said == f"the run is at step 1,200 and has used {words}; report: carbon-plugin audit r"


def test_no_report_is_offered_where_nothing_could_be_written():
    said = closing(step=1, energy_j=1.0, spent=None, nodes_seen=1, nodes=1, run_dir=Path("r"), written=False)

    assert said.endswith("; no report: nothing could be written in r")


def test_carbon_without_manufacture_is_called_operational_and_missing_nodes_are_named():
    spent = carbon_totals((), (), resolve_factors(Site(zone="FRA"), None), draws=10)

    said = closing(step=1, energy_j=1.0, spent=spent, nodes_seen=3, nodes=4, run_dir=Path("r"))

    assert "in operation" in said
    assert "as far as 3 of 4 nodes are known" in said
