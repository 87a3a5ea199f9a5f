"""What was done to the ledgers of a run, by kind and seed, and in which state verification must then find them.

`make fuzz` tries thousands. What no ledger can show is tested too: it needs an anchor, and an anchor finds it.
"""

from __future__ import annotations

import functools
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_plugin.footprint.run_factors import resolve_factors
from carbon_plugin.ledger.codec import encode_record
from carbon_plugin.ledger.reader import read_ledger
from carbon_plugin.ledger.records import Close, Record, Window
from carbon_plugin.ledger.sums import RunningSums
from carbon_plugin.ledger.verification.verify import RunCheck, verify_run
from carbon_plugin.spec.site import Site
from tests.ledger.builder import Attempt, Job
from tests.ledger.chaining import chained, payloads_of

seeds = st.integers(0, 2**32 - 1)


@functools.cache
def written(nodes: int) -> Path:
    """Write two nodes in two attempts, of which the first was killed, or one node in one attempt that ended."""
    attempts = [Attempt(0, 4, closed=False), Attempt(60, 4, 600.0)] if nodes > 1 else [Attempt(0, 6)]
    factors = msgspec.to_builtins(resolve_factors(Site(zone="FRA", pue=1.2), None))
    folder = Path(tempfile.mkdtemp())
    Job(nodes=nodes, attempts=attempts, factors=factors, intensity_g_per_kwh=41.44).write(folder)
    return folder


@functools.cache
def anchors(nodes: int) -> list[str]:
    return [read_ledger(path).head for path in sorted(written(nodes).glob("node-*.jsonl"))]


@contextmanager
def changed(nodes: int, change: Callable[[Path, random.Random], None], seed: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        shutil.copytree(written(nodes), run_dir)
        change(run_dir, random.Random(seed))
        yield run_dir


def checked(nodes: int, change: Callable[[Path, random.Random], None], seed: int) -> tuple[RunCheck, RunCheck]:
    """Return the verification without anchors, and the one with an anchor for each file."""
    with changed(nodes, change, seed) as run_dir:
        return verify_run(run_dir), verify_run(run_dir, anchors(nodes))


def any_file(run_dir: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(run_dir.glob("node-*.jsonl")))


def rewrite(path: Path, records: list[Record]) -> None:
    """Write records with a consistent chain, as a forger does."""
    path.write_bytes(chained(map(encode_record, records)))


def closed_anew(records: list[Record]) -> list[Record]:
    """Return the records with a closing record that fits them, if they have one."""
    summed = RunningSums()
    for record in records:
        if isinstance(record, Window):
            summed.add(record)
    fields = {"steps": summed.steps, "windows": summed.windows, "energy_j": summed.energy_j, "sums": summed.sums}
    return [msgspec.structs.replace(r, **fields) if isinstance(r, Close) else r for r in records]


def cut_tail(run_dir: Path, rng: random.Random) -> None:
    path = any_file(run_dir, rng)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: rng.randrange(1, len(lines))]))


def remove_file(run_dir: Path, rng: random.Random) -> None:
    any_file(run_dir, rng).unlink()


def copy_file(run_dir: Path, rng: random.Random) -> None:
    source = any_file(run_dir, rng)
    names = ["node-0.attempt-7", "node-5.attempt-0", "node-0.rank-3.attempt-0", "node-1.attempt-2"]
    shutil.copy(source, run_dir / f"{rng.choice(names)}.jsonl")


def copy_with_a_manifest_of_its_own(run_dir: Path, rng: random.Random) -> None:
    source = any_file(run_dir, rng)
    name = f"node-0.attempt-{rng.randrange(2, 9)}.jsonl"
    manifest, *rest = read_ledger(source).records
    attempt = int(name.split("-")[2].split(".", maxsplit=1)[0])
    rewrite(run_dir / name, [msgspec.structs.replace(manifest, file=name, node=0, attempt=attempt), *rest])


FIGURES = rb'"(?:energy_j|low_j|high_j|duration_s|start_unix_s|tokens|steps|last_step|pue|intensity_g_per_kwh)":'


def edit_figure(run_dir: Path, rng: random.Random) -> None:
    """Change one digit of one figure of one window, and nothing else."""
    path = any_file(run_dir, rng)
    lines = path.read_bytes().splitlines(keepends=True)
    at = rng.choice([n for n, line in enumerate(lines) if b'{"type":"window"' in line])
    found = rng.choice(list(re.finditer(FIGURES + rb"[0-9.]*?([0-9])(?=[,}])", lines[at])))
    other = b"%d" % ((int(found[1]) + rng.randrange(1, 10)) % 10)
    lines[at] = lines[at][: found.start(1)] + other + lines[at][found.end(1) :]
    path.write_bytes(b"".join(lines))


def _edited(records: list[Record], rng: random.Random) -> list[Record]:
    at = rng.choice([n for n, record in enumerate(records) if isinstance(record, Window)])
    window = records[at]
    assert isinstance(window, Window)
    factor = rng.choice((0.5, 0.9, 1.01, 1.5))
    energy = msgspec.structs.replace
    changes: list[dict[str, object]] = [
        {"tokens": int(window.tokens * factor) + 1},
        {"pue": 1.0 + 0.1 * factor},
        {"intensity_g_per_kwh": 41.44 * factor},
        {"duration_s": window.duration_s * min(factor, 0.99)},
        {"energies": [energy(one, low_j=(one.low_j or 0) * 0.9 * min(factor, 1.0)) for one in window.energies]},
        {"energies": [energy(one, high_j=(one.high_j or 0) * 1.1 * max(factor, 1.0)) for one in window.energies]},
        {"energies": [energy(one, energy_j=(one.energy_j or 0) * 0.99) for one in window.energies]},
    ]
    return [*records[:at], msgspec.structs.replace(window, **rng.choice(changes)), *records[at + 1 :]]


def edit_and_chain_again(run_dir: Path, rng: random.Random) -> None:
    path = any_file(run_dir, rng)
    rewrite(path, _edited(read_ledger(path).records, rng))


def edit_chain_and_close_again(run_dir: Path, rng: random.Random) -> None:
    path = any_file(run_dir, rng)
    rewrite(path, closed_anew(_edited(read_ledger(path).records, rng)))


def put_a_window_and_a_close_behind_a_killed_attempt(run_dir: Path, rng: random.Random) -> None:
    path = rng.choice(sorted(run_dir.glob("node-*.attempt-0.jsonl")))
    records = read_ledger(path).records
    last = [record for record in records if isinstance(record, Window)][-1]
    start_s = last.start_unix_s + last.duration_s
    for number in range(rng.randrange(1, 4)):
        records.append(
            msgspec.structs.replace(last, index=last.index + 1 + number, start_unix_s=start_s + 10.0 * number)
        )
    if rng.random() < 0.7:
        end = Close(at_unix_s=start_s + 10.0, reason="finished", steps=0, windows=0, energy_j=0.0)
        records = closed_anew([*records, end])
    rewrite(path, records)


def state_what_cannot_be(run_dir: Path, rng: random.Random) -> None:
    path = any_file(run_dir, rng)
    payloads = payloads_of(path.read_bytes())
    at = rng.choice([n for n, payload in enumerate(payloads) if payload.startswith(b'{"type":"window"')])
    wrong = rng.choice((b"1e308", b"-1e308", b"-5", b"NaN", b"Infinity", b'"8"', b"1e400", b"[]", b"9" * 400))
    figure = rng.choice(list(re.finditer(FIGURES + rb"([0-9.]+)", payloads[at])))
    payloads[at] = payloads[at][: figure.start(1)] + wrong + payloads[at][figure.end(1) :]
    path.write_bytes(chained(payloads))


FOUND: dict[str, tuple[int, Callable[[Path, random.Random], None], set[str]]] = {
    "end cut off": (2, cut_tail, {"contradicted", "incomplete"}),
    "end of the only ledger cut off": (1, cut_tail, {"contradicted", "incomplete"}),
    "file removed": (2, remove_file, {"contradicted", "incomplete"}),
    "copied under another name": (2, copy_file, {"contradicted"}),
    "copied with a manifest of its own": (2, copy_with_a_manifest_of_its_own, {"contradicted"}),
    "figure edited": (2, edit_figure, {"contradicted"}),
    "figure of the only ledger edited": (1, edit_figure, {"contradicted"}),
    "edited and chained again": (2, edit_and_chain_again, {"contradicted"}),
    "only ledger edited and chained again": (1, edit_and_chain_again, {"contradicted"}),
    "put behind a killed attempt": (2, put_a_window_and_a_close_behind_a_killed_attempt, {"incomplete"}),
    "stated what cannot be": (2, state_what_cannot_be, {"contradicted"}),
    "only ledger states what cannot be": (1, state_what_cannot_be, {"contradicted"}),
}


@pytest.mark.parametrize("kind", FOUND)
@given(seed=seeds)
def test_change_is_found_without_an_anchor_and_never_verified_with_one(kind: str, seed: int) -> None:
    nodes, change, expected = FOUND[kind]

    alone, anchored = checked(nodes, change, seed)

    assert alone.state in expected, (alone.state, seed)
    assert anchored.state in ("contradicted", *expected), (anchored.state, seed)
    assert alone.all_problems or alone.missing


@given(seed=seeds)
def test_only_ledger_that_was_edited_chained_and_closed_again_needs_an_anchor(seed: int) -> None:
    alone, anchored = checked(1, edit_chain_and_close_again, seed)

    assert alone.state != "verified"
    assert anchored.state == "contradicted"


@given(seed=seeds)
def test_one_of_several_ledgers_that_was_edited_so_is_found_by_those_that_have_seen_it(seed: int) -> None:
    last = "node-1.attempt-1.jsonl"  # which nobody has seen, because its writer was the last to begin and to end
    with changed(2, edit_chain_and_close_again, seed) as run_dir:
        unseen = (run_dir / last).read_bytes() != (written(2) / last).read_bytes()
        assert (verify_run(run_dir).state == "contradicted") or unseen
        assert verify_run(run_dir, anchors(2)).state == "contradicted"


def test_what_nobody_changed_is_unsealed_alone_and_verified_with_the_anchors() -> None:
    for nodes in (1, 2):
        assert verify_run(written(nodes)).state == "unsealed"
        assert verify_run(written(nodes), anchors(nodes)).state == "verified"
