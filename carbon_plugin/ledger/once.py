"""Write a file that is written only once: of several processes that try, the first one wins and all read its content.

This is how processes of a run agree without messages. It works on file systems that several nodes share.
"""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})


def publish_once(path: Path, content: bytes) -> None:
    """Create `path` with `content` unless it exists. Where hard links work, a reader never sees half of it.

    Raises `OSError` for a folder that cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(content)
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _create_exclusively(path, content)
    finally:
        temporary.unlink(missing_ok=True)


def _create_exclusively(path: Path, content: bytes) -> None:
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return
