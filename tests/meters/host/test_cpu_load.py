"""Core-seconds of a real process tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from carbon_plugin.meters.host.cpu_load import MachineLoad, ProcessTreeLoad, job_root_pid, open_cpu_load

BURN = "import time\nend = time.process_time() + {seconds}\nwhile time.process_time() < end: pass\n"


def burning(seconds: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", BURN.format(seconds=seconds)])


def test_work_of_this_process_counts() -> None:
    load = ProcessTreeLoad(os.getpid())
    before_s, spent_s = load.busy_s(), time.process_time()
    while time.process_time() < spent_s + 0.1:
        pass
    assert load.busy_s() - before_s >= 0.05


PARENT = """
import itertools, json, os, resource, subprocess, sys, time
from carbon_plugin.meters.host.cpu_load import ProcessTreeLoad
load = ProcessTreeLoad(os.getpid(), clock=itertools.count(0, 100).__next__)
before_s, own_before_s = load.busy_s(), time.process_time()
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
while child.poll() is None:
    load.busy_s()
    time.sleep(0.05)
found_s, own_s = load.busy_s() - before_s, time.process_time() - own_before_s
of_child = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([found_s, own_s, of_child.ru_utime + of_child.ru_stime]))
"""


def test_work_of_a_child_that_has_ended_counts_once() -> None:
    # In a process of its own: that of the tests has other children, the launchers of jobs, which may work meanwhile.
    command = [sys.executable, "-c", PARENT, BURN.format(seconds=0.3)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found_s, own_s, child_s = json.loads(done.stdout)

    assert child_s >= 0.3
    # The system counts in hundredths of a second. A busy machine takes many looks, which are this process's own work.
    assert child_s - 0.1 <= found_s <= own_s + child_s + 0.1


NO_FILE_LEFT = """
import os, resource, time
from carbon_plugin.meters.host.cpu_load import MachineLoad, ProcessTreeLoad
loads = ProcessTreeLoad(os.getpid(), clock=iter(range(0, 10**6, 100)).__next__), MachineLoad()
before = [load.busy_s() for load in loads]
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
meanwhile = [load.busy_s() for load in loads]
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
end_s = time.process_time() + 0.2
while time.process_time() < end_s: pass
after = [load.busy_s() for load in loads]
print(meanwhile == before, [late - early >= 0.1 for late, early in zip(after, before)])
"""


def test_it_catches_up_after_a_time_in_which_the_process_could_open_no_file() -> None:
    done = subprocess.run([sys.executable, "-c", NO_FILE_LEFT], capture_output=True, text=True, check=True)

    assert done.stdout == "True [True, True]\n"


NO_FILE_AT_FIRST = """
import resource
from carbon_plugin.meters.host.cpu_load import MachineLoad
load = MachineLoad()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
first_s = load.busy_s()
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print(load.busy_s() == first_s)
"""


def test_a_first_reading_that_fails_does_not_bring_the_time_since_boot_to_the_second() -> None:
    done = subprocess.run([sys.executable, "-c", NO_FILE_AT_FIRST], capture_output=True, text=True, check=True)

    assert done.stdout == "True\n"


def test_it_never_falls_when_a_member_disappears() -> None:
    child = burning(0.2)
    load = ProcessTreeLoad(child.pid)
    time.sleep(0.1)
    seen_s = load.busy_s()
    child.wait()
    assert load.busy_s() >= seen_s


def test_the_whole_machine_is_at_least_as_busy_as_we_are() -> None:
    load = MachineLoad()
    before_s, spent_s = load.busy_s(), time.process_time()
    while time.process_time() < spent_s + 0.1:
        pass
    assert load.busy_s() - before_s >= 0.05


def test_a_process_that_cannot_be_seen_leaves_the_whole_machine() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert open_cpu_load(child.pid).scope == "the whole machine"
    assert open_cpu_load(os.getpid()).scope == "the job's processes"


@pytest.mark.parametrize(("ranks", "root"), [(1, os.getpid), (4, os.getppid)])
def test_under_a_launcher_with_several_ranks_the_job_hangs_from_our_parent(ranks: int, root: Callable[[], int]) -> None:
    # init is nobody's launcher: a suite whose shell went away hangs from it.
    assert job_root_pid(ranks) == (root() if root() > 1 else os.getpid())
