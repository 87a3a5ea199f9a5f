"""The command line as a whole: exit codes, one-line errors, lazy commands, quiet ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import carbon_plugin
from carbon_plugin.cli import main as cli
from carbon_plugin.errors import MeterError
from carbon_plugin.spec.numbers.amounts import days_phrase

BIN = str(Path(sys.executable).parent / "carbon-plugin")


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([BIN, *arguments], capture_output=True, text=True, check=False, cwd=cwd)


def test_help_lists_every_command_without_loading_one():
    code = "import sys; from carbon_plugin.cli.main import run; run(['--help']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    for name in cli.COMMANDS:
        assert f"\n  {name} " in done.stdout
    loaded = done.stdout.splitlines()[-1]
    for module in ("carbon_plugin.cli.commands.plan", "carbon_plugin.predict", "numpy", "torch", "rich"):
        assert f"'{module}'" not in loaded


DOCUMENTS = ("export", "count", "run", "agent", "fleet")
"""Commands whose output is a document for a machine in any case, or that have commands of their own."""


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_can_be_loaded_and_describes_itself(name, capsys):
    assert cli.run([name, "--help"]) == 0

    printed = capsys.readouterr().out
    assert f"carbon-plugin {name} [OPTIONS]" in printed
    assert "--json" in printed or name in DOCUMENTS


def test_the_version_is_printed(capsys):
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"{carbon_plugin.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["paln"], ["paln", "see carbon-plugin --help"]),
        (["--nope"], ["--nope"]),
        (["plan", "--nope"], ["plan: ", "--nope", "see carbon-plugin plan --help"]),
        (["plan", "--nodes", "many"], ["plan: ", "'--nodes'", "it is 'many'"]),
        (["plan", "--nodes=many"], ["'--nodes'", "it is 'many'"]),
        (["plan", "--nodes", "1", "--nodes", "1.5"], ["'--nodes'", ", it is '1.5'; see"]),
        (["plan", "--tokens=", "--seq-len", "100"], ["'--tokens'", "it is ''"]),
        (["profiles", "show"], ["profiles show: ", "name"]),
        (["scale", "--zone"], ["'--zone'", "argument"]),
        (["plan", "--price", "inf"], ["'--price'", "a number up to", "it is 'inf'"]),
        (["plan", "--tokens", "1e400"], ["'--tokens'", "a number up to", "it is '1e400'"]),
        (["scale", "--deadline-days", "-inf"], ["'--deadline-days'", "it is '-inf'"]),
        (["plan", "--nodes", "\u0663"], ["'--nodes'", "a whole number"]),
        (["plan", "--seed", "-1"], ["'--seed'", "a whole number of at least 0, it is '-1'"]),
        (["whatif", "runs/a", "--seed", "-1"], ["'--seed'", "at least 0"]),
        (["audit", "runs/a", "--out", ""], ["'--out'", "expected a path, it is ''"]),
        (["audit", ""], ["expected a path, it is ''"]),
        (["plan", "--model", ""], ["'--model'", "expected a text, it is ''"]),
        (["plan", "--compare", ""], ["'--compare'", "expected a text, it is ''"]),
        (["fleet", "report", "store", "--by", " "], ["'--by'", "expected a text, it is ' '"]),
        (["fleet", "report", "store", "--by", ","], ["--by ','", "expected some of team"]),
        (["list", "models", ""], ["expected a text, it is ''"]),
        (["plan", "--pue", "1e-300"], ["'--pue'", "at least 1e-30, it is '1e-300'"]),
        (["config", "--from", "no/folder"], ["--from: no/folder is no folder"]),
        (["run", "--run-dir", "/dev/null", "--", "true"], ["--run-dir: /dev/null is a file, expected a directory"]),
        (["scale", "--seed", "-1"], ["'--seed'", "at least 0"]),
    ],
)
def test_a_mistyped_command_line_is_one_line_that_says_what_and_where(arguments, words, capsys):
    assert cli.run(arguments) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert [word for word in words if word.lower() not in captured.err.lower()] == []


def test_a_value_of_an_option_given_twice_is_named_once_and_no_word_of_a_library_is_printed(capsys):
    assert cli.run(["plan", "--nodes", "1", "--nodes", "1.5"]) == 2
    assert capsys.readouterr().err.count("it is") == 1
    assert cli.run(["list", "foo"]) == 2
    assert "Value error" not in capsys.readouterr().err


ONE_CARD = ["plan", "--model", "llama3-8b", "--zone", "FRA", "--nodes", "1", "--accelerator"]


def test_devices_per_node_below_one_do_not_name_the_room_of_a_node_that_more_would_change(capsys):
    for accelerator in ("rtx-4090", "h100-sxm"):
        assert cli.run([*ONE_CARD, accelerator, "--tokens", "1e9", "--devices-per-node", "0"]) == 2
        said = capsys.readouterr().err
        assert "cluster.devices_per_node: expected at least 1" in said
        assert "got 0" in said
        assert "expected 1 to" not in said


def test_a_full_fine_tune_that_does_not_fit_on_one_card_is_told_of_more_cards_and_of_adapters(capsys):
    small = ["--tokens", "1e7", "--seq-len", "1024", "--global-batch-size", "8"]

    assert cli.run([*ONE_CARD, "rtx-4090", "--devices-per-node", "1", *small]) == 3

    said = capsys.readouterr().err
    assert "to make room: 8 nodes (8 devices), or --devices-per-node 8, " in said
    assert "model.trainable_fraction: 0.01, as of LoRA adapters" in said


@pytest.mark.parametrize("accelerator", ["gh200", "rtx-4090", "l40s"])
def test_devices_a_node_that_are_proposed_to_make_room_can_be_planned(capsys, accelerator):
    run = [*ONE_CARD, accelerator, "--tokens", "1e7", "--seq-len", "1024", "--precision", "fp32"]

    assert cli.run([*run, "--devices-per-node", "1", "--model", "llama3-8b"]) == 3
    proposed = re.search(r"--devices-per-node (\d+)", capsys.readouterr().err)

    assert (proposed is None) == (accelerator == "gh200"), "only a card has servers that hold more of it"
    if proposed is not None:
        assert cli.run([*run, "--devices-per-node", proposed[1], "--model", "llama3-8b"]) == 0


def test_no_device_is_asked_for_that_nobody_makes(capsys):
    far = ["plan", "--model", "llama3-70b", "--zone", "FRA", "--nodes", "1", "--tokens", "1e9"]

    assert cli.run([*far, "--accelerator", "rtx-4090"]) == 3
    alone = capsys.readouterr().err
    assert cli.run([*far, "--accelerator", "rtx-4090", "--devices-per-node", "8"]) == 3
    together = capsys.readouterr().err

    assert "no single change makes room; try more nodes together with an accelerator of more memory" in alone
    assert "to make room" not in alone
    assert re.search(r"to make room: .* nodes .*, or devices of \d+ GiB", together)


def test_tokens_that_are_far_below_a_whole_step_are_said_to_be_rounded(capsys):
    asked = [*ONE_CARD, "h100-sxm", "--dp-shard", "8", "--zero-stage", "3", "--recompute", "full"]

    assert cli.run([*asked, "--tokens", "100", "--global-batch-size", "8", "--micro-batch-size", "1"]) == 0
    assert "100 tokens are rounded up to 1 whole step of 32,768 tokens" in " ".join(capsys.readouterr().out.split())
    assert cli.run([*asked, "--tokens", "1e9", "--global-batch-size", "8", "--micro-batch-size", "1"]) == 0
    assert "rounded up" not in capsys.readouterr().out


def test_a_deadline_is_in_days_and_one_that_is_no_number_is_refused_by_its_flag(capsys):
    asked = [*ONE_CARD, "h100-sxm", "--tokens", "1e12", "--deadline-days"]

    assert cli.run([*asked, "nan"]) == 2
    assert "'--deadline-days': expected a number" in capsys.readouterr().err
    assert cli.run([*asked, "-1"]) == 2
    assert "the deadline (--deadline-days) is -1, expected a positive number of days" in capsys.readouterr().err
    assert [days_phrase(days) for days in (1, 0.5, 2, 189.21)] == ["1 day", "0.5 days", "2 days", "189 days"]


def test_a_spec_in_place_of_a_model_is_told_how_it_is_used(capsys, tmp_path):
    spec = tmp_path / "resnet.yaml"
    spec.write_text("model: {type: counted, name: resnet}\n", encoding="utf-8")

    assert (
        cli.run(
            [
                "plan",
                "--model",
                str(spec),
                "--accelerator",
                "h100-sxm",
                "--zone",
                "FRA",
                "--steps",
                "10",
                "--nodes",
                "1",
            ]
        )
        == 2
    )

    said = capsys.readouterr().err
    assert f"{spec}: is a spec (YAML)" in said
    assert f"carbon-plugin plan {spec} --accelerator" in said


def test_the_kernel_of_a_tpu_has_no_name_of_a_cuda_kernel(capsys):
    asked = ["plan", "--model", "llama3-8b", "--accelerator", "tpu-v5p", "--nodes", "16", "--tokens", "1e9"]
    layout = ["--dp-shard", "64", "--zero-stage", "3", "--recompute", "full", "--micro-batch-size", "1"]

    assert cli.run([*asked, *layout, "--zone", "FRA"]) == 0

    assert "attention kernel fused," in " ".join(capsys.readouterr().out.split())


def test_no_words_at_all_show_the_help(capsys):
    assert cli.run([]) == 0
    assert "Commands:" in capsys.readouterr().out


def test_a_user_error_is_one_line_on_standard_error_and_2(tmp_path: Path):
    (tmp_path / "run.yaml").write_text("model: llama3-9b\ncluster: {accelerator: h100-sxm, nodes: 1}\n")

    done = run("plan", "run.yaml", "--steps", "1", "--seq-len", "8", "--global-batch-size", "8", "--zone", "FRA",
               cwd=tmp_path)  # fmt: skip

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: run.yaml:1: model: unknown model 'llama3-9b'; nearest: llama3-8b")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MeterError("GPU 3:\n  lost"), "error: GPU 3: lost\n"),
        (PermissionError(13, "Permission denied", "/locked/run.yaml"), "error: /locked/run.yaml: Permission denied\n"),
        (OSError("disk on fire"), "error: disk on fire\n"),
    ],
)
def test_an_expected_failure_of_a_command_is_one_line_and_2(error, line, monkeypatch, capsys):
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "_load", lambda name, command: fail)

    assert cli.run(["doctor"]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", line)


def test_an_unexpected_failure_is_not_hidden(monkeypatch):
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "_load", lambda name, command: fail)

    with pytest.raises(ZeroDivisionError):
        cli.run(["doctor"])


def test_a_command_whose_library_is_missing_says_which(monkeypatch, capsys):
    missing = cli.Command("carbon_plugin_extra.missing:command", "Needs an extra.")
    monkeypatch.setitem(cli.COMMANDS, "extra", missing)

    assert cli.run(["extra"]) == 2
    assert capsys.readouterr().err == ("error: the command extra needs carbon_plugin_extra, which is not installed\n")
    assert cli.run(["--version"]) == 0


def test_ctrl_c_ends_with_130_and_no_traceback(tmp_path: Path):
    code = (
        "import sys, time; from carbon_plugin.cli import main\n"
        "def wait(): print('ready', flush=True); time.sleep(600)\n"
        "main._load = lambda name, command: wait\n"
        "sys.exit(main.run(['doctor']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=240)

    assert process.returncode == 130
    assert "Traceback" not in errors


def test_a_reader_that_goes_away_is_not_an_error():
    read, write = os.pipe()
    process = subprocess.Popen([BIN, "profiles", "--json"], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    os.close(read)
    _, errors = process.communicate(timeout=240)

    assert (process.returncode, errors) == (cli.READER_GONE, "")


QUESTION = (
    "plan", "--model", "llama3-8b", "--accelerator", "h100-sxm", "--nodes", "1", "--tokens", "1e9", "--zone", "FRA",
)  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--seq-len", "0"), "error: command line: training: seq_len is 0, expected a positive integer"),
        (("--layout", "fast"), "error: command line: layout: expected auto or a mapping, got 'fast'"),
        (("--layout", "auto", "--tp", "0"), "error: command line: layout: tp is 0, expected a positive integer"),
        (("--price", "-1"), "error: command line: price_usd_per_device_hour: expected 0 or more, got -1"),
        (("--pue", "nan"), "error: plan: Invalid value for '--pue': expected a number up to 1e+30 in size"),
        (("--compare", ","), "error: comparison: ',' is not of the form zone=SWE,USA"),
        (("--compare", "pause_above=1e-300"), "error: comparison: pause_above is '1e-300', expected a number"),
        (("--search-zone", " , "), "error: --search-zone is ' , ', expected words with commas between them"),
    ],
)
def test_a_flag_that_cannot_be_is_one_line_that_names_it(flags, message, capsys):
    assert cli.run([*QUESTION, *flags]) == 2

    said = capsys.readouterr().err
    assert said.startswith(message)
    assert said.count("\n") == 1


FITS_NOT = (
    "--dp-replicate", "8", "--micro-batch-size", "16", "--recompute", "none", "--global-batch-size", "1024",
    "--seq-len", "8192",
)  # fmt: skip


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (0, (*QUESTION, *FITS_NOT, "--force")),
        (2, ("plan", "--model", "llama3-8b")),
        (3, (*QUESTION, *FITS_NOT)),
        (3, (*QUESTION, "--model", "llama3-405b")),
    ],
)
def test_the_real_command_line_ends_with_the_documented_code(code, arguments, tmp_path: Path):
    done = run(*arguments, cwd=tmp_path)

    assert done.returncode == code, done.stderr
    assert code in cli.EXIT_CODES
    assert (done.stderr.count("\n"), done.stdout == "") == ((0, False) if code == 0 else (1, True))


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (2, ("plan", "--nodes", "many")),
        (2, ("paln",)),
        (2, ("plan", "missing.yaml")),
        (2, (*QUESTION, "--zone", "Atlantis")),
        (2, (*QUESTION, "--tp", "0")),
        (2, ("audit", "missing")),
        (3, (*QUESTION, "--tp", "3")),
        (3, (*QUESTION, "--tp", "2", "--ep", "4")),
        (3, (*QUESTION, "--nodes", "64", "--global-batch-size", "7")),
        (3, (*QUESTION, "--deadline-days", "0.001")),
        (3, (*QUESTION, *FITS_NOT, "--compare", "zone=SWE")),
    ],
)
def test_every_kind_of_refusal_has_its_code(code, arguments, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    assert cli.run(arguments) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)


def test_degrees_beside_layout_auto_replace_the_layout_of_the_file(tmp_path: Path, capsys):
    spec = tmp_path / "run.yaml"
    spec.write_text(
        "model: llama3-8b\ncluster: {accelerator: h100-sxm, nodes: 2}\nsite: {zone: FRA}\n"
        "training: {seq_len: 4096, global_batch_size: 64, steps: 10}\nlayout: {tp: 2, dp_shard: 8, zero_stage: 3}\n"
    )

    assert cli.run(["plan", str(spec), "--layout", "auto", "--tp", "4", "--json"]) == 0
    forecast = json.loads(capsys.readouterr().out)
    assert forecast["spec"]["layout"]["tp"] == 4
    assert forecast["layout_source"].startswith("auto with tp 4: fastest of ")


def test_the_page_of_commands_has_every_exit_code():
    page = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")

    assert [code for code, meaning in cli.EXIT_CODES.items() if f"| {code} | {meaning} |" not in page] == []


def test_a_layout_that_does_not_fit_writes_no_forecast_unless_it_is_forced(tmp_path: Path, capsys):
    forecast = tmp_path / "forecast.json"

    assert cli.run([*QUESTION, *FITS_NOT, "-o", str(forecast)]) == 3
    assert not forecast.exists()
    said = capsys.readouterr().err
    assert "does not fit: needs" in said
    assert "--force" in said

    assert cli.run([*QUESTION, *FITS_NOT, "-o", str(forecast), "--force"]) == 0
    assert "does not fit" in capsys.readouterr().out
    assert not json.loads(forecast.read_text())["prediction"]["memory"]["fits"]


def test_a_part_of_a_layout_is_kept_and_the_rest_is_searched_and_what_follows_from_nothing_is_assumed(capsys):
    assert cli.run([*QUESTION, "--tp", "4", "--json"]) == 0
    forecast = json.loads(capsys.readouterr().out)

    assert forecast["spec"]["layout"]["tp"] == 4
    assert forecast["layout_source"].startswith("auto with tp 4: fastest of ")
    assert (
        cli.run([*QUESTION, "--tp", "8", "--json"]) == 0
    )  # all devices of the node: micro-batch and recompute are open
    assert json.loads(capsys.readouterr().out)["layout_source"].startswith("auto with tp 8: fastest of ")
    assert "layout.sequence_parallel" in {assumption["field"] for assumption in forecast["assumptions"]}


def test_an_error_past_the_reading_of_a_spec_names_its_file_too(tmp_path: Path, capsys):
    spec = tmp_path / "run.yaml"
    spec.write_text(
        "model: llama3-8b\ncluster: {accelerator: h100-sxm, nodes: 1}\nsite: {zone: Farnce}\n"
        "training: {seq_len: 8192, global_batch_size: 8, steps: 10}\nlayout: {dp_replicate: 8}\n"
    )

    assert cli.run(["plan", str(spec)]) == 2
    assert f"error: {spec}:3: site.zone: zone 'Farnce' is unknown; nearest: France" in capsys.readouterr().err


@pytest.mark.parametrize("with_file", [True, False])
def test_an_error_past_the_reading_of_a_spec_names_the_option_that_its_value_is_from(with_file, tmp_path, capsys):
    spec = tmp_path / "run.yaml"
    spec.write_text(
        "model: llama3-8b\ncluster: {accelerator: h100-sxm, nodes: 1}\nsite: {zone: FRA}\n"
        "training: {seq_len: 8192, global_batch_size: 8, steps: 10}\nlayout: {dp_replicate: 8}\n"
    )
    run = [str(spec)] if with_file else ["--model=llama3-8b", "--accelerator=h100-sxm", "--nodes=1", "--steps=10"]

    assert cli.run(["plan", *run, "--zone", "Farnce"]) == 2
    assert "error: command line: site.zone: zone 'Farnce' is unknown; nearest: France" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags", [(), ("--compare", "zone=SWE,USA"), ("--search", "--search-accelerator", "h100-sxm,b200-sxm")]
)
def test_a_narrow_terminal_cuts_no_number_short(flags, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "45")

    assert cli.run([*QUESTION, *flags]) == 0
    assert "…" not in capsys.readouterr().out


def test_json_is_the_only_thing_on_standard_output():
    done = run("plan", "--model", "gpt2", "--accelerator", "a100", "--nodes", "1", "--steps", "10", "--seq-len", "1024",
               "--global-batch-size", "64", "--zone", "NO", "--json")  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["spec"]["site"]["zone"] == "NO"


WRITERS = {
    "plan": [*ONE_CARD, "h100-sxm", "--steps", "9", "-o"],
    "search": [*ONE_CARD, "h100-sxm", "--steps", "9", "--search", "-o"],
    "compare": [*ONE_CARD, "h100-sxm", "--steps", "9", "--compare", "zone=SWE", "-o"],
    "count": ["count", "torch.nn:Identity", "--input", "1,2", "-o"],
}


@pytest.mark.parametrize("command", WRITERS.values(), ids=WRITERS)
def test_a_pipe_that_nobody_reads_is_refused_as_a_place_for_a_result(command, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.json")

    assert cli.run([*command, str(tmp_path / "pipe.json")]) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {tmp_path / 'pipe.json'}: it is a pipe that no program reads")
    assert captured.err.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_standard_output_is_named(unbuffered):
    environ = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [BIN, "--version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environ
        )

    assert done.returncode == 2
    assert done.stderr.startswith("error: standard output: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["plan", *QUESTION[1:], "--search", "--deadline-days", "30"],
        ["scale", "--compute", "1e20", "--zone", "FRA"],
        ["profiles", "show", "h100-sxm", "--embodied"],
        ["doctor"],
    ],
    ids=lambda words: words[0],
)
def test_no_command_ends_a_line_with_blanks(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.run(words) == 0

    assert [line for line in capsys.readouterr().out.splitlines() if line != line.rstrip()] == []
