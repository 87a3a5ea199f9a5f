"""Map the names that frameworks give to mesh axes and process groups to the axis that each stands for."""

from __future__ import annotations

AXIS_OF_NAME = {
    "tp": "tp",
    "tensor": "tp",
    "tensor_parallel": "tp",
    "pp": "pp",
    "pipe": "pp",
    "pipeline": "pp",
    "pipeline_parallel": "pp",
    "cp": "cp",
    "context_parallel": "cp",
    "ep": "ep",
    "expert_parallel": "ep",
    "dp_replicate": "dp_replicate",
    "replicate": "dp_replicate",
    "data_parallel_replicate": "dp_replicate",
    "dp": "dp",
    "data": "dp",
    "data_parallel": "dp",
}
"""The names of mesh axes in today's frameworks. `dp` alone does not say whether it shards or copies. Names that may
mean several axes folded into one (fsdp, dp_shard_cp) are left out, because the wrapper over them says what they are.
"""


def axis_of_group(description: str) -> str | None:
    """Return the axis of a process group by its description: "mesh_tp" or Megatron's "TENSOR_MODEL_PARALLEL_GROUP"."""
    name = description.lower().removeprefix("mesh_").removesuffix("_group").replace("_model_parallel", "_parallel")
    return AXIS_OF_NAME.get(name)
