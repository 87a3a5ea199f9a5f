"""Results are written to the place that a user names, whatever is there, and nothing there is lost or waited for."""

from __future__ import annotations

import contextlib
import os
import select
import stat
import threading
from pathlib import Path

import pytest

from carbon_plugin.spec.parsing.saving import NO_READER, save


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(path: Path) -> OSError:
    try:
        save(path, b"x")
    except OSError as error:
        return error
    pytest.fail("it was written")


def test_a_file_is_replaced_whole_and_keeps_its_permissions(tmp_path):
    file = tmp_path / "a.json"
    save(file, "long before\n")
    file.chmod(0o640)

    save(file, "ä\n")

    assert file.read_bytes() == "ä\n".encode()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert names(tmp_path) == ["a.json"]


def test_a_link_stays_a_link_also_one_to_a_file_that_is_to_be_made(tmp_path):
    (tmp_path / "to").mkdir()
    for name in ("there", "new"):
        (tmp_path / name).symlink_to(tmp_path / "to" / name)
    (tmp_path / "to" / "there").write_text("before")

    for name in ("there", "new"):
        save(tmp_path / name, b"after")

        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "to" / name).read_bytes() == b"after"


def test_a_pipe_that_nobody_reads_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(OSError, match=NO_READER):
        save(tmp_path / "pipe", b"x")

    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert names(tmp_path) == ["pipe"]


def test_a_pipe_gets_all_of_a_content_that_is_larger_than_it_holds(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    fd = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    writer = threading.Thread(target=save, args=(tmp_path / "pipe", b"x" * 300_000), daemon=True)
    writer.start()
    started = select.poll()
    started.register(fd, select.POLLIN)
    started.poll()  # before a program writes, the pipe reads as ended

    found = 0
    while writer.is_alive() or select.select([fd], [], [], 0)[0]:
        with contextlib.suppress(BlockingIOError):  # the writer has not written on yet
            content = os.read(fd, 65_536)
            found += len(content)
            if not content and not writer.is_alive():  # all of it is read
                break
    os.close(fd)
    assert found == 300_000
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_what_is_open_elsewhere_is_written_and_not_replaced(tmp_path):
    with (tmp_path / "open").open("wb") as file:
        save(f"/dev/fd/{file.fileno()}", b"content")
        same = os.fstat(file.fileno()).st_ino

    assert (tmp_path / "open").read_bytes() == b"content"
    assert (tmp_path / "open").stat().st_ino == same


def test_a_device_stays_a_device(tmp_path):
    try:
        os.mknod(tmp_path / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(tmp_path / "full", 0o600 | stat.S_IFCHR, os.makedev(1, 7))
        (tmp_path / "null").write_bytes(b"")
    except OSError:
        pytest.skip("this user makes no devices")

    save(tmp_path / "null", b"x")
    assert refused(tmp_path / "full").filename == str(tmp_path / "full")
    assert all(stat.S_ISCHR(path.stat().st_mode) for path in tmp_path.iterdir())


@pytest.mark.parametrize("place", ["folder", "missing/file", "file/inside", "a\0b"])
def test_a_place_that_cannot_be_written_is_named_and_nothing_is_left_there(tmp_path, place):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")

    trouble = refused(tmp_path / place)

    assert trouble.filename == str(tmp_path / place)
    assert trouble.strerror
    assert names(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "kept"
