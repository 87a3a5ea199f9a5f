"""Ports on which a test may let something listen."""

from __future__ import annotations

import random
import socket
from pathlib import Path

OWN = random.SystemRandom()  # a seed that a test sets would give two workers the same ports


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Return a port of the loopback interface on which nobody listens.

    It lies below those that the system gives to connections and to whoever asks for any port, so that nothing else
    takes it before the test does.
    """
    below = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()[0])
    while True:
        port = OWN.randrange(min(10_000, below // 2), below)
        with socket.socket(socket.AF_INET, kind) as found:
            try:
                found.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
