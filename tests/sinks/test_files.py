"""CSV and JSON lines, read back from the file."""

from __future__ import annotations

import csv
import json

from msgspec.structs import replace

from carbon_plugin.sinks.files import CsvSink, JsonLinesSink


def test_csv_has_a_row_a_window_and_a_column_a_figure(rows, tmp_path):
    sink = CsvSink()
    handed = rows(3)

    for row in handed:
        sink.write(row)
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        read = list(csv.DictReader(file))

    assert [int(cells["step"]) for cells in read] == [10, 20, 30]
    assert [cells["carbon/ledger_head"] for cells in read] == [row.head for row in handed]
    for cells, row in zip(read, handed, strict=True):
        assert {name: float(cells[name]) for name in row.metrics} == row.metrics
        assert float(cells["unix_s"]) == row.at_unix_s


def test_figure_that_appears_later_gets_a_column_and_earlier_rows_stay(rows, tmp_path):
    first, second, third = rows(3)
    early = replace(first, metrics={"carbon/energy_kwh": 2.5})

    CsvSink().write(early)
    CsvSink().write(second)  # another attempt goes on in the same file
    CsvSink().write(replace(third, metrics={"carbon/energy_kwh": 7.5}))
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        read = list(csv.DictReader(file))

    assert [cells["carbon/energy_kwh"] for cells in read] == ["2.5", "5.0", "7.5"]
    assert [cells["carbon/power_w"] for cells in read] == ["", "720.0", ""]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["metrics.csv"]


def test_target_of_a_file_is_made_with_its_folders(rows, tmp_path):
    (row,) = rows(1)

    CsvSink(str(tmp_path / "elsewhere" / "energy.csv")).write(row)

    assert (tmp_path / "elsewhere" / "energy.csv").read_text().count("\n") == 2


def test_json_lines_hold_the_same_values(rows, tmp_path):
    sink = JsonLinesSink()
    handed = rows(2)

    for row in handed:
        sink.write(row)
    read = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]

    assert [(line["step"], line["carbon/ledger_head"]) for line in read] == [(row.step, row.head) for row in handed]
    assert [
        {name: line[name] for name in line if name in row.metrics} for line, row in zip(read, handed, strict=True)
    ] == [row.metrics for row in handed]
