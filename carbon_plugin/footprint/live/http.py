"""Ask a provider of live intensity over HTTP. Every failure becomes a `ProviderError` that reveals no secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from carbon_plugin.footprint.live.provider import ProviderError
from carbon_plugin.net.http import HttpClient, HttpError

T = TypeVar("T")


class Service:
    """One provider at one address. Make it on a thread that may import, and call `ask` on a thread that may wait."""

    def __init__(self, name: str, base_url: str) -> None:
        self.name = name
        # Providers are on the internet, which a cluster may reach through a proxy only. Redirects are not followed.
        self._client = HttpClient(base_url, proxied=True)

    def ask(
        self,
        path: str,
        answer: type[T],
        *,
        deadline_s: float,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        """Return the answer to a GET as the type `answer`, within `deadline_s` seconds.

        Raises `ProviderError` with the name of the provider and the kind of failure, but without headers, parameters
        or any part of the answer.
        """
        try:
            return self._client.ask(path, answer, deadline_s=deadline_s, params=params, headers=headers)
        except HttpError as error:
            if error.failure == "refused":
                message = f"{self.name}: refuses the credentials or the zone (status {error.status})"
                raise ProviderError(message, permanent=True) from None
            raise ProviderError(f"{self.name}: {error}", retry_after_s=error.retry_after_s) from None
