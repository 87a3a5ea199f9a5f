"""Writes the tables of `validation.md`, `validation_tables.md` and of the README between their markers, from
`carbon-plugin validate`: some twenty seconds. Run by `make calibrate`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from marked_tables import replace_marked, table, wrapped

from carbon_plugin.predict.result import AccuracyClass
from carbon_plugin.predict.uncertainty.interval import spread_of
from carbon_plugin.spec.numbers.amounts import percent
from carbon_plugin.validate.hardware.memory import FitSummary, ValidatedMemory, fit_bins, fit_levels
from carbon_plugin.validate.step.error_summary import ErrorSummary
from carbon_plugin.validate.step.headlines import ALL, CollectionError
from carbon_plugin.validate.step.layout_choice import overall_phrase
from carbon_plugin.validate.step.spreads import ClassSpread, class_spreads
from carbon_plugin.validate.step.step_time import Validation, validate

DOCS = Path(__file__).parent
PAGE, TABLES, README = DOCS / "validation.md", DOCS / "validation_tables.md", DOCS.parent / "README.md"

COLLECTIONS = ("ninth", "eighth", "seventh", "sixth", "fifth", "fourth", "third", "second", "first")
"""The newest first."""
CLASSES: dict[AccuracyClass, str] = {
    "calibrated": "dense, tuned software on a known device",
    "low_precision": "dense, tuned software in 8 bit and less",
    "sustained_law": "dense, tuned software on a device of which little is known",
    "ordinary": "dense, ordinary software",
    "moe": "mixtures of experts, tuned software",
    "moe_ordinary": "mixtures of experts, ordinary software",
}
"""What the README calls the classes of which several sources were measured, in its order."""
SOURCES = {
    "vtrain_single_node": ("vTrain, up to 8 A100", "10 / 6"),
    "vtrain_single_node, by cluster": ("the same, each of 54 clusters once", "10 / 6"),
    "vtrain_multi_node": ("vTrain, 64–512 A100", "10 / 6"),
    "sc21": ("Megatron-LM SC21, A100", "5 / 2.5"),
    "korthikanti": ("Korthikanti 2022, A100", "7 / 4"),
    "llmf-a80": ("llm-foundry, A100-80", "6 / 3.5"),
    "llmf-a40": ("llm-foundry, A100-40", "6 / 3.5"),
    "llmf-h100": ("llm-foundry, H100", "4 / 2.5"),
    "llmf-fp8": ("llm-foundry, H100 fp8", ""),
    "simumax": ("SimuMax, B200, dense", "5.5 / 3.5"),
    "simumax-moe": ("SimuMax, B200, MoE", "5.5 / 3.5"),
    "titan": ("torchtitan, H100/H200 bf16+fp8", "12 / 7"),
    "nemo2407": ("NeMo 24.07, H100", "15 / 8"),
    "nemo": ("NeMo long sequences, H100/B200", "15 / 8"),
    "dgxc-nemo": ("dgxc NeMo, H100", "15 / 8"),
    "dgxc-nemo-moe": ("dgxc NeMo Llama 4, H100/GB200", "25 / 12"),
    "dgxc-maxtext": ("dgxc MaxText, H100", ""),
    "mbridge": ("Megatron-Bridge, dense", "15 / 8"),
    "mbridge-lora": ("Megatron-Bridge, adapters", ""),
    "mbridge-moe": ("Megatron-Bridge, MoE", "25 / 12"),
    "mlm": ("Megatron-Core, H100", ""),
    "mlm2020": ("Megatron-LM 2020, V100/A100", ""),
    "ds": ("DeepSpeed ZeRO-3, A100", ""),
    "gpurec": ("MaxText, H200/B200", ""),
    "tpu": ("MaxText, TPU v5p/v6e", ""),
    "tpu-moe": ("MaxText MoE, TPU v5p/v6e", ""),
    "mlpgpt": ("MLPerf GPT-3, H100/B200", ""),
    "mlpgaudi": ("MLPerf GPT-3, Gaudi 2", ""),
    "mlp8b": ("MLPerf Llama 3.1 8B", ""),
    "mlptpu": ("MLPerf GPT-3, TPU v5p/v6e, int8", ""),
    "nanotron": ("nanotron 1B, H100", ""),
    "internevo": ("InternEvo 7B, A100/A800", ""),
    "flagperf": ("FlagPerf, A100/A800/H100", ""),
    "aurora": ("Megatron-DeepSpeed, Max-1550 tiles", ""),
    "dlperf": ("DLPerf 2021, V100-16", ""),
    "nemo2303": ("NeMo 23.03, A100", ""),
    "automodel": ("NeMo Automodel, H100", ""),
    "torchao": ("torchao fp8 recipes", ""),
    "torchtune": ("torchtune", ""),
    "llmc": ("llm.c", ""),
    "modnanogpt": ("modded-nanogpt, H100", ""),
    "dlebert": ("BERT-large, NVIDIA examples", ""),
    "primus": ("Primus, AMD", ""),
    "primusproj": ("Primus projection, MI325X/MI355X", ""),
    "trn1": ("Neuron, Trainium 1", ""),
    "qwenft": ("Qwen fine-tuning, A100", ""),
    "lambdadtg": ("405B with CPU offload, H100", ""),
    "lightningthunder": ("lightning-thunder, H100", ""),
    "openlm": ("OpenLM, A100", ""),
    "msswift": ("ms-swift, A800", ""),
    "maxtextv5e": ("MaxText, TPU v5e", ""),
    "nemotronh": ("dgxc Nemotron-H 56B, H100", ""),
    "milabench": ("milabench BERT, one device", ""),
    "litgpt": ("LitGPT", ""),
    "bionemo": ("BioNeMo, H100", ""),
    "kempner": ("KempnerForge, H200", ""),
    "bloom": ("BigScience, A100", ""),
    "fmsfsdp": ("fms-fsdp, A100", ""),
    "olmocore": ("OLMo-core, H100", ""),
    "tinyllama": ("TinyLlama, A100-40", ""),
    "gptsimple": ("GPT-Simple, A100", ""),
    "nanogpt": ("nanoGPT, A100-40", ""),
    "titan_qwen3": ("torchtitan, Qwen3 32B, H100", ""),
    "pai": ("Pai-Megatron-Patch, H800", ""),
    "mlmixtral": ("Megatron-LM, one user's Mixtral, H100", ""),
    "modalities": ("Modalities, A100-64/H100-64", ""),
    "flashattn": ("FlashAttention's training code, A100", ""),
    "zerobubble": ("zero-bubble paper's Megatron-LM, A100", ""),
    "megascale": ("MegaScale and its Megatron-LM, A100", ""),
    "moefold": ("Megatron-Core, MoE Parallel Folding, H100", ""),
    "titanmoe": ("torchtitan, Qwen3 30B, H200", ""),
    "pax": ("Paxml, A100", ""),
    "marin": ("Levanter, TPU v5p", ""),
    "torchacc": ("TorchAcc, A100", ""),
    "vectorlm": ("VectorLM, A100", ""),
    "easycontext": ("EasyContext, A100", ""),
    "hfaccelerate": ("Hugging Face Accelerate, A100", ""),
    "flm": ("FLM-101B, A800", ""),
    "nanochat": ("nanochat, H100", ""),
    "fsdp2blog": ("FSDP2 of a blog, H100", ""),
    "megatronllama": ("Megatron-LLaMA's DeepSpeed, A100", ""),
    "opt": ("OPT-175B, A100", ""),
    "glm": ("GLM-130B, A100-40", ""),
    "moezoo": ("Megatron MoE model zoo, H100/GB200/GB300", ""),
    "halo": ("Halo and stock TRL, B300", ""),
    "gke": ("A cloud guide's Megatron, GB200/GB300", ""),
    "together": ("Together AI's Megatron-Bridge, B200", ""),
    "llmq": ("LLM.Q, RTX 4090/5090/PRO 6000, L40S, H100", ""),
    "ult": ("Universal LLM Trainer, A100/H100/RTX PRO 6000", ""),
    "amdmi350": ("One user's MI350X", ""),
    "tkgb200": ("One user's training step, GB200", ""),
    "timm": ("timm's vision transformers, RTX 3090", ""),
    "speedrun4090": ("GPT-2 on two RTX 4090", ""),
    "llama3herd": ("Llama 3 405B, H100", ""),
    "lomo": ("LOMO's AdamW, RTX 3090", ""),
    "pithissue": ("One user's torchtitan, B200", ""),
    "lambdadsv3": ("Lambda's torchtitan, B200", ""),
    "trlsp": ("TRL with Ulysses, H100", ""),
    "nemopages": ("NeMo 25.02 to 25.07, H100/B200/GB200", ""),
    "axlearn": ("AXLearn, TPU/H100/Trainium 2", ""),
    "fmsaccel": ("fms-acceleration, A100", ""),
    "lambdabert": ("Lambda's BERT, RTX 3090 to H100", ""),
    "swissai": ("swiss-ai's Megatron-LM, GH200", ""),
    "paddlenlp": ("PaddleNLP, A100", ""),
    "nemotron4": ("Nemotron-4, H100", ""),
    "hfgaudi": ("Hugging Face's BERT, Gaudi 2/A100", ""),
    "fsdppaper": ("FSDP's paper, A100", ""),
    "awstitan": ("A cloud's torchtitan, H100", ""),
    "dsmoe": ("DeepSpeed-MoE, A100", ""),
    "nmoe": ("nmoe, B200", ""),
    "amdmaxtext": ("AMD's MaxText, MI355X/B200", ""),
    "titandocs": ("torchtitan's page of 2024, A100/H100", ""),
    "titanissue": ("One user's torchtitan, H100", ""),
    "yafsdp": ("YaFSDP and FSDP, A100", ""),
    "ironwood": ("MaxText, TPU 7x", ""),
    "dgxc24": ("NVIDIA's recipes of 2024, H100", ""),
    "dgxc25": ("NVIDIA's recipes of 2025, H100/GB200", ""),
    "nemo2412": ("NeMo 24.12, H100", ""),
    "gpunemo": ("A cloud's NeMo recipes, H100/H200", ""),
    "fsdpqlora": ("FSDP and QLoRA, RTX 3090/4090, A100-40, H100", ""),
    "colossal": ("Colossal-AI with Lightning, A100-40", ""),
    "dsgist": ("One user's DeepSpeed, A800", ""),
    "hfblog": ("transformers 5 and NeMo AutoModel, H100", ""),
    "primerl": ("prime-rl, B200/H100/A6000", ""),
    "mbpulls": ("Megatron-Bridge's pull requests, H100 to GB300", ""),
    "bionemo_mixtral": ("BioNeMo's Mixtral, B200/B300", ""),
    "primerl_bench": ("torchtitan and prime-rl, B300", ""),
    "gke_hy3": ("A cloud guide's Hunyuan 3, GB300", ""),
    "gke_a4x": ("A cloud guide's Megatron-core, GB200", ""),
    "awsmoe": ("AWS's exchanges over EFA, H100/B300", ""),
    "gke_tpu": ("A cloud guide's MaxText, TPU v5p/v7", ""),
    "hanuman": ("One user's JAX, TPU v5e", ""),
    "primus_turbo": ("Primus-Turbo, MI355X", ""),
    "zoouser": ("One user's Megatron-core, B200", ""),
    "axolotl": ("Axolotl, H100", ""),
    "skywork": ("Skywork's Megatron-LM, A800", ""),
    "pythia": ("Pythia's GPT-NeoX, A100-40", ""),
    "mtnlg": ("Megatron-Turing NLG, 2,240–3,360 A100", ""),
    "bloomberg": ("BloombergGPT, A100-40", ""),
    "danube": ("H2O-Danube, H100 fp8", ""),
    "bmtrain": ("BMTrain and DeepSpeed, V100", ""),
    "fastdit": ("Fast-DiT, A100", ""),
    "tpuchat": ("One user's JAX, TPU v6e/v5e", ""),
    "colossalissue": ("An issue on DeepSpeed, A800", ""),
    "alst": ("ArcticTraining, long sequences, H100", ""),
    "golf": ("Parameter Golf, H100", ""),
    "gbtitan": ("torchtitan, GB200", ""),
    "ezpztitan": ("torchtitan on Aurora, Max-1550", ""),
    "ezpzfsdp": ("FSDP on Perlmutter, A100-40", ""),
    "jaxgpt": ("One user's JAX, A100", ""),
    "laiproj": ("A course's PyTorch, GH200", ""),
}
"""Headings and the floor / aim of the project's fidelity target, in the order of the table."""
PARTS = {"moe": "mixtures", "lora": "adapters", "lora-moe": "adapters, mixtures"}
UNKNOWN_TARGETS = {"llmf-h100": "12 / 6", "simumax": "20 / 10", "simumax-moe": "20 / 10"}


COLLECTION_HEADINGS = (
    "collection", "rows", "sources", "source left out", "model left out", "bias", "80 % covers", "LLMCarbon", "one MFU",
    "6ND at 40 %",
)  # fmt: skip
SPREAD_HEADINGS = (
    "class", "rows", "sources", "source left out", "spread between", "within", "from sources", "p10–p90", "80 % covers",
    "spread without the source",
)  # fmt: skip
README_HEADINGS = ("step time", "sources", "mean error", "80 % range", "it holds")


def collections(result: Validation) -> str:
    """Return the errors of each collection."""
    return table(COLLECTION_HEADINGS, [_headline(item) for item in newest_first(result.headlines)])


def intervals(result: Validation) -> str:
    """Return the range of each class and what it holds."""
    return table(SPREAD_HEADINGS, [_spread(item) for item in class_spreads(result.rows)])


def readme(result: Validation) -> str:
    """Return what the README says of the errors, by what is run and over all."""
    predicted = [row for row in result.rows if row.skipped is None]
    feasible = sum(one.called_feasible for one in result.fits) / sum(one.ran for one in result.fits)
    before = (
        "Errors of predictions that saw **no row of the source** that measured them, every source counted once, on "
        f"{len(predicted):,} published measurements of {len({row.origin for row in predicted})} sources "
        "([docs/validation.md](docs/validation.md), where they stand by collection and by source too):"
    )
    after = (
        "The printed range counts blind sets as they were predicted blind (below). Of layouts that ran, "
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


def newest_first(items: Sequence[CollectionError]) -> list[CollectionError]:
    """Return the errors in the order of the pages. A collection that `COLLECTIONS` does not name is an error."""
    order = [ALL, *COLLECTIONS]
    return sorted(items, key=lambda item: (order.index(item.collection), item.kind))


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
            f"| {_name(m.source)} | {m.scope} | {m.n} | **{m.mape:.1f}** | {m.worst:+.0f} | {m.bias:+.1f} |"
            for m in result.memory
        ),
        "\n## Layouts that fit\n",
        *_fits(result),
        "\n## How likely a layout is said to fit\n",
        *_likely(result.memory_rows),
        "\n## Which layout we would pick\n",
        "| source | jobs | layouts | rank correlation | regret, % | worst, % |\n|---|---|---|---|---|---|",
        *(
            f"| {_heading(c.source)} | {c.jobs} | {c.layouts} | {'' if c.spearman is None else f'{c.spearman:.2f}'} | "
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
        yield f"| {_name(one.source)} | {_counts([one])} |"
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
    between, within, sources = item.effects
    return [
        item.kind,
        str(item.rows),
        str(item.sources),
        percent(item.error, 1),
        f"{between:.3f}",
        f"{within:.3f}",
        str(sources),
        _range(item.kind),
        f"**{percent(item.coverage, 0)}**",
        "" if item.blind_coverage is None else percent(item.blind_coverage, 0),
    ]


def _name(source: str) -> str:
    """Return the heading of a source: its own, or that of the whole with what it is a part of."""
    if source in SOURCES:
        return SOURCES[source][0]
    whole, _, part = source.partition("-")
    return f"{SOURCES[whole][0]}, {PARTS[part]}"


def _heading(source: str) -> str:
    """Return the heading of a source as a whole, dense and sparse together."""
    return _name(source).removesuffix(", dense")


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
            f"| {_name(item.source)}{'' if item.left_out else ' (*)'} | {item.n} | **{item.mape:.1f}** | "
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
    replace_marked(PAGE, {"collections": collections(result), "intervals": intervals(result)})
    replace_marked(TABLES, {"by source": tables(result)})
    replace_marked(README, {"collections": readme(result)})


if __name__ == "__main__":
    write(validate())
    sys.stdout.write(f"wrote {PAGE}, {TABLES} and {README}\n")
