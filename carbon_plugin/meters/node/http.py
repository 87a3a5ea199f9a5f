"""Ask a service of the node or the cluster over HTTP. Every failure becomes a `SourceError` with its code.

Such a service is in the cluster's own network: no proxy is asked, and one redirect is followed within the host.
"""

from __future__ import annotations

import ssl
from typing import TypeVar

from carbon_plugin.meters.node.address import NodeAddress
from carbon_plugin.meters.node.source import Credentials, FaultCode, SourceError
from carbon_plugin.net.connection import basic
from carbon_plugin.net.http import Failure, HttpClient, HttpError

T = TypeVar("T")

_CODES: dict[Failure, FaultCode] = {
    "unreachable": "unreachable",
    "refused": "refused",
    "not_found": "not_supported",
    "malformed": "malformed",
    "redirect": "error",
    "status": "error",
}


class JsonService:
    """One instance is a client of a host that answers JSON.

    `token_header` is the header in which a token is sent: as Bearer in "Authorization", as it is in any other.
    """

    def __init__(self, address: NodeAddress, credentials: Credentials, token_header: str) -> None:
        self._shown = address.shown
        self._client = HttpClient(
            _base_url(address),
            headers=_authorization(credentials, token_header),
            tls=_tls(address) if address.secure else None,
            follow_redirect=True,
        )

    def ask(self, path: str, answer: type[T], deadline_s: float) -> T:
        """Return the answer to a GET as the type `answer`.

        Raises `SourceError`. Its code is "not_supported" where there is no such path, so that another can be tried.
        """
        try:
            return self._client.ask(path, answer, deadline_s=deadline_s)
        except HttpError as error:
            raise SourceError(f"{self._shown} {error}", _CODES[error.failure]) from None


def _base_url(address: NodeAddress) -> str:
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{'https' if address.secure else 'http'}://{host}{f':{address.port}' if address.port else ''}"


def _authorization(credentials: Credentials, token_header: str) -> dict[str, str]:
    if credentials.token is not None:
        return {token_header: f"Bearer {credentials.token}" if token_header == "Authorization" else credentials.token}
    if credentials.user is None:
        return {}
    return {"Authorization": basic(credentials.user, credentials.password or "")}


def _tls(address: NodeAddress) -> ssl.SSLContext:
    ca = address.options.get("ca")
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise SourceError(f"{address.shown}: the file ca={ca} cannot be used: {error}", "error") from None
    if address.options.get("verify") == "no":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
