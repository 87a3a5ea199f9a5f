"""Writes the tables of `validation.md`, `validation_tables.md` and of the README between their markers, from
`carbon-plugin validate`: some twenty seconds. Run by `make calibrate`.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from marked_tables import replace_marked, table, wrapped
from validation_sources import REASONS, SOURCES

from carbon_plugin.predict.result import AccuracyClass
from carbon_plugin.predict.uncertainty.interval import spread_of
from carbon_plugin.spec.numbers.amounts import percent
from carbon_plugin.validate.hardware.memory import FitSummary, ValidatedMemory, fit_bins, fit_levels
from carbon_plugin.validate.step.blind_sets import BlindError, blind_errors
from carbon_plugin.validate.step.error_summary import ErrorSummary
from carbon_plugin.validate.step.headlines import ALL, CollectionError
from carbon_plugin.validate.step.layout_choice import MOST_REGRET, overall_phrase
from carbon_plugin.validate.step.spreads import ClassSpread, RangeShares, class_spreads
from carbon_plugin.validate.step.step_time import Validation, validate

DOCS = Path(__file__).parent
PAGE, TABLES, README = DOCS / "validation.md", DOCS / "validation_tables.md", DOCS.parent / "README.md"

CLASSES: dict[AccuracyClass, str] = {
    "calibrated": "dense, tuned software on a known device",
    "low_precision": "dense, tuned software in 8 bit and less",
    "sustained_law": "dense, tuned software on a device of which little is known",
    "ordinary": "dense, ordinary software",
    "moe": "mixtures of experts, tuned software",
    "moe_ordinary": "mixtures of experts, ordinary software",
}
"""What the README calls the classes of which several sources were measured, in its order."""
PARTS = {"moe": "mixtures", "lora": "adapters", "lora-moe": "adapters, mixtures"}
UNKNOWN_TARGETS = {"llmf-h100": "12 / 6", "simumax": "20 / 10", "simumax-moe": "20 / 10"}


COLLECTION_HEADINGS = (
    "collection", "rows", "sources", "source left out", "model left out", "bias", "80 % covers", "LLMCarbon", "one MFU",
    "6ND at 40 %",
)  # fmt: skip
SPREAD_HEADINGS = (
    "class", "rows", "sources", "source left out", "between, faster", "slower", "within", "from sources", "p10–p90",
    "80 % covers", "without the source", "below p10", "above p90",
)  # fmt: skip
FAR_OFF = 30.0
"""Sources whose mean error is above this, in percent, have a table of their own."""
FAR_OFF_HEADINGS = ("source", "rows", "mean error, %", "bias, %", "what is known of the reason")
README_HEADINGS = ("step time", "sources", "mean error", "80 % range", "it holds")


def collections(result: Validation) -> str:
    """Return the errors of each collection."""
    return table(COLLECTION_HEADINGS, [_headline(item) for item in result.headlines])


def intervals(result: Validation) -> str:
    """Return the range of each class and what it holds."""
    return table(SPREAD_HEADINGS, [_spread(item) for item in class_spreads(result.rows)])


def in_short(result: Validation) -> str:
    """Return how far predictions are off, in a few sentences, for this page and the README."""
    overall = {one.kind: one for one in result.headlines if one.collection == ALL}
    blind = {kind: [one for one in blind_errors() if one.kind == kind] for kind in overall}
    lines = {kind: sum(one.lines for one in found) for kind, found in blind.items()}
    mean = {kind: sum(one.lines * one.mean for one in found) / lines[kind] for kind, found in blind.items()}
    inside = {kind: sum(one.lines * one.inside_range for one in found) / lines[kind] for kind, found in blind.items()}
    dense, mixtures = overall["dense"], overall["mixtures"]
    known = (
        "- **By constants that saw no row of its source**, the step time of a dense model is predicted "
        f"{percent(dense.source_left_out / 100, 1)} off and that of a mixture of experts "
        f"{percent(mixtures.source_left_out / 100, 1)}, as means over {dense.sources} and {mixtures.sources} sources. "
        f"The 80 % range holds {percent(dense.coverage, 0)} and {percent(mixtures.coverage, 0)} of these measurements."
    )
    newest = {kind: percent(max(_newest_medians(found)) / 100, 0) for kind, found in blind.items()}
    unseen = (
        "- **Predicted blind**, before anything was chosen in sight of the rows, they were "
        f"{percent(mean['dense'] / 100, 0)} and {percent(mean['mixtures'] / 100, 0)} off, as means over "
        f"{lines['dense']} and {lines['mixtures']} sources (adapters of a source count apart). Half of the rows of the "
        f"newest sets were nearer than {newest['dense']} and {newest['mixtures']}. **Expect this of your own "
        "software.**"
    )
    ranges = (
        f"- **The 80 % range of the day** held {percent(inside['dense'] / 100, 0)} and "
        f"{percent(inside['mixtures'] / 100, 0)} of what was predicted blind, as means over these sources. Ranges have "
        "been widened since by what the rows taught."
    )
    filled = (
        textwrap.fill(one, 120, subsequent_indent="  ", break_on_hyphens=False) for one in (known, unseen, ranges)
    )
    return "\n".join(filled)


def _newest_medians(found: Sequence[BlindError]) -> list[float]:
    """Return the errors of the median row of the sets that were predicted last. Those of one time share an ordinal."""
    ordinals = [one.blind_set.name.partition(",")[0] for one in found]
    return [one.median for one, ordinal in zip(found, ordinals, strict=True) if ordinal == ordinals[-1]]


def far_off(result: Validation) -> str:
    """Return the sources that are predicted worst, the worst first."""
    worst = sorted((one for one in result.summary if one.mape > FAR_OFF), key=lambda one: -one.mape)
    return table(
        FAR_OFF_HEADINGS,
        [
            [
                name_of(one.source),
                str(one.n),
                f"{one.mape:.0f}",
                f"{one.bias:+.0f}",
                REASONS.get(one.source, "not known"),
            ]
            for one in worst
        ],
    )


def memory(result: Validation) -> str:
    """Return how often a layout is called too large, and how far predicted peaks are off."""
    ran, feasible = sum(one.ran for one in result.fits), sum(one.called_feasible for one in result.fits)
    probes, called = sum(one.out_of_memory for one in result.fits), sum(one.called_too_large for one in result.fits)
    peaks = np.array([one.mape for one in result.memory if one.scope != "device"]) / 100
    levels = fit_levels(result.memory_rows)
    said, held = _series(one.probability for one in levels), _series(one.share for one in levels)
    lines = (
        f"- **Layouts that ran**: {ran - feasible} of {ran:,} are called too large. Of {probes} probes that ran out of "
        f"memory {called} are called too large.",
        f"- **Peaks of the allocator** are off by {percent(float(np.mean(peaks)), 1)} as a mean over {peaks.size} "
        f"lines (a source, or its adapters apart), and by {percent(float(np.median(peaks)), 1)} in the median line.",
        f"- **Peaks fit** in the memory in which they are said to fit with {said} % in {held} % of the cases, with "
        f"{levels[0].sources} sources of which each counts once, and the median and the spread of the others.",
    )
    return "\n".join(textwrap.fill(one, 120, subsequent_indent="  ", break_on_hyphens=False) for one in lines)


def _series(shares: Iterable[float]) -> str:
    """Return shares in percent as a list in words."""
    *most, last = (f"{100 * share:.0f}" for share in shares)
    return f"{', '.join(most)} and {last}"


def _rank(correlation: float | None) -> str:
    return "" if correlation is None else f"{correlation:.2f}"


def layouts(result: Validation) -> str:
    """Return how well the choice of layouts does over all sources, and for which ones it costs most."""
    costly = sorted((one for one in result.layouts if one.regret > MOST_REGRET), key=lambda one: -one.regret)
    named = "; ".join(f"{_heading(one.source)}: {percent(one.regret / 100, 1)}" for one in costly)
    return wrapped(
        f"Over all: {overall_phrase(result.layouts)}. The regret is above {percent(MOST_REGRET / 100, 0)} for "
        f"{len(costly)} sources ({named})."
    )


def readme(result: Validation) -> str:
    """Return what the README says of the errors, by what is run and over all."""
    predicted = [row for row in result.rows if row.skipped is None]
    feasible = sum(one.called_feasible for one in result.fits) / sum(one.ran for one in result.fits)
    before = (
        "Errors of predictions that saw **no row of the source** that measured them, every source counted once, on "
        f"{len(predicted):,} published measurements of {len({row.origin for row in predicted})} sources. "
        "[docs/validation.md](docs/validation.md) has them by collection and by source too."
    )
    after = (
        "The range is the predicted time times the two factors. Of a source that nobody here has seen, one row in ten "
        "is to be faster than the first factor says and one in ten slower than the second. Its width counts the rows "
        "of the blind sets as they were predicted blind. The last column counts the predictions of today, which are "
        "nearer where a fault was mended since, and so it shows more than 80 %. The range of a plan of experts whose "
        "software is not stated reaches further up, because it allows for a loop over them. Of layouts that ran, "
        f"{percent(feasible, 1)} are called feasible."
    )
    classes = {item.kind: item for item in class_spreads(result.rows)}
    shown = [(name, classes[kind], _range(kind)) for kind, name in CLASSES.items()]
    overall = [item for item in result.headlines if item.collection == ALL]
    lines = [
        *(_readme_line(name, item.sources, item.error, factors, item.coverage) for name, item, factors in shown),
        *(
            _readme_line(f"all, {one.kind}", one.sources, one.source_left_out / 100, "", one.coverage)
            for one in overall
        ),
    ]
    return f"{wrapped(before)}\n\n{table(README_HEADINGS, lines)}\n\n{wrapped(after)}"


def _readme_line(name: str, sources: int, error: float, factors: str, coverage: float) -> list[str]:
    return [name, str(sources), percent(error, 1), factors, percent(coverage, 0)]


def _range(kind: AccuracyClass) -> str:
    factors = spread_of(kind)
    return f"× {factors.p10:.2f}–{factors.p90:.2f}"


def tables(result: Validation) -> str:
    """Return the tables of every source."""
    parts = [
        "## Step time\n",
        *_errors([*result.summary, *result.clusters], {name: target for name, (_, target) in SOURCES.items()}),
        f"| **mean over sources** | | **{result.macro_mape:.1f}** | | | | | {result.macro_abs_log_ratio:.3f} | | | "
        + " | ".join(f"{value:.0f}" for value in result.macro_baseline_mape.values())
        + " | |",
        "\n## On a device that nobody calibrated\n",
        *_errors(result.unknown_device, UNKNOWN_TARGETS),
        f"\nAll {_both(result)[0]} SimuMax rows together: {_both(result)[1]:.1f} % (floor 20, aim 10).",
        "\n## Models whose layers differ, fitted to nothing\n",
        *_errors(result.hybrids, {}),
        "\n## Memory a device, against peak bytes\n",
        "| source | reported | n | MAPE | worst | bias |\n|---|---|---|---|---|---|",
        *(
            f"| {name_of(m.source)} | {m.scope} | {m.n} | **{m.mape:.1f}** | {m.worst:+.0f} | {m.bias:+.1f} |"
            for m in result.memory
        ),
        "\n## Layouts that fit\n",
        *_fits(result),
        "\n## How likely a layout is said to fit\n",
        *_likely(result.memory_rows),
        "\n## Which layout we would pick\n",
        "| source | jobs | layouts | rank correlation | without ties | regret, % | worst, % |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {_heading(c.source)} | {c.jobs} | {c.layouts} | {_rank(c.spearman)} | {_rank(c.spearman_untied)} | "
            f"**{c.regret:.1f}** | {c.worst_regret:.0f} |"
            for c in result.layouts
        ),
        f"\nAll: {overall_phrase(result.layouts)}.",
        "\n## Rows that cannot be predicted\n",
        *(f"- `{row.id}`: {row.skipped}" for row in result.rows if row.skipped),
    ]
    return "\n".join(parts)


def _fits(result: Validation) -> Iterator[str]:
    """Yield the lines of a table: the sources for which a verdict is wrong, all others in one line, and every probe
    that ran out of memory.
    """
    yield "| source | ran | called feasible | ran out of memory | called too large |\n|---|---|---|---|---|"
    wrong = [one for one in result.fits if one.ran > one.called_feasible or one.out_of_memory]
    others = [one for one in result.fits if one not in wrong]
    for one in wrong:
        yield f"| {name_of(one.source)} | {_counts([one])} |"
    yield f"| {len(others)} others | {_counts(others)} |"
    yield f"| **all** | {_counts(result.fits)} |"


def _likely(rows: Sequence[ValidatedMemory]) -> Iterator[str]:
    """Yield what came of layouts by the probability with which they were said to fit: published ones, and measured
    peaks in the memory for which the probability would have been so.
    """
    yield "| said to fit with a probability of | published layouts | ran |\n|---|---|---|"
    for one in fit_bins(rows):
        ran = f"{one.ran} ({percent(one.ran / one.rows, 0)})" if one.rows else ""
        yield f"| {percent(one.low, 0)} to {percent(one.high, 0)} | {one.rows} | {ran} |"
    levels = fit_levels(rows)
    yield "\n| a peak fits with a probability of | " + " | ".join(percent(one.probability, 0) for one in levels) + " |"
    yield "|---" * (1 + len(levels)) + "|"
    said = f"fitted ({levels[0].rows} peaks of {levels[0].sources} sources, spread without the source)"
    yield f"| {said} | " + " | ".join(f"**{percent(one.share, 0)}**" for one in levels) + " |"


def _counts(items: Sequence[FitSummary]) -> str:
    ran, feasible = sum(one.ran for one in items), sum(one.called_feasible for one in items)
    probes, called = sum(one.out_of_memory for one in items), sum(one.called_too_large for one in items)
    share = f" ({percent(feasible / ran, 1)})" if ran else ""
    return f"{ran} | {feasible}{share} | {probes or ''} | {called if probes else ''}"


def _headline(item: CollectionError) -> list[str]:
    return [
        f"{item.collection}, {item.kind}",
        str(item.rows),
        str(item.sources),
        f"**{item.source_left_out:.1f}**",
        "" if item.model_left_out is None else f"{item.model_left_out:.1f}",
        f"{item.bias:+.1f}",
        percent(item.coverage, 0),
        *(f"{value:.0f}" for value in item.baseline_mape.values()),
    ]


def _spread(item: ClassSpread) -> list[str]:
    faster, slower, within, sources = item.effects
    return [
        item.kind,
        str(item.rows),
        str(item.sources),
        percent(item.error, 1),
        f"{faster:.3f}",
        f"{slower:.3f}",
        f"{within:.3f}",
        str(sources),
        _range(item.kind),
        f"**{percent(item.coverage, 0)}**",
        *_shares(item.held_blind),
    ]


def _shares(held: RangeShares | None) -> list[str]:
    return [""] * 3 if held is None else [percent(share, 0) for share in (held.inside, held.below, held.above)]


def name_of(source: str) -> str:
    """Return the heading of a source: its own, or that of the whole with what it is a part of."""
    if source in SOURCES:
        return SOURCES[source][0]
    whole, _, part = source.partition("-")
    return f"{SOURCES[whole][0]}, {PARTS[part]}"


def _heading(source: str) -> str:
    """Return the heading of a source as a whole, dense and sparse together."""
    return name_of(source).removesuffix(", dense")


def _errors(summaries: Sequence[ErrorSummary], targets: dict[str, str]) -> Iterator[str]:
    yield (
        "| source | n | MAPE | median | p90 | worst | bias | mean abs(log) | 80 % covers | model left out | "
        "LLMCarbon | one MFU | 6ND at 40 % | floor / aim |\n" + "|---" * 14 + "|"
    )
    order = list(SOURCES)
    place = {
        name: order.index(name) if name in order else order.index(name.partition("-")[0])
        for name in (item.source for item in summaries)
    }
    for item in sorted(summaries, key=lambda item: place[item.source]):
        baselines = [f"{value:.0f}" for value in item.baseline_mape.values()] or [""] * 3
        model = "" if item.model_left_out_mape is None else f"{item.model_left_out_mape:.1f}"
        yield (
            f"| {name_of(item.source)}{'' if item.left_out else ' (*)'} | {item.n} | **{item.mape:.1f}** | "
            f"{item.median:.1f} | {item.p90:.1f} | {item.worst:+.0f} | {item.bias:+.1f} | {item.abs_log_ratio:.3f} | "
            f"{percent(item.coverage, 0)} | {model} | {' | '.join(baselines)} | {targets.get(item.source, '')} |"
        )


def _both(result: Validation) -> tuple[int, float]:
    """Return rows and error of SimuMax, dense and sparse together, on a device that nobody calibrated."""
    parts = [item for item in result.unknown_device if item.source.startswith("simumax")]
    counts = [item.n for item in parts]
    return sum(counts), float(np.average([item.mape for item in parts], weights=counts))


def write(result: Validation) -> None:
    """Replace what stands between the markers of the three pages."""
    parts = {
        "in short": in_short,
        "collections": collections,
        "intervals": intervals,
        "far off": far_off,
        "memory": memory,
        "layouts": layouts,
    }
    replace_marked(PAGE, {name: part(result) for name, part in parts.items()})
    replace_marked(TABLES, {"by source": tables(result)})
    replace_marked(README, {"in short": in_short(result), "collections": readme(result)})


if __name__ == "__main__":
    write(validate())
    sys.stdout.write(f"wrote {PAGE}, {TABLES} and {README}\n")
