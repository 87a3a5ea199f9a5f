"""Name a model by the repository or the folder that it is from."""

from __future__ import annotations

import re

SAYS_NOTHING = re.compile(r"|\.{1,2}|checkpoint-\d+|~")
"""Parts of a path that name no model: the working directory, its parent, and the folders of a trainer's checkpoints."""
CACHED = "models--"
"""The start of the folder of a repository in the cache of huggingface_hub (`models--org--name/snapshots/HASH`)."""


def model_named_by(place: str) -> str:
    """Return the name of the model in a repository, or in a path of its files; empty where neither names one."""
    parts = [part for part in place.split("/") if not SAYS_NOTHING.fullmatch(part)]
    cached = [part.rpartition("--")[2] for part in parts if part.startswith(CACHED)]
    return (cached or parts or [""])[-1]
