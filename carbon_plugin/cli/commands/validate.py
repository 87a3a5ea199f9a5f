"""`carbon-plugin validate`: compare the predictor and three baselines with published measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from carbon_plugin.cli.options import AsJson, Option
from carbon_plugin.cli.terminal import echo_json
from carbon_plugin.errors import SpecError


def validate(
    records: Annotated[
        Path | None,
        Option("Rows of your own (YAML in the published schema, or vTrain's CSV)."),
    ] = None,
    carbon: Annotated[bool, Option("Published energy and carbon instead of step times.")] = False,
    explain: Annotated[
        str | None,
        Option("One row by its id: the predicted step, term by term.", metavar="ROW"),
    ] = None,
    power: Annotated[bool, Option("Measured power instead of step times.")] = False,
    as_json: AsJson = False,
) -> None:
    """Predict every published row and sum up the errors. Constants for a fitted row are fitted without its model."""
    if explain is not None and (carbon or power):
        raise SpecError(f"--explain {explain}: explains a step time, expected no --carbon or --power")
    if carbon:
        from carbon_plugin.cli.tables.validate_carbon import validate_carbon

        if records is not None:
            raise SpecError(f"--records {records}: published carbon has rows of its own, expected no --records")
        validate_carbon(as_json=as_json)
        return
    if power:
        from carbon_plugin.cli.tables.validate_power import print_power

        if records is not None:
            raise SpecError(f"--records {records}: measured power has rows of its own, expected no --records")
        print_power(as_json=as_json)
        return
    if explain is not None:
        from carbon_plugin.cli.tables.validate_explain import print_explanation

        print_explanation(explain, records, as_json=as_json)
        return

    from carbon_plugin.validate.step import step_time as validation

    result = validation.validate(records)
    if as_json:
        echo_json(result)
    else:
        from carbon_plugin.cli.tables.validate_table import print_own_rows, print_validation

        print_validation(result, own=records is not None)
        if records is not None:
            print_own_rows(result, records)
    if records is not None and not (result.summary or result.hybrids or result.memory or result.fits):
        why = "it holds no row" if not result.rows else "every row was skipped; the reason of each is above"
        raise SpecError(f"{records}: nothing could be compared: {why}")
