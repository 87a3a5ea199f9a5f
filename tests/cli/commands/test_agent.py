"""`carbon-plugin agent`: its errors, and what it prints once."""

from __future__ import annotations

import socket

import pytest

from carbon_plugin.cli import main as cli

pytest.importorskip("prometheus_client", reason="prometheus_client is not installed; `make test` installs it")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--interval", "0"], "--interval: 0 s, expected more than 0"),
        (["--port", "70000"], "--port: 70000, expected 0 to 65535"),
        (["--label", "team"], "--label: 'team', expected NAME=VALUE"),
        (["--label", "my-team=nlp"], "the label 'my-team' has other signs"),
        (["--label", "run=a"], "the label 'run' is one that the metrics have already"),
        (["--run-dir", "/no/such/place"], "--run-dir: /no/such/place: no such directory"),
    ],
)
def test_mistake_is_one_line_that_names_the_option(arguments, message, capsys):
    assert cli.run(["agent", *arguments]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_port_in_use_is_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert cli.run(["agent", "--port", str(port)]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert f"--port {port}: cannot be listened at" in line


def test_once_prints_the_devices_of_this_machine_and_leaves(capsys, tmp_path):
    assert cli.run(["agent", "--once", "--run-dir", str(tmp_path), "--label", "team=nlp"]) == 0

    printed = capsys.readouterr().out
    assert 'rung="host",team="nlp"' in printed
    assert "carbon_plugin_run_info" not in printed
