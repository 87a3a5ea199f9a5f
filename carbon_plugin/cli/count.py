"""`carbon-plugin count`: a model that is no transformer, counted from the code that builds it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def count(
    target: Annotated[str, typer.Argument(help="Function or class that builds the model: package.module:function.")],
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input", help="Shape of an input of the forward pass, samples first: 8,3,224,224 or 4,2048:int64."
        ),
    ],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write the model block to.")] = None,
) -> None:
    """Count FLOPs, parameters and activation bytes of a model for `plan`, on the meta device: no memory, no data.

    Prints the `model:` block of a run file.
    """
    import msgspec
    import yaml

    from carbon_plugin.detect.factory import count_target

    block = yaml.safe_dump({"model": msgspec.to_builtins(count_target(target, inputs))}, sort_keys=False)
    if output is not None:
        output.write_text(block, encoding="utf-8")
    typer.echo(block, nl=False)
