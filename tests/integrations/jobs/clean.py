"""Saves everything that a script makes of a watched model before its first step; or loads it where we are missing.

`clean.py save FOLDER` and `clean.py load FOLDER`. Classes are torch's own, so that only ours could be missing.
"""

from __future__ import annotations

import copy
import io
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

FOLDER = Path(sys.argv[2])
WIDTH = 8


def net() -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True, dropout=0.0)
    return nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(WIDTH, 4), nn.ReLU())


def example() -> torch.Tensor:
    return torch.linspace(-1, 1, 2 * 3 * WIDTH).view(2, 3, WIDTH)


def saved(thing: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


def exported(program: Any) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def quantised(model: nn.Module) -> dict[str, Any]:
    """Return the state of a model that was fused and prepared, which copies hooks from module to module. The prepared
    model itself cannot be pickled.
    """
    from torch.ao import quantization

    plain = nn.Sequential(*(module for module in copy.deepcopy(model)[1:]))
    plain.qconfig = quantization.get_default_qat_qconfig("x86")
    fused = quantization.fuse_modules_qat(plain.train(), ["0", "1"])
    prepared = quantization.prepare_qat(fused)
    hooks = [hook for module in prepared.modules() for hook in module._forward_pre_hooks.values()]
    assert not [
        hook for hook in hooks if "carbon_plugin" in f"{type(hook).__module__} {getattr(hook, '__module__', '')}"
    ]
    return prepared.state_dict()


def sharded(model: nn.Module) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    shards = copy.deepcopy(model)
    fully_shard(shards, mesh=dist.init_device_mesh("cpu", (1,)))
    state = get_model_state_dict(shards, options=StateDictOptions(full_state_dict=True))
    shards.load_state_dict(shards.state_dict())
    dist.destroy_process_group()
    return state


def pieces(model: nn.Module, optimizer: Any) -> dict[str, bytes]:
    from torch.ao.quantization import quantize_dynamic
    from torch.optim.swa_utils import AveragedModel

    twin = copy.deepcopy(model)
    frozen = copy.deepcopy(model).eval()
    return {
        "pickle": pickle.dumps(model),
        "deepcopy": saved(twin),
        "average": saved(AveragedModel(model)),
        "save": saved(model),
        "parts": saved(list(model.children())),
        "optimizer": pickle.dumps(copy.deepcopy(optimizer)),
        "qat": saved(quantised(model)),
        "dynamic": saved(quantize_dynamic(model, {nn.Linear}).state_dict()),
        "sharded": saved(sharded(model)),
        "export": exported(torch.export.export(frozen, (example(),))),
        "export.strict": exported(torch.export.export(frozen, (example(),), strict=True)),
        "export.watched": exported(torch.export.export(model, (example(),))),
    }


def save() -> None:
    from carbon_plugin.integrations.pytorch import watch
    from carbon_plugin.monitor.settings.options import MonitorOptions

    torch.manual_seed(0)
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    before = set(model.__dict__)
    options = MonitorOptions(min_window_s=0.25)
    with watch(model, optimizer, site="FRA", run_dir=FOLDER / "run", window_s=0.5, options=options) as carbon:
        for name, content in pieces(model, optimizer).items():
            (FOLDER / f"{name}.file").write_bytes(content)
        hooked = [name for name, module in model.named_modules() if module._forward_pre_hooks or module._forward_hooks]
        print("hooks", hooked, set(model.__dict__) - before)
        watched = "__call__" in vars(type(model))
        for _ in range(2):
            optimizer.zero_grad()
            model(example()).sum().backward()
            optimizer.step()
        print("watched", watched, "steps", carbon.monitor.step)
        print("left", "__call__" in vars(type(model)), bool(nn.modules.module._has_any_global_hook()))


def load() -> None:
    class Missing:
        def find_spec(self, name: str, *_: Any) -> None:
            if name.partition(".")[0] == "carbon_plugin":
                raise ModuleNotFoundError(name)

    sys.meta_path.insert(0, Missing())  # type: ignore[arg-type]
    for path in sorted(FOLDER.glob("*.file")):
        content = path.read_bytes()
        if path.name != "export.strict.file":  # which has the text of the stack that it was traced from
            assert b"carbon_plugin" not in content, path.name
        if path.name.startswith("export"):
            torch.export.load(io.BytesIO(content)).module()(example())
        elif path.stem in ("pickle", "optimizer"):
            pickle.loads(content)
        else:
            torch.load(io.BytesIO(content), weights_only=False)
        print("loaded", path.stem)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    {"save": save, "load": load}[sys.argv[1]]()
