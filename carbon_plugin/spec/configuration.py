"""Define the arguments that a configuration file and the environment may state for every run to which they apply.

The struct is the one schema: it checks the file, names the environment variables, and is published as a JSON Schema for
editors. What belongs to one call only (the loggers, the step of a resumed run) is no part of it.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from carbon_plugin.spec.alerts import AlertFields
from carbon_plugin.spec.budget import BudgetFields
from carbon_plugin.spec.layout import ParallelLayout
from carbon_plugin.spec.loading import Role
from carbon_plugin.spec.options import OptionFields
from carbon_plugin.spec.site import Site
from carbon_plugin.spec.tags import TagFields

FILE_NAME = "carbon_plugin.yaml"
VARIABLE_PREFIX = "CARBON_PLUGIN_"
OTHER_VARIABLES = tuple(
    VARIABLE_PREFIX + name
    for name in (
        "AUTO", "BENCH_SIMULATED", "CACHE", "COLLECTOR", "CONFIG", "DISABLED", "INHERITED_RUN_DIR", "LAUNCH",
        "NODE_METER_PASSWORD", "NODE_METER_TOKEN", "NODE_METER_USER", "PROFILES", "RUNS", "RUN_ARGUMENTS", "RUN_ID",
        "RUN_KEY", "RUN_PROCESS", "WEBHOOK_SECRET",
    )
)  # fmt: skip
"""The environment variables of this package that state no field of a configuration."""
AUTO_ZONE = "auto"
"""The zone that asks the metadata service of a cloud where this machine is."""


class Configuration(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One instance holds the arguments of a monitor that a file and the environment state. None stands for "not
    stated".

    Args:
        site: Where the run happens: a zone such as "FRA", "auto" to ask the metadata service of the cloud, or the
            fields of a site.
        planned: The file of the forecast that the run carries; its path is taken from the file's own folder.
        run_dir: The directory that all ranks share; its path is taken from the file's own folder.
        name: What the run is called.
        total_steps: Length of the whole run in optimizer steps.
        tokens_per_step: Tokens of the whole job that one optimizer step processes.
        layout: Degrees of parallelism that live objects do not show.
        model_spec: Name of a preset, where live objects do not show the model.
        accelerator: Name of the device, where the driver does not tell it.
        programme: Name of the released model that the run counts towards.
        role: As what it counts.
        window_s: Length of an energy window in seconds.
        node_meter: Address of a meter of the whole node.
        quiet: Whether to say nothing at the start and the end.
        budget: What the run may use at most.
        alerts: When a deviation is an alert; `false` raises none.
        tags: Who answers for the run.
        options: What most jobs leave at its default.
    """

    site: Site | str | None = None
    planned: str | None = None
    run_dir: str | None = None
    name: str | None = None
    total_steps: int | None = None
    tokens_per_step: int | None = None
    layout: dict[str, Any] | None = None
    model_spec: str | None = None
    accelerator: str | None = None
    programme: str | None = None
    role: Role | None = None
    window_s: float | None = None
    node_meter: str | None = None
    quiet: bool | None = None
    budget: BudgetFields | None = None
    alerts: AlertFields | bool | None = None
    tags: TagFields | None = None
    options: OptionFields | None = None


SECTIONS: dict[str, type[Struct]] = {
    "site": Site,
    "budget": BudgetFields,
    "alerts": AlertFields,
    "layout": ParallelLayout,
    "tags": TagFields,
    "options": OptionFields,
}
"""The fields that hold fields of their own, each of which has an environment variable too."""
PATHS = ("planned", "run_dir")
"""The fields that hold a path."""
