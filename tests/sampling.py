"""Parametrised breadth: `make test` runs a sample of the cases, and `make test-all` runs the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def sampled(cases: Iterable[str], usual: Collection[str]) -> list[Any]:
    """Return the parameters of a test, in the order given: those outside `usual` are marked as exhaustive."""
    return [case if case in usual else pytest.param(case, marks=pytest.mark.exhaustive) for case in cases]


def cases_of(request: pytest.FixtureRequest, parameter: str) -> set[str]:
    """Return the values of a parameter in the selected tests of the file that asks, so that one job can cover just
    these."""
    items = [item for item in request.session.items if item.path == request.path and isinstance(item, pytest.Function)]
    calls = [item.callspec for item in items if hasattr(item, "callspec")]
    return {call.params[parameter] for call in calls if parameter in call.params}
