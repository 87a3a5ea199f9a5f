"""Run one command with a deadline, return its output as text, and turn every failure into one `SourceError`."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from carbon_plugin.meters.node.source import SourceError


def run_command(command: Sequence[str], deadline_s: float, environ: Mapping[str, str]) -> str:
    """Return the standard output of a command that runs in an environment. Raises `SourceError` where it fails."""
    name = command[0]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=deadline_s,
            env={**environ, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise SourceError(f"the command {name} is not installed", "not_supported") from None
    except PermissionError:
        raise SourceError(f"the command {name} may not be run by this user", "permission") from None
    except subprocess.TimeoutExpired:
        raise SourceError(f"{name} has no answer within {deadline_s:g} s", "unreachable") from None
    except OSError as error:
        raise SourceError(f"{name} cannot be run: {error.strerror}", "error") from None
    if done.returncode == 0:
        return done.stdout
    line = next(iter(done.stderr.strip().splitlines()), "no message")[:200]
    denied = any(word in line.lower() for word in ("permission", "denied", "privilege"))
    raise SourceError(f"{name} ends with {done.returncode}: {line}", "permission" if denied else "error")
