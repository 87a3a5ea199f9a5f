"""What a run of thousands of nodes costs: real publishers, real files, real datagrams, on this one machine.

    python benchmarks/scale.py                        # 2,048 nodes, about two minutes
    python benchmarks/scale.py --nodes 256 --audit-windows 200

1. Publishers: one thread a node in several processes, each with its own `LedgerWriter`, append windows of 8 GPUs as
   fast as they can; the rate is compared with what the cadence of the monitor asks for.
2. Rank 0: seconds and CPU seconds of one look at all ledgers, each with one new window, by the real `LedgerFollower`.
3. Collector: the same by datagrams, sent by one socket a node.
4. Audit: records a second and peak memory of a whole `summarise`, in one process and in as many as it takes by
   itself, for the time that 90 days would take. CPU seconds tell it on a machine that others use meanwhile.

Writes benchmarks/results/scale.json; docs/scale.md holds the table of one run.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from results_file import write_result

from carbon_plugin.audit.summary import summarise
from carbon_plugin.ledger.identity import agree_run
from carbon_plugin.ledger.records import DeviceEnergy, Manifest, Window
from carbon_plugin.ledger.writer import LedgerWriter
from carbon_plugin.monitor.ledgers.file_totals import FileTotals
from carbon_plugin.monitor.measurement import NODES_PER_APPEND_S
from carbon_plugin.monitor.run.collector import Address, Collector, Reporter
from carbon_plugin.monitor.run.follower import LedgerFollower
from carbon_plugin.monitor.run.totals import run_totals
from carbon_plugin.spec.metered import DeviceIdentity

GPUS = 8
PROCESSES = 16
DAYS = 90
START_UNIX_S = 1_760_000_000.0
RESULTS = Path(__file__).parent / "results" / "scale.json"


def manifest(node: int, nodes: int) -> Manifest:
    devices = [
        DeviceIdentity(
            key=f"GPU-{node:08x}-0000-0000-0000-{i:012x}",
            name="NVIDIA H100 80GB HBM3",
            rung="gpu",
            scope="gpu",
            meter="nvml",
            energy_kind="counter",
            profile="h100-sxm",
        )
        for i in range(GPUS)
    ]
    for part in ("host", "network"):
        key = f"boot-{node}/{part}"
        devices.append(
            DeviceIdentity(key=key, name=part, rung=part, scope=part, meter="model", energy_kind="modelled")  # type: ignore[arg-type]
        )
    return Manifest(
        version=1,
        run_id="scale",
        attempt=0,
        node=node,
        nodes=nodes,
        host_key=f"boot-{node}",
        hostname=f"node-{node}",
        world_size=nodes * GPUS,
        started_unix_s=START_UNIX_S,
        reserved_since_unix_s=None,
        devices=devices,
        effective={},
        factors={},
        versions={},
    )


def window(opening: Manifest, index: int, duration_s: float) -> Window:
    energies = [
        DeviceEnergy(
            key=d.key,
            energy_j=round(612.34 * duration_s, 3),
            kind=d.energy_kind,
            low_j=round(581.7 * duration_s, 3),
            high_j=round(643.0 * duration_s, 3),
        )
        for d in opening.devices
    ]
    return Window(
        index=index,
        phase="train",
        start_unix_s=START_UNIX_S + index * duration_s,
        duration_s=duration_s,
        energies=energies,
        steps=10,
        last_step=10 * (index + 1),
        tokens=10 << 22,
        intensity_g_per_kwh=41.4,
        pue=1.1,
    )


def publish(run_dir: str, nodes: range, total: int, windows: int, duration_s: float, results: Any) -> None:
    """Run one process of publishers, with a thread for each node."""
    openings = {node: manifest(node, total) for node in nodes}
    writers = {node: LedgerWriter(run_dir, run_id="scale", node=node) for node in nodes}
    for node, writer in writers.items():
        writer.write(openings[node])
    latencies: list[float] = []

    def work(node: int) -> None:
        for index in range(windows):
            record = window(openings[node], index, duration_s)
            start = time.perf_counter()
            writers[node].write(record)
            latencies.append(time.perf_counter() - start)

    threads = [threading.Thread(target=work, args=(node,)) for node in nodes]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put((time.perf_counter() - began, sorted(latencies)))


def measure_publishers(run_dir: Path, nodes: int, windows: int, duration_s: float) -> dict[str, float]:
    results: Any = multiprocessing.Queue()
    step = -(-nodes // PROCESSES)
    parts = [range(first, min(first + step, nodes)) for first in range(0, nodes, step)]
    workers = [
        multiprocessing.Process(target=publish, args=(str(run_dir), part, nodes, windows, duration_s, results))
        for part in parts
    ]
    for worker in workers:
        worker.start()
    found = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    latencies = sorted(value for _, part in found for value in part)
    size = sum(path.stat().st_size for path in run_dir.glob("node-*.jsonl"))
    return {
        "processes": len(parts),
        "appends_per_s": nodes * windows / max(seconds for seconds, _ in found),
        "append_median_s": latencies[len(latencies) // 2],
        "append_p99_s": latencies[int(0.99 * len(latencies))],
        "append_p999_s": latencies[int(0.999 * len(latencies))],
        "bytes_per_window": size / nodes / (windows + 1),
    }


def measure_rank_0(run_dir: Path, nodes: int, duration_s: float) -> dict[str, float]:
    """Measure two looks of rank 0: the first opens all files, and the second finds one new window in each."""
    follower = LedgerFollower(run_dir, None, budget_s=600.0)
    first = _timed(follower.poll)
    index = next(iter(follower.files.values())).windows
    for path in sorted(run_dir.glob("node-*.jsonl")):
        node = int(path.name.split(".")[0].removeprefix("node-"))
        # A writer of our own would begin another attempt: this node's next file has one manifest and one window.
        writer = LedgerWriter(run_dir, run_id="scale", node=node, attempt=1)
        opening = manifest(node, nodes)
        writer.write(opening)
        writer.write(window(opening, index, duration_s))
        writer.close()
    news = _timed(follower.poll)
    sums = _timed(lambda: run_totals(follower.files, attempt_started_s=0.0))
    quiet = _timed(follower.poll)
    return {
        "first_look_wall_s": first[0],
        "look_with_news_wall_s": news[0],
        "look_with_news_cpu_s": news[1],
        "look_without_news_wall_s": quiet[0],
        "sum_up_wall_s": sums[0],
    }


def measure_collector(nodes: int) -> dict[str, float]:
    collector = Collector(Address(("127.0.0.1", 0)), b"scale", nodes)
    port = collector._socket.getsockname()[1]
    totals = []
    for node in range(nodes):
        opening = manifest(node, nodes)
        file = FileTotals()
        file.add(opening)
        file.add(window(opening, 0, 10.0))
        totals.append(file)
    reporters = [Reporter(Address(("127.0.0.1", port)), b"scale") for _ in range(nodes)]
    began = time.perf_counter()
    for node, (reporter, file) in enumerate(zip(reporters, totals, strict=True)):
        reporter.send(f"node-{node}.attempt-0.jsonl", file)
    sent_s = (time.perf_counter() - began) / nodes
    poll = _timed(collector.poll)
    heard = len(collector.files)
    for reporter in reporters:
        reporter.close()
    collector.close()
    return {"send_s": sent_s, "look_wall_s": poll[0], "look_cpu_s": poll[1], "heard": heard, "of": nodes}


def measure_audit(folder: Path, windows: int, duration_s: float) -> dict[str, float]:
    """Measure the audit of a run of few nodes and many windows: records a second, in one process and in as many as an
    audit takes by itself, and memory, which must not grow with them.
    """
    agree_run(folder, name="scale", run_id="scale")
    nodes = 16
    for node in range(nodes):
        writer = LedgerWriter(folder, run_id="scale", node=node)
        opening = manifest(node, nodes)
        writer.write(opening)
        for index in range(windows):
            writer.write(window(opening, index, duration_s))
        writer.close()
    records = nodes * windows
    alone_s, _, alone_bytes = _in_a_process(folder, 1)
    wall_s, cpu_s, peak_bytes = _in_a_process(folder, None)
    return {
        "records": records,
        "records_per_s_one_process": records / alone_s,
        "records_per_s": records / wall_s,
        "records_per_cpu_s": records / cpu_s,
        "peak_bytes_one_process": alone_bytes,
        "peak_bytes_largest_process": peak_bytes,
    }


def _in_a_process(folder: Path, processes: int | None) -> tuple[float, float, int]:
    """Return seconds, CPU seconds of all its processes, and peak memory of an audit in a process that has done nothing
    else before.
    """
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    worker = context.Process(target=_audit, args=(folder, processes, results))
    worker.start()
    found: tuple[float, float, int] = results.get()
    worker.join()
    return found


def _audit(folder: Path, processes: int | None, results: Any) -> None:
    before = sum(os.times()[:4])
    wall_s, _ = _timed(lambda: summarise(folder, processes=processes))
    cpu_s = sum(os.times()[:4]) - before
    # Not `ru_maxrss` of this process, which remembers the memory of the one that started it.
    status = Path("/proc/self/status").read_text(encoding="ascii").split()
    own_kb = int(status[status.index("VmHWM:") + 1])
    results.put((wall_s, cpu_s, max(own_kb, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * 1024))


def _timed(work: Any) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=2048)
    parser.add_argument("--windows", type=int, default=10, help="windows that each publisher appends")
    parser.add_argument("--audit-windows", type=int, default=15_000, help="windows a node in the audit")
    arguments = parser.parse_args()
    nodes = arguments.nodes
    cadence_s = max(10.0, nodes / NODES_PER_APPEND_S)
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        agree_run(run_dir, name="scale", run_id="scale")
        publishers = measure_publishers(run_dir, nodes, arguments.windows, cadence_s)
        rank_0 = measure_rank_0(run_dir, nodes, cadence_s)
        audits = {
            str(windows): measure_audit(Path(folder) / f"audit-{windows}", windows, cadence_s)
            for windows in (arguments.audit_windows // 4, arguments.audit_windows)
        }
    records = nodes * DAYS * 86400 / cadence_s
    audit = audits[str(arguments.audit_windows)]
    rate = audit["records_per_s"]
    result = {
        "nodes": nodes,
        "window_s": cadence_s,
        "asked_appends_per_s": nodes / cadence_s,
        "publishers": publishers,
        "bytes_per_day": publishers["bytes_per_window"] * nodes * 86400 / cadence_s,
        "bytes_in_90_days": publishers["bytes_per_window"] * records,
        "rank_0": rank_0,
        "collector": measure_collector(nodes),
        "audit": audits,
        "audit_of_90_days_s_extrapolated": records / rate,
        "audit_of_90_days_cpu_s_extrapolated": records / audit["records_per_cpu_s"],
    }
    print(write_result(RESULTS, result))


if __name__ == "__main__":
    main()
