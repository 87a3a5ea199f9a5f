"""A hook of the documentation site: links to folders, and to files outside of `docs/`, become their path as text.

On the pages in the repository such a link opens the file; the site has no copy. A link to nothing fails the build.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

log = logging.getLogger("mkdocs.hooks.outside_links")
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?![a-z]+:|#)([^)#\s]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Return the text of a page whose links lead to pages only."""
    docs = Path(config.docs_dir).resolve()
    folder = (docs / page.file.src_path).parent

    def replaced(match: re.Match[str]) -> str:
        text, link = match[1], match[2]
        target = (folder / link).resolve()
        if target.is_relative_to(docs) and not target.is_dir():
            return match[0]
        if not target.exists():
            log.warning("%s links to %s, which is not in the repository", page.file.src_path, link)
        path = target.relative_to(docs.parent)
        return f"`{path}`" if text.strip("`").endswith(target.name) else f"{text} (`{path}`)"

    return LINK.sub(replaced, markdown)
