"""The table of trackers in the documentation is written by the benchmark, with what did not run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("beside_others_page", ROOT / "benchmarks" / "beside_others_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def figures(scale: float) -> dict[str, float]:
    calls = ("call_median_us", "call_p99_us")
    names = (*calls, "background_core_percent", "longest_stall_ms", "import_cpu_s", "start_cpu_s")
    return dict.fromkeys(names, scale)


@pytest.fixture
def result():
    return {
        "date": "2026-01-02", "machine": "a machine", "python": "3.11.7", "load_at_the_start": [0.1, 0.2, 0.3],
        "rounds": 3, "seconds": 32.0, "versions": {"carbon_plugin": "1", "codecarbon": "3.3.2", "zeus": "0.16.0"},
        "did_not_run": {"zeus": "RuntimeError: no GPU"},
        "least": {"without": figures(1.0), "carbon_plugin": figures(2.0), "codecarbon": figures(800.0)},
    }  # fmt: skip


def test_each_figure_stands_beside_its_ratio_to_ours_and_what_did_not_run_is_named(benchmark, result):
    section = benchmark.section(result)

    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert [row.split(" | ")[:2] for row in rows] == [["| this package", "2"], ["| CodeCarbon 3.3.2", "800 (x 400)"]]
    assert "Zeus did not run: `RuntimeError: no GPU`." in section
    assert "at a load of 0.1 0.2 0.3" in section
    assert "call, median at most 1.5 us (**missed: 2**)" in " ".join(section.split())
    assert "call, p99 at most 10 us (met)" in " ".join(section.split())


def test_the_page_keeps_what_is_around_the_section(benchmark, result, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{benchmark.BEGIN}\nold\n{benchmark.END}\nafter\n", encoding="utf-8")

    benchmark.write_page(result, page)
    benchmark.write_page(result, page)

    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert text.count("| this package |") == 1


def test_the_documentation_has_a_place_for_the_section(benchmark):
    text = benchmark.PAGE.read_text(encoding="utf-8")

    assert text.index(benchmark.BEGIN) < text.index(benchmark.END)
