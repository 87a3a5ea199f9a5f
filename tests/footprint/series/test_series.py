"""Intensity over time: means over any period, gaps, time zones, and what stands for hours that a series lacks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.errors import FootprintError, SpecError
from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.footprint.series.file import load_trace
from carbon_plugin.footprint.series.over_run import series_intensity
from carbon_plugin.footprint.series.trace import Trace, gaps, make_trace
from carbon_plugin.footprint.values import RunPeriod
from carbon_plugin.spec.parsing.moment import unix_s
from carbon_plugin.spec.site import SeriesFile, Site

HOUR = 3600.0
START = unix_s("2025-01-06T00:00Z", "start")


def hourly(values: Sequence[float], skip: Sequence[int] = ()) -> Trace:
    kept = [(START + HOUR * hour, value) for hour, value in enumerate(values) if hour not in skip]
    moments, numbers = zip(*kept, strict=True)
    return make_trace(np.array(moments), np.array(numbers, dtype=float), source="test")


def write_csv(path: Path, hours: int, *, header: str = "datetime,carbon_intensity", offset: str = "Z") -> Path:
    first = datetime.fromtimestamp(START, UTC)
    lines = [
        f"{(first + timedelta(hours=hour)).strftime('%Y-%m-%dT%H:%M')}{offset},{100 + 50 * (hour % 24 // 12)}"
        for hour in range(hours)
    ]
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def test_a_mean_weighs_values_by_time() -> None:
    trace = hourly([100, 200, 400])

    assert trace.mean(START, 3 * HOUR) == (pytest.approx(700 / 3), pytest.approx(1))
    assert trace.mean(START + 1800, HOUR) == (pytest.approx(150), pytest.approx(1))
    assert trace.granularity == "hourly"


def test_a_gap_is_left_out_and_counted() -> None:
    trace = hourly([100, 200, 400, 400], skip=[1])

    mean, known = trace.mean(START, 4 * HOUR)

    assert mean == pytest.approx(300)
    assert known == pytest.approx(0.75)
    assert gaps(trace) == [(START + HOUR, START + 2 * HOUR)]
    assert np.isnan(trace.mean(START + HOUR, HOUR)[0])


@given(
    values=st.lists(st.floats(0, 1000), min_size=2, max_size=30),
    first=st.integers(0, 15),
    cut=st.floats(0.1, 0.9),
)
def test_the_mean_of_a_period_is_that_of_its_two_parts(values: list[float], first: int, cut: float) -> None:
    trace = hourly(values)
    start, length = START + HOUR * min(first, len(values) - 2), 2 * HOUR

    whole, (left, _), (right, _) = (
        trace.mean(start, length),
        trace.mean(start, cut * length),
        trace.mean(start + cut * length, (1 - cut) * length),
    )

    assert whole[0] == pytest.approx(cut * left + (1 - cut) * right, abs=1e-6)
    assert min(values) - 1e-6 <= whole[0] <= max(values) + 1e-6


@pytest.mark.parametrize(
    ("values", "moments", "problem"),
    [
        ([1.0], [0.0], "1 value, expected at least 2"),
        ([1.0, 2.0], [3600.0, 3600.0], "1970-01-01T01:00:00Z is given twice"),
        ([1.0, -2.0], [0.0, 3600.0], "-2.0, expected 0 or more"),
        ([1.0, float("nan")], [0.0, 3600.0], "nan, expected 0 or more"),
    ],
)
def test_values_that_cannot_be_are_named(values: list[float], moments: list[float], problem: str) -> None:
    with pytest.raises(FootprintError, match=problem):
        make_trace(np.array(moments), np.array(values), source="grid.csv")


def test_another_year_stands_for_a_period_by_whole_weeks() -> None:
    trace = hourly([float(hour % 168) for hour in range(168 * 60)])
    later = START + 3 * 52 * 168 * HOUR + 5 * HOUR

    moved = trace.aligned(later, 10 * HOUR)

    assert moved is not None
    assert (later - moved) % (168 * HOUR) == 0
    assert trace.mean(moved, HOUR)[0] == 5
    assert hourly([1.0] * 48).aligned(START + 100 * HOUR, 10 * HOUR) is None


YEAR_OF_WEEKS = hourly([float(hour % 168) for hour in range(168 * 54)])


@given(hours=st.integers(-200_000, 200_000), length=st.integers(1, 300))
def test_any_start_finds_its_hours_in_a_trace_of_a_year(hours: int, length: int) -> None:
    start = START + hours * HOUR

    moved = YEAR_OF_WEEKS.aligned(start, length * HOUR)

    assert moved is not None
    assert (start - moved) % (52 * 168 * HOUR) == 0
    assert YEAR_OF_WEEKS.mean(moved, length * HOUR)[1] == pytest.approx(1, abs=0.005)  # a percent is not worth a year
    before = max(0, int((START - moved) // HOUR))  # so that the first hours may lie before the trace
    assert YEAR_OF_WEEKS.mean(moved + before * HOUR, HOUR)[0] == pytest.approx((hours + before) % 168)


def test_hours_that_are_known_come_before_those_that_are_near() -> None:
    end = YEAR_OF_WEEKS.end_unix_s

    assert YEAR_OF_WEEKS.aligned(end - 8 * HOUR, 10 * HOUR) == end - 8 * HOUR - 52 * 168 * HOUR
    assert hourly([1.0] * 48).aligned(START + 42 * HOUR, 10 * HOUR) == START + 42 * HOUR


def test_a_csv_with_offsets_is_read_with_its_hash(tmp_path: Path) -> None:
    trace = load_trace(str(write_csv(tmp_path / "grid.csv", 48)))

    assert len(trace.g_per_kwh) == 48
    assert trace.start_unix_s[0] == START
    assert "sha256" in trace.source


def test_local_time_needs_its_zone_and_the_repeated_hour_of_autumn_counts_twice(tmp_path: Path) -> None:
    local = tmp_path / "local.csv"
    hours = ["2025-10-26 01:00", "2025-10-26 02:00", "2025-10-26 02:00", "2025-10-26 03:00"]
    local.write_text("time,intensity\n" + "".join(f"{hour},100\n" for hour in hours), encoding="utf-8")

    with pytest.raises(FootprintError, match=r"local.csv:2: '2025-10-26 01:00' has no UTC offset; give timezone"):
        load_trace(str(local))
    trace = load_trace(SeriesFile(path=str(local), timezone="Europe/Paris"))

    assert np.diff(trace.start_unix_s).tolist() == [HOUR, HOUR, HOUR]

    rows = [f"{hour},{value}\n" for value, hour in enumerate(hours, start=100)]
    local.write_text("time,intensity\n" + "".join(reversed(rows)), encoding="utf-8")
    newest_first = load_trace(SeriesFile(path=str(local), timezone="Europe/Paris"))

    assert newest_first.start_unix_s.tolist() == trace.start_unix_s.tolist()
    assert newest_first.g_per_kwh.tolist() == [100, 101, 102, 103]


def test_a_local_hour_that_the_start_of_summer_time_skips_is_refused_with_what_to_write(tmp_path: Path) -> None:
    local = tmp_path / "local.csv"
    local.write_text("time,intensity\n2026-03-29 01:00,100\n2026-03-29 02:00,100\n", encoding="utf-8")

    with pytest.raises(FootprintError, match=r"local.csv:3: '2026-03-29 02:00' is skipped in Europe/Paris.* Etc/GMT-1"):
        load_trace(SeriesFile(path=str(local), timezone="Europe/Paris"))
    without_summer_time = load_trace(SeriesFile(path=str(local), timezone="Etc/GMT-1"))

    assert np.diff(without_summer_time.start_unix_s).tolist() == [HOUR]


def test_a_column_that_says_utc_needs_no_offset_and_pounds_are_converted(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "moer.csv", 24, header="Datetime (UTC),MOER lb/MWh", offset="")

    assert load_trace(str(file), "marginal").g_per_kwh[0] == pytest.approx(45.359237)


@pytest.mark.parametrize(
    ("column", "g_per_kwh"),
    [
        ("intensity_g_per_kwh", 100),
        ("Carbon intensity gCO\u2082eq/kWh (Life cycle)", 100),
        ("carbon intensity kgCO2e/MWh", 100),
        ("intensity_lb_per_mwh", 45.359237),
        ("alberta_gco2_per_kwh", 100),
        ("Melbourne carbon intensity", 100),
        ("MOER", 45.359237),
        ("co2_aoer", 45.359237),
    ],
)
def test_the_unit_is_the_one_that_the_name_states(tmp_path: Path, column: str, g_per_kwh: float) -> None:
    file = write_csv(tmp_path / "grid.csv", 24, header=f"time,{column}")
    trace = load_trace(str(file), "marginal" if column == "MOER" else "average")

    assert trace.g_per_kwh[0] == pytest.approx(g_per_kwh)
    assert ("taken as g/kWh" in trace.source) == (column == "Melbourne carbon intensity")
    assert ("taken as lb/MWh, WattTime's unit" in trace.source) == (column in ("MOER", "co2_aoer"))


def test_a_file_of_marginal_intensity_as_watttime_writes_it_is_in_pounds_a_mwh(tmp_path: Path) -> None:
    file = tmp_path / "CAISO_NORTH_2025-01_MOER.csv"
    file.write_text(
        "timestamp,MOER,MOER version,frequency\n"
        "2025-01-01T00:00:00+00:00,1000,3.2,300\n2025-01-01T00:05:00+00:00,900,3.2,300\n"
    )

    assert load_trace(str(file), "marginal").g_per_kwh == pytest.approx([453.59237, 408.233133])


MARGINAL = [
    "MOER",
    "co2_moer",
    "marginal intensity g/kWh",
    "Marginal carbon intensity (gCO2/kWh)",
    "srmer_co2 intensity",
]


@pytest.mark.parametrize("column", MARGINAL)
def test_a_marginal_column_is_never_the_total_of_a_run(tmp_path: Path, column: str) -> None:
    file = str(write_csv(tmp_path / "wt2.csv", 24, header=f"time,{column}"))

    with pytest.raises(FootprintError) as caught:
        resolve_factors(Site(zone="FRA", intensity_series=file), None)

    said = str(caught.value)
    assert said.startswith(f"{file}: column {column!r} is of marginal intensity, which is never the total of a run")
    assert "give it as site.marginal_series" in said
    beside = resolve_factors(Site(zone="FRA", marginal_series=file), None)
    assert beside.intensity.figure.value == pytest.approx(41.44)
    assert beside.marginal is not None


@pytest.mark.parametrize(("column", "basis"), [("rate intensity", "direct marginal generation")])
def test_a_basis_that_says_marginal_is_refused_as_a_name_that_does(tmp_path: Path, column: str, basis: str) -> None:
    file = SeriesFile(path=str(write_csv(tmp_path / "grid.csv", 24, header=f"time,{column}")), basis=basis)

    with pytest.raises(FootprintError, match="basis 'marginal' is of marginal intensity"):
        load_trace(file)
    assert load_trace(file, "marginal").basis is not None
    with pytest.raises(SpecError, match="give the number as marginal_g_per_kwh"):
        Site(intensity_g_per_kwh=500, intensity_basis=basis)


def test_a_stated_basis_overrules_a_name_and_an_average_rate_is_not_shown_as_marginal(tmp_path: Path) -> None:
    path = str(write_csv(tmp_path / "grid.csv", 24, header="time,intensity without marginal plants"))

    assert load_trace(SeriesFile(path=path, basis="direct average generation")).g_per_kwh[0] == 100
    average = str(write_csv(tmp_path / "aoer.csv", 24, header="time,co2_aoer"))
    with pytest.raises(FootprintError, match=r"give it as site\.intensity_series"):
        load_trace(average, "marginal")


@pytest.mark.parametrize(
    ("column", "g_per_kwh"),
    [("intensity_kg_per_kwh", 300), ("intensity tCO2/MWh", 300), ("lb/kWh intensity", 136.077711)],
)
def test_numbers_below_one_are_read_in_the_unit_of_their_column(tmp_path: Path, column: str, g_per_kwh: float) -> None:
    file = tmp_path / "grid.csv"
    file.write_text(f"time,{column}\n2025-01-01T00:00Z,0.3\n2025-01-01T01:00Z,0.3\n", encoding="utf-8")

    assert load_trace(str(file)).g_per_kwh == pytest.approx([g_per_kwh, g_per_kwh])


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("carbon_intensity", 0.3, r"grid.csv: column 'carbon_intensity' has a mean of 0.3, .*expected its unit"),
        ("carbon_intensity", 99999, r"grid.csv:2: carbon_intensity is 99999 g/kWh, expected at most 3000"),
        ("intensity_kg_per_kwh", 41, r"grid.csv:2: intensity_kg_per_kwh is 41000 g/kWh, expected at most 3000"),
        ("intensity gCO2/MJ", 100, r"column 'intensity gCO2/MJ' states a unit that is not understood"),
        ("renewable intensity (%)", 41, r"column 'renewable intensity \(%\)' states a unit that is not understood"),
        ("price intensity", 80, r"column 'price intensity' states a unit that is not understood"),
        ("intensity_kg", 300, r"column 'intensity_kg' states a unit that is not understood, expected g/kWh"),
    ],
)
def test_a_file_in_a_unit_that_cannot_be_told_is_refused(
    tmp_path: Path, column: str, value: float, problem: str
) -> None:
    file = tmp_path / "grid.csv"
    file.write_text(f"time,{column}\n2025-01-01T00:00Z,{value}\n2025-01-01T01:00Z,{value}\n", encoding="utf-8")

    with pytest.raises(FootprintError, match=problem):
        load_trace(str(file))


def test_two_columns_of_intensity_must_be_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "both.csv"
    file.write_text(
        "Datetime (UTC),Carbon intensity (direct),Carbon intensity (Life cycle)\n"
        "2025-01-01 00:00,80,100\n2025-01-01 01:00,90,110\n",
        encoding="utf-8",
    )

    with pytest.raises(FootprintError, match=r"several columns of intensity .*--column NAME"):
        load_trace(str(file))
    lifecycle = SeriesFile(
        path=str(file), column="Carbon intensity (Life cycle)", basis="lifecycle average consumption"
    )
    trace = load_trace(lifecycle)

    assert trace.g_per_kwh.tolist() == [100, 110]
    assert trace.basis is not None
    assert trace.basis.scope == "lifecycle"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is empty"),
        ("datetime,intensity\n2025-01-01T00:00Z,much\n", r"grid.csv:2: intensity is 'much', expected a number"),
        ("datetime,intensity\nyesterday,3\n", r"grid.csv:2: 'yesterday' is no time"),
        ("datetime,intensity\n2025-01-01T00:00Z\n", r"grid.csv:2: 1 cells, expected 2"),
        ("datetime,price\n2025-01-01T00:00Z,3\n", "no column of intensity among datetime, price"),
        ("datetime,intensity\n\n\n2025-01-01T00:00Z,much\n", r"grid.csv:4: intensity is 'much'"),  # after blank lines
        (
            "datetime,intensity\n2025-01-01T00:00Z,NaN\n",
            r"grid.csv:2: intensity is 'NaN', .* an empty cell where none is",
        ),
        ("datetime,intensity,intensity\n2025-01-01T00:00Z,3,300\n", "several columns of intensity|2 columns are named"),
        ("time,time,intensity\n2025-01-01T00:00Z,2025-01-01T01:00Z,3\n", "several columns of time|2 columns are named"),
    ],
)
def test_a_broken_file_is_an_error_with_file_and_line(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "grid.csv").write_text(text, encoding="utf-8")

    with pytest.raises(FootprintError, match=problem):
        load_trace(str(tmp_path / "grid.csv"))
    with pytest.raises(FootprintError, match="cannot be read"):
        load_trace(str(tmp_path / "absent.csv"))


def test_a_column_that_is_asked_for_and_comes_twice_is_refused_and_another_one_does_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "twice.csv"
    file.write_text(
        "datetime,load,load,price,a,a\n2025-01-01T00:00Z,80,100,1,,\n2025-01-01T01:00Z,90,110,2,,\n", encoding="utf-8"
    )

    with pytest.raises(FootprintError, match="2 columns are named 'load'; expected a name of its own for each"):
        load_trace(SeriesFile(path=str(file), column="load"))
    file.write_text(file.read_text("utf-8").replace("load,load", "load,other"), encoding="utf-8")
    assert load_trace(SeriesFile(path=str(file), column="load")).g_per_kwh.tolist() == [80, 90]


def test_parquet_says_the_same_as_csv(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    csv_trace = load_trace(str(write_csv(tmp_path / "grid.csv", 48)))
    moments = [datetime.fromtimestamp(moment, UTC) for moment in csv_trace.start_unix_s]
    table = pyarrow.table({"timestamp": moments, "g_per_kwh": csv_trace.g_per_kwh})
    parquet.write_table(table, tmp_path / "grid.parquet")

    trace = load_trace(str(tmp_path / "grid.parquet"))

    assert trace.start_unix_s.tolist() == csv_trace.start_unix_s.tolist()
    assert trace.g_per_kwh.tolist() == csv_trace.g_per_kwh.tolist()
    (tmp_path / "grid.parquet").write_bytes(b"no parquet")
    with pytest.raises(FootprintError, match="cannot be read as Parquet"):
        load_trace(str(tmp_path / "grid.parquet"))


def test_a_run_takes_the_hours_of_its_start(tmp_path: Path) -> None:
    file = str(write_csv(tmp_path / "grid.csv", 24 * 14))
    half_day = 12 * HOUR

    night = series_intensity(file, "FRA", RunPeriod(START, half_day))
    day = series_intensity(file, "FRA", RunPeriod(START + half_day, half_day))

    assert (night.figure.value, day.figure.value) == (100, 150)
    assert night.granularity == "hourly"
    assert night.figure.low == night.figure.high


def test_an_open_start_gives_the_range_over_all_starts(tmp_path: Path) -> None:
    file = str(write_csv(tmp_path / "grid.csv", 24 * 14))

    figure = series_intensity(file, None, RunPeriod(None, 12 * HOUR)).figure

    assert figure.value == pytest.approx(125, rel=0.02)
    assert (figure.low, figure.high) == (pytest.approx(105, abs=5), pytest.approx(145, abs=5))
    assert "no start is stated" in figure.source


def test_a_run_longer_than_the_series_takes_all_of_it_and_says_so(tmp_path: Path) -> None:
    file = str(write_csv(tmp_path / "grid.csv", 48))

    intensity = series_intensity(file, "FRA", RunPeriod(START, 100 * HOUR))
    years_on = series_intensity(file, "FRA", RunPeriod(START + 10 * 365 * 24 * HOUR, 100 * HOUR))

    assert intensity.figure.value == years_on.figure.value == pytest.approx(125)
    assert years_on.figure.low < intensity.figure.low < 120
    assert 130 < intensity.figure.high < years_on.figure.high
    assert intensity.figure.kind == "assumed"
    assert intensity.notes[0] == "the run is longer than the series, whose 48 hours stand for it"


def test_a_series_comes_before_number_and_zone_and_stale_hours_get_a_range(tmp_path: Path) -> None:
    site = Site(zone="FRA", intensity_series=str(write_csv(tmp_path / "grid.csv", 24 * 400)))
    two_years_on = START + 2 * 52 * 7 * 24 * HOUR

    factors = resolve_factors(site, None, period=RunPeriod(two_years_on, 24 * HOUR))

    intensity = factors.intensity
    assert intensity.figure.value == pytest.approx(125)
    assert intensity.figure.low < 125 < intensity.figure.high
    assert any("stand for those from 2027-01-04" in note for note in intensity.notes)
    assert any("states no basis" in note for note in intensity.notes)
