"""The snippets of docs/integrations.md and of the README run as they stand there, and leave a record of their steps.

What they leave open (`model`, `loader`, `trainer`) are small objects of the real framework, which `jobs/snippets.py`
makes. torchtitan's kernels for GPUs do not run here, and its trainer goes without them; Megatron-core has its real
`parallel_state` around an ordinary module. Ray Train has its program in docs/loops.md (`test_ray.py`).
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from carbon_plugin.audit.summary import summarise
from carbon_plugin.ledger.reader import LedgerFile, manifest_of
from carbon_plugin.ledger.records import Close
from carbon_plugin.ledger.verification.verify import verify_run
from tests.ledgers import ledger_of
from tests.pages import blocks_of

JOB = Path(__file__).parent / "jobs" / "snippets.py"
ROOT = Path(__file__).parents[2]
PAGE, README = "docs/integrations.md", "README.md"
STEPS = 6
TITAN = ("torchtitan", "spmd_types", "torchdata", "torch_checkpointing", "tokenizers", "datasets")
LISTS_NAMES = "What is public"
"""The section of the README whose block imports everything that is public, and trains nothing."""


@dataclass(frozen=True)
class Way:
    """How a snippet is run.

    Attributes:
        name: The function of `jobs/snippets.py` that makes what the snippet leaves open.
        page: The page that the snippet is on.
        section: Its section there.
        number: Which one of the section's snippets it is.
        needs: The modules that must be installed.
        ranks: In how many ranks of a launcher it runs; None where it needs no launcher.
        steps: How many steps its record must have.
        language: The language of the block.
    """

    name: str
    page: str
    section: str
    number: int = 0
    needs: tuple[str, ...] = ()
    ranks: int | None = None
    steps: int = STEPS
    language: str = "python"


QUICK = [
    Way("pytorch", PAGE, "Plain PyTorch"),
    Way("decorated", PAGE, "Plain PyTorch", 1),
    Way("log", PAGE, "Loggers of your own"),
    Way("readme", README, "During: two lines"),
]
SLOW = [
    Way("transformers", PAGE, "Hugging Face Trainer", needs=("transformers", "accelerate")),
    Way("trl", PAGE, "Hugging Face Trainer", needs=("trl", "datasets", "tokenizers")),
    Way("lightning", PAGE, "Lightning", needs=("lightning",), steps=8),
    Way("command_line", PAGE, "Lightning", needs=("lightning", "jsonargparse"), steps=8, language="yaml"),
    Way("lightning_readme", README, "During: two lines", 1, needs=("lightning",), steps=8),
    Way("fabric", PAGE, "Lightning Fabric", needs=("lightning",)),
    Way("accelerate", PAGE, "Accelerate", needs=("accelerate",)),
    Way("deepspeed", PAGE, "DeepSpeed", needs=("deepspeed",), ranks=1),
    Way("jax", PAGE, "JAX", needs=("jax",)),
    Way("megatron", PAGE, "Megatron-core", needs=("megatron",), ranks=1),
    Way("torchtitan", PAGE, "torchtitan", needs=TITAN, ranks=2),
]


def code_of(way: Way) -> str:
    in_section = [block.code for block in blocks_of(way.page, way.language) if block.section == way.section]
    return in_section[way.number]


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CARBON")}
    return kept | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu"} | variables


def run_in(folder: Path) -> tuple[Path, LedgerFile]:
    """Return the run directory in a folder, whose name a snippet may have chosen, and its ledger."""
    (run_dir,) = [path for path in (folder / "run", *folder.glob("runs/*")) if path.is_dir()]
    return run_dir, ledger_of(run_dir)


def run_and_read(way: Way, launcher, folder: Path) -> None:
    missing = [module for module in way.needs if find_spec(module) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; `make test` installs them")
    file = folder / ("snippet.py" if way.language == "python" else "config.yaml")
    file.write_text(code_of(way))
    env = environment(TMPDIR=str(folder), TORCH_EXTENSIONS_DIR=str(folder), CARBON_PLUGIN_RUN_DIR=str(folder / "run"))

    done = launcher.run(JOB, way.name, file, processes=way.ranks, env=env, cwd=folder)

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    run_dir, ledger = run_in(folder)
    assert [(r.reason, r.steps) for r in ledger.records if isinstance(r, Close)] == [("closed", way.steps)]
    assert manifest_of(ledger.records).factors["intensity"]["zone"] == "FRA"
    assert summarise(run_dir).energy.energy_j > 0
    assert verify_run(run_dir).ok


def test_every_snippet_of_both_pages_is_run_here():
    shown = [
        (page, block.language, block.section)
        for page in (PAGE, README)
        for block in blocks_of(page, "python", "yaml")
        if block.section != LISTS_NAMES
    ]
    ours = {(way.page, way.language, way.section, way.number) for way in (*QUICK, *SLOW)}

    assert sorted(key[:3] for key in ours) == sorted(shown)


@pytest.mark.parametrize("way", QUICK, ids=lambda way: way.name)
def test_snippet_that_needs_only_torch_runs_and_leaves_its_steps(way, launcher, tmp_path):
    run_and_read(way, launcher, tmp_path)


@pytest.mark.exhaustive
@pytest.mark.parametrize("way", SLOW, ids=lambda way: way.name)
def test_snippet_of_a_framework_runs_and_leaves_its_steps(way, launcher, tmp_path):
    run_and_read(way, launcher, tmp_path)


def test_names_that_the_readme_calls_public_can_be_imported():
    (block,) = [block for block in blocks_of(README, "python") if block.section == LISTS_NAMES]
    names: dict[str, object] = {}

    exec(block.code, names)

    assert callable(names["watch"])


SCRIPT = f"""
import torch
torch.distributed.init_process_group("gloo")
model = torch.nn.Linear(4, 4)
optimizer = torch.optim.AdamW(model.parameters())
for _ in range({STEPS}):
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
"""


@pytest.mark.exhaustive
@pytest.mark.parametrize("page", [PAGE, README])
def test_command_that_measures_an_unedited_script_leaves_its_steps(page, tmp_path):
    """The page starts eight processes a node, and the test two."""
    line, *_ = re.findall(r"carbon-plugin run [^`\n]*torchrun [^`\n]*", (ROOT / page).read_text("utf-8"))
    (tmp_path / "train.py").write_text(SCRIPT)
    command = shlex.split(line.replace("--nproc-per-node 8", "--standalone --nproc-per-node 2"))
    bin_first = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

    done = subprocess.run(
        command, cwd=tmp_path, env=environment(PATH=bin_first), capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    run_dir, ledger = run_in(tmp_path)
    assert [r.steps for r in ledger.records if isinstance(r, Close)] == [STEPS]
    assert manifest_of(ledger.records).world_size == 2
    assert verify_run(run_dir).ok
