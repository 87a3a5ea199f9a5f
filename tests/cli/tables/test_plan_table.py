"""The printed plan: one screen for very different runs, everything else behind -v, and no number written badly."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from carbon_plugin.cli import main as cli
from carbon_plugin.cli.tables.plan_step import verdict
from carbon_plugin.plan.real_run import OVERRUNS
from carbon_plugin.predict.result import MemoryPrediction
from carbon_plugin.spec.numbers.amounts import number

LENGTH = ("--tokens", "1e12")
MOE = (
    "model: {layers: 61, hidden: 7168, heads: 128, head_dim: 128, kv_heads: 8, ffn: 18432, vocab: 129280, "
    "moe: {experts: 256, top_k: 8, expert_ffn: 2048, first_dense_layers: 3}}"
)
COUNTED = (
    "model: {type: counted, name: resnet, parameters: 999999999, trainable_parameters: 999999999, "
    "forward_flops_per_sample: 8.2e9, activation_bytes_per_sample: 9e7, kernels: 160}"
)
SPECS = {
    "counted": f"{COUNTED}\ncluster: {{accelerator: a100, nodes: 1}}\nlayout: {{dp_replicate: 8}}\n"
    "training: {seq_len: 1, global_batch_size: 1024, steps: 90000}\nsite: {zone: DEU}\n",
    "moe": f"{MOE}\ncluster: {{accelerator: h100-sxm, nodes: 2048}}\nprice_usd_per_device_hour: 2\n"
    "training: {seq_len: 4096, global_batch_size: 16384, tokens: 15e12}\nsite: {zone: aws:us-east-1}\n",
    "market": "model: llama3-8b\ncluster: {accelerator: h100-sxm, nodes: 4}\n"
    "training: {seq_len: 8192, global_batch_size: 512, tokens: 1e12}\n"
    "site: {zone: Oregon, instruments: [{kind: ppa, share: 1, g_per_kwh: 11, source: wind}]}\n",
}
RUNS = {
    "16 x 8 H100": (
        "--model", "llama3-8b", "--accelerator", "h100-sxm", "--nodes", "16",
        "--zone", "FRA", "--price", "2",
    ),
    "2 x 4090": (
        "--model", "gpt2", "--accelerator", "rtx4090", "--nodes", "1",
        "--devices-per-node", "2", "--zone", "US-TX",
    ),
    "4 x L40S": (
        "--model", "gpt2", "--accelerator", "l40s", "--nodes", "1",
        "--devices-per-node", "4", "--zone", "JP-HKD",
    ),
    "2,048 H100": (
        "--model", "llama3-405b", "--accelerator", "h100-sxm",
        "--nodes", "256", "--zone", "aws:ca-central-1",
    ),
    "TPU": ("--model", "llama3-8b", "--accelerator", "tpu-v5p", "--nodes", "16", "--zone", "gcp:us-central1"),
    "MI300X": ("--model", "llama3-70b", "--accelerator", "mi300x", "--nodes", "8", "--zone", "NO1"),
    "B200": ("--model", "mixtral-8x7b", "--accelerator", "b200", "--nodes", "8", "--zone", "Quebec"),
    "counted": ("counted.yaml",),
    "16,384 H100": ("moe.yaml",),
    "contracts": ("market.yaml",),
}  # fmt: skip


@pytest.fixture(autouse=True)
def specs(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in SPECS.items():
        (tmp_path / f"{name}.yaml").write_text(text)


def printed(capsys, *arguments: str) -> str:
    length = () if arguments[0].endswith(".yaml") else LENGTH
    assert cli.run(["plan", *arguments, *length]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(("run", "columns"), [*((run, 80) for run in RUNS), ("contracts", 100), ("MI300X", 120)])
def test_a_plan_fits_one_screen(run, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))

    lines = printed(capsys, *RUNS[run]).splitlines()

    assert len(lines) <= 42, "\n".join(lines)
    assert max(map(len, lines)) <= columns
    assert [line for line in lines if re.search(r"\de[+-]?\d\d", line)] == []  # no exponents
    heads = ["model", "cluster", "layout", "training", "site", "goodput", "one step", "memory", "assumed"]
    assert [head for head in heads if not any(line.startswith(head) for line in lines)] == []


@pytest.mark.parametrize("flags", [(), ("-v",), ("--compare", "zone=SWE,USA"), ("--search",)])
def test_no_line_ends_with_blanks_and_what_is_said_below_the_table_keeps_its_distance(flags, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    lines = printed(capsys, *RUNS["16 x 8 H100"], "--tp", "8", *flags).splitlines()

    assert [line for line in lines if line != line.rstrip()] == []
    if flags in ((), ("-v",)):
        start = next(place for place, line in enumerate(lines) if line.startswith("  a real run takes"))
        rest = lines[start + 1 : lines.index("", start)]
        assert rest
        assert all(line.startswith("  ") for line in rest)


@pytest.mark.parametrize("flags", [(), ("-v",)])
@pytest.mark.parametrize(
    ("expected", "failures"),
    [(50.0, r"[4-6]\d failures are"), (1.0, "1 failure is"), (1e-3, "a failure is unlikely")],
)
def test_failures_belong_to_the_best_case_where_a_real_run_takes_longer(
    expected, failures, flags, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "400")
    text = (
        "model: llama3-8b\ncluster: {accelerator: h100-sxm, nodes: 16}\nlayout: {dp_shard: 128, zero_stage: 3}\n"
        "training: {seq_len: 8192, global_batch_size: 1024, tokens: 15e12, kind: KIND, "
        "reliability: {mtbf_device_hours: HOURS}}\nsite: {zone: FRA}\n"
    )
    # How long the run takes follows from the constants of today; failures are as many times fewer as they are apart.
    (tmp_path / "once.yaml").write_text(text.replace("KIND", "production").replace("HOURS", "1e6"))
    once = json.loads(printed(capsys, "once.yaml", "--json"))["goodput"]["expected"]["failures"]
    text = text.replace("HOURS", repr(1e6 * once / expected))
    said = {}
    for kind in ("production", "benchmark"):
        (tmp_path / f"{kind}.yaml").write_text(text.replace("KIND", kind))
        lines = printed(capsys, f"{kind}.yaml", *flags).splitlines()
        said[kind] = next(line for line in lines if line.startswith("goodput"))

    assert re.search(rf"best case: training steps take [\d.]+ % of the time, {failures}", said["production"])
    assert re.search(rf"goodput +training steps take [\d.]+ % of the time; {failures}", said["benchmark"])
    assert "best case" not in said["benchmark"]


@pytest.mark.parametrize("run", ["16 x 8 H100", "counted", "contracts"])
def test_verbose_has_every_assumption_and_every_term_and_the_short_form_says_how_many_are_left_out(
    run, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "200")
    short, long = (" ".join(printed(capsys, *RUNS[run], *flags).split()) for flags in ((), ("-v",)))

    assumed = long.split("assumed, because nothing was given")[1]
    for field in ("site.pue", "site.lifetime_years", "embodied.device"):
        assert f"{field}: " in assumed
    assert "site.lifetime_years" not in short
    assert re.search(r"and \d+ other values? \(-v lists all with their sources\)", short)
    assert "95 % interval of total carbon" in long
    assert "energy, nodes" in long
    assert "energy, nodes" not in short
    assert "energy, IT, without storage" in short  # energy of the facility is this times the PUE


def test_what_a_user_can_best_state_is_named_among_the_assumptions(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    said = " ".join(printed(capsys, *RUNS["2 x 4090"]).split()).split("assumed, because nothing was given: ")[1]

    for choice in ("node pcie-8", "seq len 1024", "global batch size 4096", "precision bf16", "PUE 1 "):
        assert choice in said


def test_the_plan_says_the_range_of_its_grid_and_that_a_larger_area_stands_in(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    said = " ".join(printed(capsys, *RUNS["4 x L40S"]).split())

    assert "site Hokkaido 477 gCO2e/kWh (209 to 1,090; annual 2025, lifecycle), PUE 1.54" in said
    assert "warning: the grid intensity of Hokkaido (JP-HKD) is of a larger area: its range covers 209 to" in said


def test_parameters_are_never_written_with_an_exponent(capsys):
    assert "resnet, 1 B parameters" in printed(capsys, *RUNS["counted"])


def test_samples_of_a_counted_model_without_a_length_are_not_called_tokens(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    said = printed(capsys, *RUNS["counted"])

    assert "90,000 steps of 1,024 samples, bf16" in said
    assert " samples/s and " in said
    assert "tokens" not in said


def test_a_sequence_that_nobody_stated_is_not_longer_than_the_models_position_table(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    assert "4,096 x 1,024 tokens" in printed(capsys, *RUNS["2 x 4090"])


def test_what_several_rows_of_a_comparison_have_in_common_is_said_once(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    said = printed(capsys, *RUNS["16 x 8 H100"], "--compare", "zone=Nevada,Alaska", "accelerator=a100,h200-sxm")

    sentence = "the grid intensity of Nevada (US-NV) is not of that place alone"
    assert said.count(sentence) == said.count(f"1, 2: {sentence}") == 1
    assert "3, 4: the grid intensity of Alaska (US-AK) is not of that place alone" in said


def test_a_cloud_region_is_named_before_its_place(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    said = " ".join(printed(capsys, *RUNS["2 x 4090"], "--zone", "aws:us-east-1").split())

    assert "site aws:us-east-1, Northern Virginia 343 gCO2e/kWh" in said


def test_what_a_range_comes_from_is_said_in_words(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(
        "model: llama3-8b\ncluster: {accelerator: h100-sxm, nodes: 16}\nlayout: {dp_shard: 128, zero_stage: 3}\n"
        "training: {seq_len: 8192, global_batch_size: 1024, tokens: 15e12}\nsite: {zone: FRA}\n"
    )

    shown = " ".join(printed(capsys, "run.yaml", "-v").split())

    (causes,) = re.findall(r"what the range comes from: (.*?) a real run takes", shown)
    assert "grid intensity " in causes
    assert "PUE " in causes
    assert ":" not in causes  # no scope of the accounting, such as host:dgx-h100


@pytest.mark.parametrize(
    ("stack", "said"), [("", True), ("stack: {expert_loop: false}\n", False), ("stack: megatron-core\n", False)]
)
def test_a_range_that_reaches_to_a_loop_over_experts_says_how_to_narrow_it(stack, said, tmp_path, capsys):
    (tmp_path / "experts.yaml").write_text(SPECS["moe"] + stack)

    text = " ".join(printed(capsys, "experts.yaml").split())

    assert ("stack: {expert_loop: false}" in text) == said


@pytest.mark.parametrize(("software", "other"), [("ordinary", "tuned"), ("tuned", "ordinary")])
def test_the_factor_of_a_real_run_says_why_other_software_has_another_one(software, other, capsys):
    asked = ["--model", "llama3-8b", "--accelerator", "h100-sxm", "--nodes", "1", "--zone", "FRA"]

    shown = " ".join(printed(capsys, *asked, "--stack", software).split())

    own, others = (number(OVERRUNS[kind].central) for kind in (f"dense, {software}", f"dense, {other}"))
    assert re.search(rf"a real run takes {own} \(.*?\) times the best case of {software} software", shown)
    assert f"({others} times that of {other} software, whose best case is" in shown


@pytest.mark.parametrize(
    ("fill", "likely", "words"),
    [
        (0.7, 1.0, "fits with a probability of 99 %"),
        (0.98, 0.4, "may fit with a probability of 40 %"),
        (1.1, 0.05, "does not fit with a probability of 95 %"),
        (0.7, None, "fits"),
        (1.1, None, "does not fit"),
    ],
)
def test_a_layout_that_fits_as_predicted_and_seldom_in_fact_may_fit(
    fill: float, likely: float | None, words: str
) -> None:
    memory = MemoryPrediction(
        parts_bytes={}, total_bytes=fill, capacity_bytes=1.0, fits=fill <= 1, fit_probability=likely
    )

    assert re.sub(r"\[[^]]*\]", "", verdict(memory)) == words
