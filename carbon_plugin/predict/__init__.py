"""The analytical model of one training step: time, memory, floating-point operations, power."""

from carbon_plugin.callable_package import make_callable

make_callable(__name__)
