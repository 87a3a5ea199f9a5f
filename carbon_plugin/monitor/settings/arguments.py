"""List the arguments of `CarbonMonitor`, which every adapter takes.

Nothing is imported here, so that a script that measures a training loads the monitor when it makes one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from pathlib import Path

    from carbon_plugin.monitor.settings.options import MonitorOptions
    from carbon_plugin.plan.forecast import Forecast
    from carbon_plugin.spec.alerts import AlertRules
    from carbon_plugin.spec.budget import CarbonBudget
    from carbon_plugin.spec.hardware.cluster import Accelerator
    from carbon_plugin.spec.layout import ParallelLayout
    from carbon_plugin.spec.models.model import CountedModel, TransformerModel
    from carbon_plugin.spec.site import Site


class MonitorArguments(TypedDict, total=False):
    """Arguments of `CarbonMonitor` and of every adapter, all optional. None stands for "not stated".

    Args:
        site (Site | Mapping | str, default None): Where the run happens: a `Site`, its fields, a grid zone such as
            "FRA", or "auto" to ask the metadata service of the cloud (docs/configuration.md). The zone of the forecast
            alone, or none, stands for the site of the forecast. Without one in either, energy is measured and carbon
            is not stated.
        planned (Forecast | str | Path, default None): The forecast that the run carries, or its file, which
            `carbon-plugin plan -o` writes.
        run_dir (str | Path, default None): The directory that all ranks share. Without one: CARBON_PLUGIN_RUN_DIR, or
            runs/NAME with the id of the job, or with the date where there is none.
        name (str, default None): What the run is called. Without one: the name in the plan, else that of the script.
        total_steps (int, optimizer steps, default None): Length of the whole run. Without it, and without a plan or a
            trainer that tells it, nothing is projected.
        step (int, optimizer steps, default None): Steps that were done before this process. Without it: as the states
            of the optimizer or the scheduler tell (docs/resume.md).
        tokens_per_step (int, tokens of the whole job, default None): Tokens that one optimizer step processes.
            They come before what a trainer counts.
        layout (ParallelLayout | Mapping, default None): Degrees of parallelism that live objects do not show. What is
            seen wins.
        model_spec (TransformerModel | CountedModel | str, default None): The model, or the name of a preset, where
            live objects do not show it. What is seen wins.
        accelerator (Accelerator | str, default None): The device, or its name, where the driver does not tell it.
        programme (str, default None): Name of the released model that the run counts towards.
        role (str, default None): As what it counts: final, ablation, failed, sweep, evaluation or data.
        window_s (float, seconds, default 10): Length of an energy window, at least 5. With more than 40 nodes it grows.
        node_meter (str, default None): Address of a meter of the whole node, such as "redfish://bmc7"
            (docs/meters.md). Without one: CARBON_PLUGIN_NODE_METER.
        log (str | function | object | list, default None): Where the figures go, once a window, on rank 0: a name such
            as "csv", "tensorboard", "wandb" or "prometheus" (docs/loggers.md lists them), a function `(metrics, step)`,
            an object with `log`, `log_metrics` or `add_scalar`, a `logging.Logger`, or a list of these. Each is called
            on a thread of its own.
        budget (CarbonBudget | Mapping, default None): What the run may use at most, and what happens when the
            projection says that it uses more (docs/budgets.md).
        alerts (AlertRules | Mapping | bool, default True): When a deviation of step time or power is an alert, and
            where alerts go (docs/alerts.md). False raises none.
        tags (Mapping, default None): Who answers for the run, for accounts of a fleet: team, project, owner,
            cost_centre and user. Without them: project and user of the SLURM job.
        quiet (bool, default False): Whether to say nothing at the start and the end.
        options (MonitorOptions | Mapping, default MonitorOptions()): Options that most jobs leave at their defaults.
    """

    site: Site | Mapping[str, Any] | str | None
    planned: Forecast | str | Path | None
    run_dir: str | Path | None
    name: str | None
    total_steps: int | None
    step: int | None
    tokens_per_step: int | None
    layout: ParallelLayout | Mapping[str, Any] | None
    model_spec: TransformerModel | CountedModel | str | None
    accelerator: Accelerator | str | None
    programme: str | None
    role: str | None
    window_s: float
    node_meter: str | None
    log: Any
    budget: CarbonBudget | Mapping[str, Any] | None
    alerts: AlertRules | Mapping[str, Any] | bool | None
    tags: Mapping[str, str] | None
    quiet: bool
    options: MonitorOptions | Mapping[str, Any] | None
