"""The report that loggers get at the end, written by a process of its own."""

from __future__ import annotations

import logging

import pytest

from carbon_plugin.monitor.monitor import CarbonMonitor
from carbon_plugin.sinks.report_file import ReportFile


def test_report_is_that_of_the_audit(tmp_path):
    with CarbonMonitor(run_dir=tmp_path / "run", name="llama", quiet=True) as monitor:
        monitor.step_end()

    report = ReportFile(tmp_path / "run").path()

    assert report is not None
    assert "llama" in report.read_text()


def test_report_that_cannot_be_written_is_one_warning(tmp_path, caplog):
    report = ReportFile(tmp_path / "none")

    with caplog.at_level(logging.WARNING):
        assert report.path() is None
        assert report.path() is None

    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"carbon-plugin audit {tmp_path / 'none'}" in caplog.text


def test_report_that_takes_too_long_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("carbon_plugin.sinks.report_file._AUDIT", "import threading; threading.Event().wait()")
    monkeypatch.setattr("carbon_plugin.sinks.report_file.REPORT_S", 0.2)

    assert ReportFile(tmp_path).path() is None


@pytest.mark.parametrize("code", ["raise SystemExit(2)", "not python"])
def test_report_whose_process_fails_is_none(tmp_path, monkeypatch, code):
    monkeypatch.setattr("carbon_plugin.sinks.report_file._AUDIT", code)

    assert ReportFile(tmp_path).path() is None
