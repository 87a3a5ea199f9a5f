"""Docstrings are plain sentences: functions say in the imperative what they do, classes define what they are.

Ruff checks the form (D400: a full stop; D401: no verb in another mood). It does not notice a noun at the beginning,
such as "Energy of each GPU.", so that the first word is compared with a list of verbs here.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
PLACES = ("carbon_plugin", "integrations", "benchmarks", "docs", "examples", "tools")
VERBS = frozenset(
    """
    Accept Account Acknowledge Add Advance Agree Align Answer Append Apply Ask Assign Attach Audit Begin Bind Block
    Break Build Call Cancel Change Check Choose Claim Clear Close Collect Combine Compact Compare Compile Compose
    Compute Continue Convert Copy Count Create Cut Decide Decode Define Delete Deliver Derive Describe Detach Detect
    Determine Disable Discard Divide Do Download Draw Drop Enable Encode End Ensure Enter Estimate Evaluate Exchange
    Exclude Execute Expect Explain Export Extend Extract Fail Fetch Fill Filter Find Finish Fit Flush Follow Forecast
    Forget Fork Format Freeze Gather Generate Get Give Group Guard Halve Hand Handle Have Help Hold Hook Identify
    Ignore Import Include Initialise Insert Inspect Install Interpolate Join Judge Keep Kill Know Leave Let Limit List
    Load Locate Lock Log Look Make Map Mark Mask Match Measure Merge Meter Model Move Name Normalise Note Notice Open
    Order Pack Parse Pass Patch Pause Pick Place Plan Plot Poll Predict Prepare Price Print Process Project Propose
    Provide Publish Put Query Queue Raise Reach Read Recompute Record Reduce Refresh Refuse Register Reject Release
    Remember Remove Rename Render Repeat Replace Replay Report Request Reset Resolve Restart Restore Return Rewrite
    Rotate Round Run Sample Save Say Scale Schedule Search See Select Send Serve Set Share Show Sign Simulate Skip Sleep
    Sort Split Spread Start State Stop Store Sum Summarise Switch Sync Take Tell Test Time Train Transform Trim Turn
    Undo Unpack Update Use Validate Verify Visit Wait Wake Walk Warn Watch Weigh Wrap Write Yield
    """.split()  # noqa: SIM905
)
HINTS = frozenset("All Everything How Some What When Where Whether Which Who Why".split())  # noqa: SIM905
"""First words of a description that only hints at what a class is: "What few jobs need to say"."""


@cache
def first_words() -> list[tuple[type[ast.AST], str, str]]:
    """Return kind, place and first word of every docstring of a function or class."""
    found: list[tuple[type[ast.AST], str, str]] = []
    for path in (path for folder in PLACES for path in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, DEFINITIONS) and (docstring := ast.get_docstring(node)):
                place = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
                found.append((type(node), place, docstring.split()[0].rstrip(",:;.")))
    return found


def test_a_function_says_in_the_imperative_what_it_does():
    found = [f"{place}: {word}" for kind, place, word in first_words() if kind != ast.ClassDef and word not in VERBS]

    assert not found, "begin with a verb, such as Return or Write; add a verb that is missing to VERBS of this file"


def test_a_class_says_what_it_is():
    found = [f"{place}: {word}" for kind, place, word in first_words() if kind == ast.ClassDef and word in HINTS]

    assert not found, "write a definition or a sentence, such as 'One window holds ...' or 'A sink of rows.'"
