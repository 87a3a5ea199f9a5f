"""Files without an end: whoever opens one is told so, and nobody waits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from carbon_plugin.errors import CarbonPluginError, FootprintError, LedgerError, SpecError
from carbon_plugin.footprint.series.file import load_trace
from carbon_plugin.ledger.held.outline import find_events, outline_of
from carbon_plugin.ledger.identity import read_identity
from carbon_plugin.ledger.reader import read_ledger, read_opening
from carbon_plugin.ledger.tail import LedgerTail
from carbon_plugin.ledger.verification.heads import head_of
from carbon_plugin.plan.forecast import load_forecast
from carbon_plugin.spec.huggingface.config import load_hf_config
from carbon_plugin.spec.parsing import boundary
from carbon_plugin.spec.parsing.boundary import read_bytes, read_text
from carbon_plugin.spec.parsing.document import read_document
from carbon_plugin.spec.parsing.opening import open_ending


def pipe_without_writer(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


READERS = {
    "spec": (read_document, SpecError),
    "config.json": (load_hf_config, SpecError),
    "forecast": (load_forecast, SpecError),
    "series": (lambda path: load_trace(str(path)), FootprintError),
    "ledger": (read_ledger, LedgerError),
    "opening of a ledger": (read_opening, LedgerError),
    "outline of a ledger": (outline_of, LedgerError),
    "events of a ledger": (lambda path: list(find_events(path, "resumed")), LedgerError),
    "head of a ledger": (head_of, LedgerError),
    "tail of a ledger": (lambda path: LedgerTail(path).poll(), LedgerError),
}


@pytest.mark.parametrize("name", READERS)
def test_a_device_is_refused_with_its_name(name: str) -> None:
    read, error = READERS[name]

    with pytest.raises(error, match=r"^/dev/zero: cannot be read: it is a device, expected a file$"):
        read(Path("/dev/zero"))


@pytest.mark.parametrize("name", [name for name in READERS if "ledger" in name])
def test_a_ledger_is_no_pipe(name: str, tmp_path: Path) -> None:
    read, error = READERS[name]

    with pytest.raises(error, match="it is a pipe, expected a file"):
        read(pipe_without_writer(tmp_path))


def test_an_identity_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.json")

    with pytest.raises(LedgerError, match="it is a pipe"):
        read_identity(tmp_path)


def test_a_pipe_that_nobody_writes_to_is_empty(tmp_path: Path) -> None:
    assert read_bytes(pipe_without_writer(tmp_path), SpecError) == b""


def test_a_pipe_with_a_writer_is_read_to_its_end() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"model: gpt2\n")
    os.close(writing)
    try:
        assert read_text(Path(f"/proc/self/fd/{reading}"), SpecError) == "model: gpt2\n"
    finally:
        os.close(reading)


def test_a_file_above_the_limit_is_refused_before_it_is_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundary, "LARGEST_BYTES", 2**20)
    path = tmp_path / "long.yaml"
    path.write_bytes(b"a" * (2**20 + 1))

    with pytest.raises(CarbonPluginError, match=r"long\.yaml: cannot be read: it is larger than 1 MiB$"):
        read_bytes(path, SpecError)


def test_a_link_to_itself_is_no_missing_file(tmp_path: Path) -> None:
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")

    with pytest.raises(SpecError, match=r"loop\.yaml: cannot be read: "):
        read_document(tmp_path / "loop.yaml")


def test_no_descriptor_is_left_of_what_was_refused(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in (tmp_path, pipe_without_writer(tmp_path), "/dev/zero"):
        with pytest.raises(OSError, match=r"directory|it is a "):
            open_ending(path)

    assert len(os.listdir("/proc/self/fd")) == before
