"""Lines through `logging`, and the progress line."""

from __future__ import annotations

import logging

from carbon_plugin.sinks.line import line_of
from carbon_plugin.sinks.terminal import LoggingSink, ProgressSink


def test_logger_of_the_user_gets_the_line(rows, caplog):
    (row,) = rows(1)

    with caplog.at_level(logging.INFO, logger="mine"):
        LoggingSink(logging.getLogger("mine")).write(row)

    assert [(record.name, record.getMessage()) for record in caplog.records] == [("mine", line_of(row))]


def test_without_a_logger_the_line_is_that_of_the_package(rows, caplog):
    (row,) = rows(1)

    with caplog.at_level(logging.INFO, logger="carbon_plugin"):
        LoggingSink().write(row)

    assert [record.getMessage() for record in caplog.records] == [f"carbon_plugin: {line_of(row)}"]


def test_progress_that_is_no_terminal_is_one_line_a_window(rows, capsys):
    sink = ProgressSink()
    handed = rows(2)

    for row in handed:
        sink.write(row)
    sink.close(None)

    captured = capsys.readouterr()
    assert captured.err.splitlines() == [line_of(row) for row in handed]
    assert captured.out == ""


def test_progress_on_a_terminal_is_drawn_again_and_stays_at_the_end(rows, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("TERM", "xterm")
    sink = ProgressSink()

    for row in rows(2):
        sink.write(row)
    sink.close(None)

    drawn = capsys.readouterr().err
    assert "10%" in drawn  # 20 of 200 steps
    assert "step 10 of 200" in drawn
    assert "step 10 of 200" not in drawn[drawn.rindex("step 20 of 200") :]
