"""Give the templates of pages their filters, styles and scripts, all of which are written into the page."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import msgspec

from carbon_plugin.audit.report.addresses import linked
from carbon_plugin.printable import printable
from carbon_plugin.show import wording
from carbon_plugin.show.plot import paint
from carbon_plugin.spec.numbers.amounts import plural

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup


@cache
def environment(package: str = "carbon_plugin.audit.report", folder: str = "web") -> jinja2.Environment:
    """Return the environment in which templates are rendered. Templates of `package` come before those of reports."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader(package, folder), jinja2.PackageLoader("carbon_plugin.audit.report", "web")]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=readable,
    )
    made.filters |= {
        "energy": wording.energy,
        "duration": wording.duration,
        "moment": wording.moment,
        "plural": plural,
        "linked": lambda text: linked(readable(text)),
        "paint": paint,
        "script_json": script_json,
    }
    return made


def readable(value: Any) -> Any:
    """Return a value as a template writes it. Control characters from outside become visible, and a number stays on one
    line with its percent sign.
    """
    from markupsafe import Markup

    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return printable(value).replace(" %", "\u00a0%")


def script_json(value: Any) -> Markup:
    """Return a value as JSON for a script element. Nothing in it can end the element."""
    from markupsafe import Markup

    text = msgspec.json.encode(value).decode()
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def styles() -> str:
    """Return the styles of a page."""
    return _shipped("vendor/uPlot.min.css") + _shipped("style.css")


def scripts() -> tuple[str, ...]:
    """Return the scripts of a page with interactive charts, in the order in which they run."""
    return _shipped("vendor/uPlot.iife.min.js"), _shipped("script.js")


def script_hashes() -> str:
    """Return the hashes of `scripts` in the form in which a Content-Security-Policy lets them, and no other script,
    run.
    """
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts())
    return " ".join(f"'sha256-{digest}'" for digest in digests)


@cache
def _shipped(name: str) -> str:
    return (files("carbon_plugin.audit.report") / "web" / name).read_text(encoding="utf-8")
