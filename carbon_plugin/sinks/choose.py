"""Make the sinks that a user names or hands over as `log=`. A mistake raises an error before training."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from msgspec import Struct

from carbon_plugin.errors import WatchError
from carbon_plugin.sinks.given import given_sink
from carbon_plugin.sinks.sink import Sink
from carbon_plugin.sinks.terminal import LoggingSink


class Kind(Struct, frozen=True, kw_only=True):
    """One kind of sink: its class as module and name, the package that it needs with the words to install it, and what
    the text after a colon names, if anything.
    """

    target: str
    package: str = ""
    install: str = ""
    takes: str = ""


KINDS = {
    "csv": Kind(target="files:CsvSink", takes="a file"),
    "jsonl": Kind(target="files:JsonLinesSink", takes="a file"),
    "logging": Kind(target="terminal:LoggingSink"),
    "progress": Kind(target="terminal:ProgressSink"),
    "tensorboard": Kind(
        target="event_file:TensorBoardSink", package="tensorboard", install="tensorboard", takes="a folder"
    ),
    "wandb": Kind(target="wandb_run:WandbSink", package="wandb", install="wandb"),
    "mlflow": Kind(target="mlflow_run:MlflowSink", package="mlflow", install="mlflow"),
    "prometheus": Kind(
        target="metrics.exporter:PrometheusSink",
        package="prometheus_client",
        install="'carbon-plugin[prometheus]'",
        takes="an address such as //127.0.0.1:9440",
    ),
    "otlp": Kind(
        target="metrics.otlp:OtlpSink",
        package="opentelemetry.exporter.otlp.proto.http",
        install="'carbon-plugin[otlp]'",
        takes="an address such as //localhost:4318",
    ),
    "comet": Kind(target="comet_experiment:CometSink", package="comet_ml", install="comet_ml"),
}
"""What a text as `log=` may name, such as "csv" or "csv:metrics/energy.csv"."""

_EXPECTED = (
    "a name of a logger, a function (metrics, step), an object with log(metrics, step=...), "
    "log_metrics(metrics, step=...) or add_scalar(name, value, step), a logging.Logger, or a list of these"
)


def sinks_of(log: Any) -> tuple[Sink, ...]:
    """Return the sinks for what a user handed over.

    Args:
        log: None, a logger, or a list or tuple of loggers: a text that begins with a name of `KINDS`, a function
            `(metrics, step)`, a `logging.Logger`, or an object such as a TensorBoard `SummaryWriter`, a W&B run, a
            Lightning logger or the module `mlflow`.

    Raises:
        WatchError: Something is no logger, its package is not installed, or its method cannot be called with figures
            and a step.
    """
    several = log if isinstance(log, list | tuple) else () if log is None else (log,)
    named = [one for one in several if isinstance(one, str)]
    places = [_place_of(one) for one in named]
    twice = next((one for at, one in enumerate(named) if places[at] in places[:at]), None)
    if twice is not None:
        raise WatchError(f"log names {twice!r} twice, so that each row would be written twice: name it once")
    return tuple(_sink_of(one) for one in several)


def _place_of(text: str) -> str:
    """Return the place that two loggers may not share: the file of a logger that writes one, or else the text
    itself.
    """
    name, _, target = text.partition(":")
    return os.path.realpath(target) if target and KINDS.get(name, KINDS["logging"]).takes == "a file" else text


def _sink_of(logger: Any) -> Sink:
    if isinstance(logger, Sink):
        return logger
    if isinstance(logger, str):
        return _named_sink(logger)
    if isinstance(logger, logging.Logger):
        return LoggingSink(logger)
    for find, name in _KNOWN_OBJECTS.items():
        if find(logger):
            known: Sink = _class_of(KINDS[name])(*(() if inspect.ismodule(logger) else (logger,)))
            return known
    return given_sink(logger, _EXPECTED)


def _is_wandb(logger: Any) -> bool:
    """Return whether this is the module `wandb` or a run of it."""
    if inspect.ismodule(logger):
        return logger.__name__ == "wandb"
    return type(logger).__module__.partition(".")[0] == "wandb" and hasattr(logger, "define_metric")


def _is_mlflow(logger: Any) -> bool:
    return inspect.ismodule(logger) and logger.__name__ == "mlflow"


_KNOWN_OBJECTS: dict[Callable[[Any], bool], str] = {_is_wandb: "wandb", _is_mlflow: "mlflow"}
"""Objects that need more than a call of their method, with the kind of sink that knows them."""


def _named_sink(text: str) -> Sink:
    name, colon, target = text.partition(":")
    kind = KINDS.get(name)
    if kind is None:
        near = get_close_matches(name, KINDS, n=1)
        hint = f", did you mean {near[0]!r}?" if near else f": expected one of {', '.join(KINDS)}, or {_EXPECTED}"
        raise WatchError(f"log is {text!r}, which names no logger{hint}")
    if colon and not (kind.takes and target):
        said = f"{kind.takes} after the colon" if kind.takes else f"{name!r} alone"
        raise WatchError(f"log is {text!r}, expected {said}")
    if kind.package and not is_installed(kind.package):
        raise WatchError(f"log is {text!r}, and {kind.package} is not installed: pip install {kind.install}")
    sink: Sink = _class_of(kind)(*((target,) if target else ()))
    return sink


def is_installed(package: str) -> bool:
    """Return whether a package can be imported. Only its parent packages are imported to find out."""
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # not even the package that it is part of
        return False


def _class_of(kind: Kind) -> Any:
    module, _, name = kind.target.partition(":")
    return getattr(import_module(f"carbon_plugin.sinks.{module}"), name)
