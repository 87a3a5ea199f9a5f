"""Make the audit, the report and the exports of a run from its ledgers."""

from carbon_plugin.callable_package import make_callable

make_callable(__name__)
