"""`carbon-plugin probe`: measure this machine and write a hardware profile of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from carbon_plugin.cli.options import AsJson, Option
from carbon_plugin.cli.terminal import echo
from carbon_plugin.spec.numbers.amounts import memory, number, plural

if TYPE_CHECKING:
    from rich.table import Table

    from carbon_plugin.probe.result import Probe


def probe(
    name: Annotated[str, Option("Name of the profiles.")] = "this-machine",
    output: Annotated[Path, Option("Directory to write them to.", names=("-o", "--output"))] = Path("profiles"),
    seconds: Annotated[float, Option("Time to measure for.")] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Measure this machine and write a profile of it that `plan` and the callback can use.

    Several processes share the cores, memory and links of a machine. To measure what each of N training processes
    gets, run the probe as they will run: torchrun --no-python --nproc-per-node N carbon-plugin probe
    """
    from carbon_plugin.probe.probe import is_rank_zero, write_profiles
    from carbon_plugin.probe.probe import probe as measure
    from carbon_plugin.probe.result import contention

    result = measure(name=name, seconds=seconds)
    if not is_rank_zero():
        return
    paths = write_profiles(result, output)
    if busy := contention(result.measurements):
        echo(f"warning: {busy}", error=True)
    if as_json:
        import msgspec

        echo(msgspec.json.encode(result).decode())
        return
    from rich.console import Console

    Console().print(_table(result))
    echo(f"wrote {paths[0]} and {paths[1]} in {result.elapsed_s:.0f} s")
    echo(f"use it: carbon-plugin plan run.yaml --profiles {output}, with cluster.accelerator {name} in run.yaml")


def _table(result: Probe) -> Table:
    from rich.table import Table

    from carbon_plugin.probe.profile import best_rates, sustained_rates

    machine, measured = result.machine, result.measurements
    table = Table(
        title=f"{machine.device}, {machine.ranks} x {plural(machine.threads, 'thread')}, torch {machine.torch_version}"
    )
    table.add_column("measured")
    table.add_column("value", justify="right")
    best, sustained = best_rates(measured), sustained_rates(measured)
    for dtype, rate in best.items():
        table.add_row(f"{dtype} matrix products, best (median of sizes)", _pair(rate, sustained[dtype], 1e9, "GFLOP/s"))
    table.add_row("memory bandwidth", _number(measured.memory_bytes_per_s, 1e9, "GB/s"))
    table.add_row("elementwise chain of a layer", _number(measured.elementwise_bytes_per_s, 1e9, "GB/s"))
    for kernel, rate in measured.attention_flops.items():
        table.add_row(f"attention core, {kernel}, causal", _number(rate, 1e9, "GFLOP/s"))
    if measured.kernel_time_s is not None:
        table.add_row("fixed time of a kernel", _number(measured.kernel_time_s, 1e-6, "µs"))
    if measured.host_op_time_s:
        table.add_row("host time of an operation", _number(measured.host_op_time_s, 1e-6, "µs"))
    for one in measured.collectives:
        table.add_row(f"{one.kind}, {memory(one.size_bytes)}", _number(one.time_s, 1e-3, "ms"))
    for note in measured.notes:
        table.add_row(note, "-")
    return table


def _number(value: float, unit: float, name: str) -> str:
    return f"{number(value / unit)} {name}"


def _pair(first: float, second: float, unit: float, name: str) -> str:
    return f"{number(first / unit)} ({number(second / unit)}) {name}"
