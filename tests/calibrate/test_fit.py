"""The fit finds constants that made the rows, resists an odd row, and the shipped constants are its own result."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import numpy as np
import pytest

from carbon_plugin.calibrate.fit import (
    THREADS_VARIABLE,
    Fit,
    FitParameter,
    fit,
    fit_populations,
    fitted_step_time_s,
    leave_out,
    problem_of,
)
from carbon_plugin.calibrate.parameters import CAPPED_H100, shipped_parameters
from carbon_plugin.calibrate.rows.published import published_rows
from carbon_plugin.calibrate.rows.table import predict, select, tabulate
from carbon_plugin.calibrate.shipped import compare, device_constants, refit
from carbon_plugin.errors import SpecError
from carbon_plugin.predict.rates.laws import attention_rate, peak_16bit
from carbon_plugin.spec.hardware.profiles import load_accelerator


@pytest.fixture(scope="module")
def a100_rows():
    rows = [row for row in published_rows()[0] if row.source in ("sc21", "korthikanti")]
    table = tabulate(rows)
    return replace(table, sheet=replace(table.sheet, framework_factor=np.ones(len(rows))))


def everywhere(table):
    return table.measured_s > 0


GEMM = FitParameter("gemm", "gemm_share", everywhere, 0.5)


def made_with(table, factor: float):
    constants = replace(table.prior, gemm_share=table.prior.gemm_share * factor)
    return replace(table, measured_s=np.asarray(predict(table, constants).total))


def test_a_known_constant_is_recovered(a100_rows) -> None:
    fitted = fit(made_with(a100_rows, 0.8), [GEMM])
    assert fitted.multiplier("gemm") == pytest.approx(0.8, rel=0.01)


def test_absent_scipy_is_named_without_blaming_the_command_that_was_not_called(a100_rows, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(SpecError) as caught:
        fit(a100_rows, [GEMM])
    assert str(caught.value).startswith("scipy is missing")
    assert "carbon-plugin[calibrate]" in str(caught.value)


def test_a_device_with_a_power_cap_ships_the_attention_that_its_own_rows_have() -> None:
    table = tabulate([row for row in published_rows()[0] if row.source == "titan"])
    parameters = shipped_parameters()
    slower = {"attention_flops.capped.flash2": np.log(0.5)}
    fitted = Fit(parameters, np.array([slower.get(parameter.name, 0.0) for parameter in parameters]))
    for name, share in ((CAPPED_H100, 0.5), ("h100-sxm", 1.0)):
        device = load_accelerator(name)
        shipped = device_constants(device, fitted, table)["attention_flops.flash2"]
        assert shipped == pytest.approx(share * attention_rate("flash2", device, peak_16bit(device)), rel=1e-3)


def test_one_odd_row_does_not_win(a100_rows) -> None:
    table = made_with(a100_rows, 0.8)
    odd = table.measured_s.copy()
    odd[0] *= 5
    assert fit(replace(table, measured_s=odd), [GEMM]).multiplier("gemm") == pytest.approx(0.8, rel=0.03)


def test_a_robust_prior_lets_an_odd_group_pull_the_common_factor_little(a100_rows) -> None:
    """The common factor is that of the groups that agree, and the odd one keeps its own offset."""
    groups = np.arange(a100_rows.measured_s.size) % 4
    made = made_with(a100_rows, 1.0)
    table = replace(made, measured_s=made.measured_s * np.where(groups == 3, 2.0, 1.0))

    def common(*, robust: bool) -> float:
        offsets = [
            FitParameter(f"group {n}", "gemm_share", lambda rows, n=n: of_group(rows, n), 0.15, robust=robust)
            for n in range(4)
        ]
        return fit(table, [GEMM, *offsets]).multiplier("gemm")

    def of_group(rows, number: int):
        known = {row.id: group for row, group in zip(a100_rows.rows, groups, strict=True)}
        return np.array([known[row.id] == number for row in rows.rows])

    assert abs(common(robust=True) - 1) < 0.6 * abs(common(robust=False) - 1)


def test_a_source_of_ordinary_software_is_left_out_as_if_all_were_fitted_again() -> None:
    table = tabulate([row for row in published_rows()[0] if row.source in ("sc21", "nemo2303", "tinyllama")])
    parameters = [
        FitParameter("gemm", "gemm_share", lambda rows: np.ones(rows.measured_s.size, dtype=bool), 0.5),
        FitParameter("ordinary", "framework_factor", lambda rows: rows.ordinary, 0.5),
    ]
    keep = np.ones(table.measured_s.size, dtype=bool)
    problem = problem_of(table, parameters)
    left_out = leave_out(problem, keep, fit_populations(problem, keep), table.origin)

    out = table.origin == "tinyllama"
    again = fitted_step_time_s(table, fit_populations(problem, keep & ~out))
    assert left_out[out] == pytest.approx(again[out], rel=1e-4)


def test_a_level_is_fitted_to_its_rows_and_leaves_the_other_constants_as_they_are(a100_rows) -> None:
    """Rows of other people say how far products are from those of the node that the constants are fitted to."""
    made = made_with(a100_rows, 0.8)
    others = np.arange(made.measured_s.size) % 3 == 0
    table = replace(made, collection=np.where(others, "second", "first"))
    faster = replace(table.prior, gemm_share=table.prior.gemm_share * 0.96)
    table = replace(
        table, measured_s=np.where(others, predict(table, faster, table.prior_factor).total, table.measured_s)
    )
    level = FitParameter(
        "level",
        "gemm_share",
        everywhere,
        0.5,
        level_of=lambda rows: rows.collection == "second",
        divides="fp8_gemm_share",
    )
    problem = problem_of(table, [GEMM, level])
    found = fit_populations(problem, everywhere(table))
    assert found.multiplier("gemm") == pytest.approx(0.8, rel=0.03)
    assert found.multiplier("level") == pytest.approx(1.2, rel=0.03)
    without = fit_populations(problem, ~others)
    assert without.multiplier("level") == 1
    assert without.multiplier("gemm") == pytest.approx(found.multiplier("gemm"))
    columns = problem.columns(found.logs)
    kept = columns["gemm_share"] * columns["fp8_gemm_share"]
    assert kept == pytest.approx(table.prior.gemm_share * table.prior.fp8_gemm_share * found.multiplier("gemm"))


def test_a_constant_that_no_row_shows_stays_at_its_prior(a100_rows) -> None:
    single = select(a100_rows, a100_rows.layout.ep == 1)
    experts = FitParameter("all_to_all", "all_to_all_share", lambda table: table.measured_s > 0, 0.5)
    assert fit(single, [experts]).multiplier("all_to_all") == pytest.approx(1.0)


def test_a_fit_leaves_the_environment_as_it_was(a100_rows, monkeypatch) -> None:
    """The number of threads of the linear algebra is asked for while the solver is imported, and no longer."""
    monkeypatch.delenv(THREADS_VARIABLE, raising=False)
    fit(made_with(a100_rows, 0.8), [GEMM])
    assert THREADS_VARIABLE not in os.environ
    monkeypatch.setenv(THREADS_VARIABLE, "3")
    fit(made_with(a100_rows, 0.8), [GEMM])
    assert os.environ[THREADS_VARIABLE] == "3"


@pytest.mark.exhaustive
def test_the_shipped_constants_are_the_fit_of_the_shipped_rows() -> None:
    apart = [
        constant
        for constant in compare(*refit())
        if constant.shipped is None or abs(constant.refitted / constant.shipped - 1) > 5e-4
    ]
    assert not apart
