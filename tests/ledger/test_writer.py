"""The writer: what reaches the file, and what happens when it cannot."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
from hashlib import blake2b
from pathlib import Path

import msgspec
import pytest

from carbon_plugin.errors import LedgerError
from carbon_plugin.ledger.reader import read_ledger
from carbon_plugin.ledger.records import DeviceEnergy, Event, Manifest, Window
from carbon_plugin.ledger.writer import LedgerWriter
from tests.ledger.builder import Job

RUN_ID = "b" * 32
REPOSITORY = Path(__file__).parents[2]


def manifest() -> Manifest:
    record = Job().records(RUN_ID, 0, 0, Job().attempts[0], 0.0)[0]
    assert isinstance(record, Manifest)
    return record


def event(number: int) -> Event:
    return Event(at_unix_s=float(number), kind="note", message=f"event {number}", data={"number": number})


def opened(run_dir: Path, **options: int) -> LedgerWriter:
    writer = LedgerWriter(run_dir, run_id=RUN_ID, node=0, **options)
    writer.write(manifest())
    return writer


def test_what_is_written_is_read_back_equal(tmp_path: Path) -> None:
    records = Job().records(RUN_ID, 0, 0, Job().attempts[1], 0.0)
    writer = LedgerWriter(tmp_path, run_id=RUN_ID, node=0)
    for record in records:
        writer.write(record)
    writer.close()
    ledger = read_ledger(writer.path)
    assert ledger.records == records
    assert ledger.intact
    assert not ledger.torn_tail
    assert ledger.head == writer.head


def test_text_in_another_encoding_is_recorded_with_its_bytes_as_escapes(tmp_path: Path) -> None:
    path = os.fsdecode(b"/runs/L\xe4ufe")
    writer = LedgerWriter(tmp_path, run_id=RUN_ID, node=0)
    writer.write(msgspec.structs.replace(manifest(), configuration={"run_dir": {"value": path, "source": "\u00e4"}}))
    writer.write(Event(at_unix_s=1.0, kind="note", message=path, data={path: [path]}))

    first, second = read_ledger(writer.path).records
    shown = "/runs/L\\udce4ufe"
    assert isinstance(first, Manifest)
    assert first.configuration == {"run_dir": {"value": shown, "source": "\u00e4"}}
    assert second == Event(at_unix_s=1.0, kind="note", message=shown, data={shown: [shown]})


def test_chain_is_what_the_documentation_says(tmp_path: Path) -> None:
    writer = opened(tmp_path)
    writer.write(event(1))
    chain = blake2b(RUN_ID.encode(), digest_size=16).digest()
    for line in writer.path.read_bytes().splitlines():
        stated, payload = line.split(b" ", 1)
        chain = blake2b(chain + payload, digest_size=16).digest()
        assert stated == chain.hex().encode()
    assert chain.hex() == writer.head


def test_a_record_is_on_the_way_to_disk_when_write_returns(tmp_path: Path) -> None:
    writer = opened(tmp_path)
    for number in range(5):
        writer.write(event(number))
        assert len(read_ledger(writer.path).records) == 2 + number


def test_second_attempt_takes_the_next_free_number(tmp_path: Path) -> None:
    attempts = [LedgerWriter(tmp_path, run_id=RUN_ID, node=3).attempt for _ in range(3)]
    assert attempts == [0, 1, 2]
    assert LedgerWriter(tmp_path, run_id=RUN_ID, node=3, attempt=7).path.name == "node-3.attempt-7.jsonl"
    assert LedgerWriter(tmp_path, run_id=RUN_ID, node=3, rank=5).path.name == "node-3.rank-5.attempt-0.jsonl"


def test_number_that_json_cannot_hold_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    writer = opened(tmp_path)
    head = writer.head
    window = Job().records(RUN_ID, 0, 0, Job().attempts[0], 0.0)[1]
    with pytest.raises(LedgerError, match="Window cannot be recorded"):
        writer.write(msgspec.structs.replace(window, duration_s=float("nan")))
    assert writer.head == head
    writer.write(event(1))
    assert read_ledger(writer.path).records[1:] == [event(1)]


def test_full_disk_raises_and_the_ledger_goes_on_when_there_is_room_again(tmp_path: Path) -> None:
    """A limit on the file size makes the kernel take only a part of the line, as a full disk does."""
    writer = opened(tmp_path)
    size = writer.path.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limits[1]))
        for _ in range(2):
            with pytest.raises(LedgerError, match="cannot write"):
                writer.write(event(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, former)
    writer.write(event(2))
    ledger = read_ledger(writer.path)
    assert ledger.intact
    assert ledger.records[1:] == [event(2)]


def test_run_directory_that_is_a_file_is_one_readable_error(tmp_path: Path) -> None:
    blocked = tmp_path / "run"
    blocked.write_text("not a directory")
    with pytest.raises(LedgerError, match="cannot create a ledger here"):
        LedgerWriter(blocked, run_id=RUN_ID, node=0)


def test_writing_after_close_is_an_error_and_closing_twice_is_not(tmp_path: Path) -> None:
    writer = opened(tmp_path)
    writer.close()
    writer.close()
    with pytest.raises(LedgerError, match="came too late"):
        writer.write(event(1))


def test_records_from_many_threads_form_one_chain(tmp_path: Path) -> None:
    writer = opened(tmp_path)
    threads = [
        threading.Thread(target=lambda base=base: [writer.write(event(base + n)) for n in range(50)])
        for base in range(0, 400, 50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger = read_ledger(writer.path)
    assert ledger.intact
    assert len(ledger.records) == 401


def _use_in_child(writer: LedgerWriter) -> None:
    writer.write(event(666))
    writer.close()
    os._exit(0)


def test_forked_child_writes_nothing_and_closes_nothing(tmp_path: Path) -> None:
    writer = opened(tmp_path)
    child = multiprocessing.get_context("fork").Process(target=_use_in_child, args=(writer,))
    child.start()
    child.join()
    writer.write(event(1))
    assert read_ledger(writer.path).records[1:] == [event(1)]


WRITE_FOREVER = """
import sys
from carbon_plugin.ledger.records import Event
from carbon_plugin.ledger.writer import LedgerWriter
from tests.ledger.builder import Job
writer = LedgerWriter(sys.argv[1], run_id="c" * 32, node=0)
writer.write(Job().records("c" * 32, 0, 0, Job().attempts[0], 0.0)[0])
number = 0
while True:
    writer.write(Event(at_unix_s=0.0, kind="note", message="x" * 500, data={"number": number}))
    if number % 100 == 0:
        print(number, flush=True)
    number += 1
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_killed_writer_leaves_every_record_that_it_had_written(tmp_path: Path, sent: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE_FOREVER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert process.stdout is not None
    for _ in range(3):
        acknowledged = int(process.stdout.readline())
    process.send_signal(sent)
    acknowledged = max([acknowledged, *map(int, process.stdout.read().split())])
    process.wait()
    ledger = read_ledger(tmp_path / "node-0.attempt-0.jsonl")
    numbers = [record.data["number"] for record in ledger.records[1:] if isinstance(record, Event)]
    assert ledger.intact
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > acknowledged


def test_absent_energy_survives_the_round_trip(tmp_path: Path) -> None:
    record = Job(lost_gpu=(0, 1, 0)).records(RUN_ID, 0, 1, Job().attempts[1], 0.0)[2]
    writer = opened(tmp_path)
    writer.write(record)
    read = read_ledger(writer.path).records[1]
    assert isinstance(read, Window)
    assert read.energies[1] == DeviceEnergy(key="GPU-0000-0001", energy_j=None, kind="absent", note="GPU is lost")
