"""What may be handed over as `log=`, and the error for what may not."""

from __future__ import annotations

import logging
import re

import pytest

from carbon_plugin.errors import WatchError
from carbon_plugin.sinks import choose
from carbon_plugin.sinks.choose import KINDS, sinks_of


def test_every_name_makes_a_sink_that_is_called_so():
    installed = [name for name, kind in KINDS.items() if not kind.package or choose.is_installed(kind.package)]

    assert [sink.name for sink in sinks_of(installed)] == installed


def test_names_and_objects_can_be_mixed_in_a_list():
    def mine(metrics: dict[str, float], step: int) -> None: ...

    sinks = sinks_of(["csv", "jsonl:/tmp/a.jsonl", logging.getLogger("mine"), mine])

    assert [sink.name for sink in sinks][:3] == ["csv", "jsonl", "logging"]
    assert sinks[3].name.endswith("mine")
    assert sinks_of(None) == ()


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("tensorbord", "did you mean 'tensorboard'"),
        ("", "expected one of csv, jsonl"),
        ("csv:", "a file after the colon"),
        ("wandb:run", "expected 'wandb' alone"),
        ("prometheus://127.0.0.1:no", "port is no number"),
        ("prometheus://127.0.0.1:99999", "port is no number"),
        ("prometheus:9400", "an address such as"),
        ("prometheus://0.0.0.0:9400/metrics", "an address such as"),
        ("prometheus://127.0.0.1?a-b=1", "the label 'a-b'"),
        ("prometheus://127.0.0.1?run_id=1", "one that the metrics have already"),
        ("prometheus://127.0.0.1?bad", "the label 'bad' has no value"),
        ("otlp:localhost", "an address such as"),
        ("otlp://localhost:x", "an address such as"),
    ],
)
def test_text_that_names_no_logger_raises_and_says_what_is_expected(log, message):
    with pytest.raises(WatchError, match=re.escape(message)) as raised:
        sinks_of(log)

    assert repr(log) in str(raised.value)


@pytest.mark.parametrize("log", [["csv", "csv"], ["csv:a.csv", "jsonl:./a.csv"], ("logging", "csv", "logging")])
def test_two_loggers_of_one_name_or_one_file_are_refused(log):
    with pytest.raises(WatchError, match=re.escape(repr(log[-1]))):
        sinks_of(log)


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.package])
def test_missing_package_is_named_with_what_to_install(name, monkeypatch):
    monkeypatch.setattr(choose, "find_spec", lambda package: None)

    with pytest.raises(WatchError, match=re.escape(f"pip install {KINDS[name].install}")):
        sinks_of(name)
