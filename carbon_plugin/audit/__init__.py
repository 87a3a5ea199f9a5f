"""From the ledgers of a run to its audit, report and exports."""

from carbon_plugin.callable_package import make_callable

make_callable(__name__)
