"""`carbon-plugin count`: count a model that is no transformer from the code that builds it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from carbon_plugin.cli.options import Argument, Option
from carbon_plugin.cli.terminal import echo


def count(
    target: Annotated[str, Argument("Function or class that builds the model: package.module:function.")],
    inputs: Annotated[
        list[str],
        Option(
            "Shape of an input of the forward pass, samples first: 8,3,224,224 or 4,2048:int64.", names=("--input",)
        ),
    ],
    seq_len: Annotated[int | None, Option("Tokens of a sample, where the shapes of the inputs do not tell.")] = None,
    output: Annotated[Path | None, Option("File to write the model block to.", names=("-o", "--output"))] = None,
) -> None:
    """Count FLOPs, parameters and activation bytes of a model for `plan`. It needs no data and no memory for weights.

    Prints the `model:` block of a run file. The counts hold for the length of the inputs. A plan of another length
    counts again if it finds the code, and is refused if it does not.
    """
    import msgspec
    import yaml

    from carbon_plugin.detect.shape.factory import count_target
    from carbon_plugin.spec.parsing.saving import save

    counted = msgspec.to_builtins(count_target(target, inputs, seq_len=seq_len))
    block = yaml.safe_dump({"model": counted}, sort_keys=False)
    if output is not None:
        save(output, block)
    echo(block, end="")
