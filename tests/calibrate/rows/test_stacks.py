"""Which software a published row ran: what its framework has on the device that it ran on."""

from __future__ import annotations

import pytest

from carbon_plugin.calibrate.rows.rows import parse_rows


@pytest.mark.parametrize(("gpu", "plain"), [("A100-80GB-SXM", None), ("MI300X", None), ("Max-1550 (tile)", True)])
def test_relatives_of_megatron_run_plain_modules_where_no_cuda_kernel_compiles(gpu: str, plain: bool | None) -> None:
    row = {
        "id": "a", "model": "Llama", "layers": 24, "hidden": 2048, "ffn": 8192, "heads": 16, "mlp": "swiglu",
        "seq_len": 2048, "precision": "bf16", "gpu": gpu, "n_gpus": 8, "tp": 2, "pp": 1, "sharding": "ZeRO-1", "mbs": 1,
        "gbs": 8, "framework": "Megatron-DeepSpeed (2024)", "step_time_s": 10.0,
    }  # fmt: skip

    (found,), _ = parse_rows([row], {})

    assert found.spec.stack.plain_modules is plain
