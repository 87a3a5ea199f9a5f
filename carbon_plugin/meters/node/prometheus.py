"""Read power or an energy counter from a Prometheus server, by one instant query that has one number as its answer."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from msgspec import Struct, field

from carbon_plugin.meters.node.address import NodeAddress
from carbon_plugin.meters.node.http import JsonService
from carbon_plugin.meters.node.source import Credentials, NodeAnswer, SourceError
from carbon_plugin.spec.parsing.boundary import finite_number


class _Data(Struct):
    kind: str = field(name="resultType")
    result: list[Any]


class _Answer(Struct):
    data: _Data


class PrometheusSource:
    """The source asks one query. Its answer is in watts, or with `unit=J` in joules of a counter."""

    poll_s = 5.0

    def __init__(self, address: NodeAddress, credentials: Credentials) -> None:
        self._service = JsonService(address, credentials, token_header="Authorization")
        self._shown = address.shown
        self._counts = address.options.get("unit") == "J"
        self._path = f"{address.path}/api/v1/query?{urlencode({'query': address.options['query']})}"

    def ask(self, deadline_s: float) -> NodeAnswer:
        """Return the number that the query gives now. Raises `SourceError` where that is not one number of
        0 or more.
        """
        data = self._service.ask(self._path, _Answer, deadline_s).data
        rows = [data.result] if data.kind == "scalar" else [_value(row) for row in data.result]
        if len(rows) != 1:
            # Prometheus leaves out a series without a sample in the last five minutes, so none means stale.
            raise SourceError(
                f"{self._shown}: the query gives {len(rows)} series, expected 1", "malformed" if rows else "stale"
            )
        row = rows[0]
        value = finite_number(row[1]) if isinstance(row, list) and len(row) > 1 else None
        if value is None or value < 0:
            raise SourceError(f"{self._shown}: the query gives no number of 0 or more", "malformed")
        return NodeAnswer(value, None) if self._counts else NodeAnswer(None, value)


def _value(series: Any) -> Any:
    return series.get("value") if isinstance(series, dict) else None
