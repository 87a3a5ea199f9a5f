"""The snippets of docs/integrations.md: they parse, import what is there, and call it as it wants to be called."""

from __future__ import annotations

import ast
import inspect
from importlib import import_module

import pytest

from tests.pages import ROOT, blocks_of

SNIPPETS = [block.code for block in blocks_of("docs/integrations.md", "python")]
WITHOUT_A_CALL = ("hands_free", "entry_points")


def ours(tree: ast.Module) -> ast.ImportFrom:
    return next(node for node in tree.body if isinstance(node, ast.ImportFrom))


def test_every_integration_has_a_snippet():
    shown = {str(ours(ast.parse(snippet)).module).rpartition(".")[2] for snippet in SNIPPETS}

    folder = ROOT / "integrations"
    assert shown == {path.stem for path in folder.glob("*.py")} - {"__init__", *WITHOUT_A_CALL}


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.split()[1].rpartition(".")[2])
def test_call_of_a_snippet_fits_the_signature(snippet):
    tree = ast.parse(snippet)
    statement = ours(tree)
    name = statement.names[0].name
    signature = inspect.signature(getattr(import_module(str(statement.module)), name))

    calls = [
        n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == name
    ]

    (call,) = calls
    signature.bind(*call.args, **{str(keyword.arg): keyword.value for keyword in call.keywords})
