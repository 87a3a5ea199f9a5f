"""Predict time, memory, floating-point operations and power of one training step by an analytical model."""

from carbon_plugin.callable_package import make_callable

make_callable(__name__)
