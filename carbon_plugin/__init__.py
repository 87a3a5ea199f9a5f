"""Forecast the energy and carbon of distributed training before launch, measure them during the run, and audit them
after it.

The names in `__all__` are the public face. Each is imported when it is first used, so that `import carbon_plugin` loads
neither numpy nor torch. Adapters of frameworks are in `carbon_plugin.integrations`, one module each; exports of an
audit (SCI, model card, GHG Protocol) in `carbon_plugin.audit.exports`.
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from carbon_plugin.api import audit, predict, read_run, search
    from carbon_plugin.audit.result import AuditSummary
    from carbon_plugin.errors import CarbonPluginError
    from carbon_plugin.integrations.decorated import watch_training
    from carbon_plugin.integrations.pytorch import watch
    from carbon_plugin.monitor.monitor import CarbonMonitor
    from carbon_plugin.plan.forecast import Forecast, load_forecast, make_forecast, save_forecast
    from carbon_plugin.predict.result import StepPrediction
    from carbon_plugin.spec.alerts import AlertRules
    from carbon_plugin.spec.budget import CarbonBudget
    from carbon_plugin.spec.loading import load_run_spec
    from carbon_plugin.spec.run import RunSpec
    from carbon_plugin.spec.site import Site

__version__ = "0.1.0"

_PLACES = {
    "AlertRules": "spec.alerts",
    "AuditSummary": "audit.result",
    "CarbonBudget": "spec.budget",
    "CarbonMonitor": "monitor.monitor",
    "CarbonPluginError": "errors",
    "Forecast": "plan.forecast",
    "RunSpec": "spec.run",
    "Site": "spec.site",
    "StepPrediction": "predict.result",
    "load_forecast": "plan.forecast",
    "load_run_spec": "spec.loading",
    "make_forecast": "plan.forecast",
    "read_run": "api",
    "save_forecast": "plan.forecast",
    "search": "api",
    "watch": "integrations.pytorch",
    "watch_training": "integrations.decorated",
}
"""Public name → module that defines it."""

_CALLABLE_PACKAGES = ("audit", "predict")

__all__ = [
    "AlertRules",
    "AuditSummary",
    "CarbonBudget",
    "CarbonMonitor",
    "CarbonPluginError",
    "Forecast",
    "RunSpec",
    "Site",
    "StepPrediction",
    "audit",
    "load_forecast",
    "load_run_spec",
    "make_forecast",
    "predict",
    "read_run",
    "save_forecast",
    "search",
    "watch",
    "watch_training",
]


def __getattr__(name: str) -> object:
    if name in _CALLABLE_PACKAGES:
        return _import_module(f"{__name__}.{name}")
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(_import_module(f"{__name__}.{place}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
