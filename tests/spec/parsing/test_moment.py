"""Moments as people write them: with an offset, a day alone, and what an error proposes is what is read."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.errors import SpecError
from carbon_plugin.spec.parsing.moment import iso_utc, unix_s


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-03-01T06:00Z", "2026-03-01T06:00Z"),
        ("2026-03-01Z", "2026-03-01T00:00Z"),
        ("2026-03-01+01:00", "2026-02-28T23:00Z"),
        ("2026-03-01-05:00", "2026-03-01T05:00Z"),
        ("2026-03-29T02:30+01:00", "2026-03-29T01:30Z"),
    ],
)
def test_a_moment_is_read_in_its_own_offset_and_a_day_is_its_midnight(text: str, utc: str) -> None:
    assert iso_utc(unix_s(text, "start")) == utc


@given(moment=st.datetimes(), seconds=st.booleans(), day=st.booleans())
def test_what_an_error_proposes_for_a_moment_without_an_offset_is_read(moment, seconds: bool, day: bool) -> None:
    moment = moment.replace(microsecond=0, second=moment.second if seconds else 0, year=2026, day=1)
    text = moment.date().isoformat() if day else moment.isoformat(timespec="seconds" if seconds else "minutes")
    with pytest.raises(SpecError) as refused:
        unix_s(text, "start")

    (first, second) = re.search(r"expected for instance (\S+) or (\S+)$", str(refused.value)).groups()  # type: ignore[union-attr]
    assert unix_s(first, "start") - unix_s(second, "start") == 3600


@pytest.mark.parametrize("text", ["2026-02-30Z", "2026-12-31T23:59:60Z", "03/01/2026", "tomorrow", "2026-03-01+1"])
def test_what_is_no_moment_is_refused_with_one_that_is(text: str) -> None:
    with pytest.raises(SpecError, match=r"start is '.*expected") as refused:
        unix_s(text, "start")
    example = str(refused.value).split()[-1]
    assert unix_s(example, "start") > 0
