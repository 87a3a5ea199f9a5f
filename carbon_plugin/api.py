"""Give a script or a notebook what the commands `plan`, `plan --search` and `audit` answer, and the records of a run.

They are reached as `carbon_plugin.predict`, `carbon_plugin.search`, `carbon_plugin.audit` and `carbon_plugin.read_run`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from carbon_plugin.audit.result import AuditSummary
from carbon_plugin.errors import CarbonPluginError
from carbon_plugin.ledger.reader import LedgerRun
from carbon_plugin.plan.alternatives import SearchReport
from carbon_plugin.predict.result import StepPrediction
from carbon_plugin.spec.run import RunSpec

__all__ = ["RunRecords", "audit", "predict", "read_run", "search"]

FRAME_HEIGHT_PX = 640
"""Height of the first screen of a report in a notebook."""


class RunRecords(LedgerRun, frozen=True, kw_only=True):
    """The ledgers of one run directory. In a notebook they show the first screen of the run's report."""

    directory: str

    def _repr_html_(self) -> str | None:
        """Return the first screen in a frame of its own, so that its styles change nothing else in the notebook.

        The result is None for ledgers that cannot be added up; a notebook then shows them as text.
        """
        from html import escape

        from carbon_plugin.audit.report.page import render_first_screen

        try:
            page = render_first_screen(audit(self.directory))
        except CarbonPluginError:
            return None
        style = f"width:100%;height:{FRAME_HEIGHT_PX}px;border:0"
        return f'<iframe srcdoc="{escape(page)}" sandbox="allow-popups" style="{style}"></iframe>'


def predict(spec: RunSpec) -> StepPrediction:
    """Predict one optimizer step of a run: time, memory, floating-point operations and power. It needs no GPU.

    Args:
        spec: The run. A layout that the spec leaves open ("auto") is searched first, as `carbon-plugin plan` does.

    Returns:
        The prediction: `step_time_s` in seconds with its 80 % range, `breakdown_s` by term, `memory` in bytes a device,
        `gpu_power_w` in watts, `mfu` and `hfu` as shares of the peak, and every assumption. A layout that is stated
        and does not fit in memory is predicted all the same, with `memory.fits` false.

    Raises:
        InfeasibleLayoutError: The layout breaks a rule of the model, the cluster or the batch, or none fits.
        SpecError: The device lacks the precision, or the model cannot have that sequence length.
    """
    from carbon_plugin.plan.search.layouts import search_layout
    from carbon_plugin.predict.step import predict_step
    from carbon_plugin.spec.run import check_is_spec, with_layout

    check_is_spec(spec)
    return predict_step(spec if spec.layout is not None else with_layout(spec, search_layout(spec).layout))


def search(
    spec: RunSpec,
    *,
    nodes: Sequence[int] | int = (),
    accelerators: Sequence[str] | str = (),
    zones: Sequence[str] | str = (),
    deadline_s: float | None = None,
) -> SearchReport:
    """Search all layouts of a run, on the clusters and in the places that are named, as `plan --search` does.

    Args:
        spec: The run. What it states in `layout_held` is kept; a whole `layout` of it is searched anew.
        nodes: Numbers of nodes to try. Default: the one of the spec.
        accelerators: Names of accelerators to try, such as "b200". Default: the one of the spec.
        zones: Grid zones to try, such as "SWE". Default: the one of the spec.
        deadline_s: Longest time of the whole run, in seconds. Default: none.

    Returns:
        The options that no other beats in expected time, energy and carbon, by rising time, and what was skipped.

    Raises:
        InfeasibleLayoutError: No layout exists, fits in memory, or meets the deadline; it says what would help.
        SpecError: An argument or the spec holds a value that cannot be used.
        FootprintError: A zone is not known.
    """
    from carbon_plugin.plan.alternatives import Question, search_alternatives
    from carbon_plugin.spec.run import check_is_spec

    check_is_spec(spec)
    question = Question(
        nodes=(nodes,) if isinstance(nodes, int) else tuple(nodes),
        accelerators=_texts(accelerators),
        zones=_texts(zones),
        deadline_s=deadline_s,
    )
    return search_alternatives(spec, question).report


def audit(run_dir: str | os.PathLike[str], *, anchors: Sequence[str] | str = ()) -> AuditSummary:
    """Add up the ledgers of a run and check them, as `carbon-plugin audit`; no file is written.

    Args:
        run_dir: The run directory, with the ledgers of all nodes and attempts.
        anchors: Heads of the ledgers that were logged elsewhere (`carbon/ledger_head`), 32 hex digits each. Default:
            none, so that the ledgers are checked against themselves only.

    Returns:
        The audit, as in report.json: energy in joules by rung and phase, carbon in kilograms CO2e with ranges, the
        error of the forecast by cause, events, and in `verification` whether the ledgers are whole. Ledgers that are
        torn, killed or tampered with are still added up.

    Raises:
        LedgerError: The directory holds no ledger that names who wrote it, or one of an unknown version.
    """
    from carbon_plugin.audit.summary import summarise

    return summarise(run_dir, _texts(anchors))


def read_run(run_dir: str | os.PathLike[str]) -> RunRecords:
    """Read all ledgers of a run into memory. In a notebook the result shows the first screen of the run's report.

    Args:
        run_dir: The run directory.

    Returns:
        The identity of the run, and its ledgers by node and attempt, each with its records. Lines that are torn or were
        edited are in `problems`.

    Raises:
        LedgerError: The directory holds no ledger, a file cannot be read, or is of an unknown version.
    """
    from carbon_plugin.ledger.reader import read_run as read

    found = read(run_dir)
    return RunRecords(identity=found.identity, files=found.files, directory=os.fspath(run_dir))


def _texts(given: Sequence[str] | str) -> tuple[str, ...]:
    """Return the texts that were given; a text alone counts as one, not as its letters."""
    return (given,) if isinstance(given, str) else tuple(given)
