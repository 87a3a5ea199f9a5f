"""Send an alert to an address over HTTP: as JSON, signed, and again if the service does not take it."""

from __future__ import annotations

import hashlib
import hmac
import time
import uuid
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import msgspec

from carbon_plugin.net.http import HttpClient, HttpError
from carbon_plugin.spec.alerts import Alert

SECRET_VARIABLE = "CARBON_PLUGIN_WEBHOOK_SECRET"
SIGNATURE_HEADER, MOMENT_HEADER = "X-Carbon-Plugin-Signature", "X-Carbon-Plugin-Timestamp"
DELIVERY_HEADER = "X-Carbon-Plugin-Delivery"
DEADLINE_S = 5.0
RETRIES_S = (1.0, 4.0, 15.0, 60.0)
"""The waits before the next tries, s."""
_NEVER_AGAIN = ("refused", "not_found", "redirect")


def signature(secret: str, moment: str, body: bytes) -> str:
    """Return the signature of a body: HMAC-SHA256 over "moment.body", so that an old message cannot be sent again."""
    digest = hmac.new(secret.encode(), moment.encode() + b"." + body, hashlib.sha256).hexdigest()
    return f"sha256={digest}"


class Webhook:
    """One address. Make it on a thread that may import; call it on one that may wait.

    Every try of an alert has the same delivery id, so that a receiver can drop a second one. `wait` is called with the
    seconds before the next try, and returns whether there is to be one.
    """

    def __init__(self, address: str, environ: Mapping[str, str], run: Mapping[str, str]) -> None:
        parts = urlsplit(address)
        self._path = parts.path + (f"?{parts.query}" if parts.query else "")
        self._client = HttpClient(f"{parts.scheme}://{parts.netloc}", proxied=True)
        self._secret = environ.get(SECRET_VARIABLE, "")
        self._run = dict(run)
        self.host = parts.hostname or ""

    def send(self, alert: Alert, wait: Callable[[float], bool]) -> None:
        """Send an alert, and try again for as long as that may help. Raises `HttpError` if nobody took it."""
        document = {"version": 1, "text": alert.message, "run": self._run, **msgspec.to_builtins(alert)}
        body = msgspec.json.encode(document)
        delivery = uuid.uuid4().hex
        for pause_s in (*RETRIES_S, None):
            moment = str(int(time.time()))
            headers = {"Content-Type": "application/json", DELIVERY_HEADER: delivery, MOMENT_HEADER: moment}
            if self._secret:
                headers[SIGNATURE_HEADER] = signature(self._secret, moment, body)
            try:
                self._client.send("POST", self._path, deadline_s=DEADLINE_S, body=body, headers=headers)
                return
            except HttpError as error:
                again_s = max(pause_s or 0.0, min(error.retry_after_s or 0.0, RETRIES_S[-1]))
                if pause_s is None or error.failure in _NEVER_AGAIN or not wait(again_s):
                    raise
