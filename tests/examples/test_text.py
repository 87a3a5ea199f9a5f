"""The text that the demo trains on is the one that its grammar composes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TEXT = Path(__file__).resolve().parents[2] / "examples" / "text"


def test_the_shipped_text_is_what_the_generator_writes(tmp_path):
    script = (TEXT / "generate.py").read_text(encoding="utf-8")
    (tmp_path / "generate.py").write_text(script, encoding="utf-8")

    subprocess.run([sys.executable, str(tmp_path / "generate.py")], check=True, capture_output=True)

    assert (tmp_path / "harbour.txt").read_bytes() == (TEXT / "harbour.txt").read_bytes()


def test_the_text_is_plain_ascii_of_a_useful_size():
    content = (TEXT / "harbour.txt").read_bytes()

    assert 200_000 < len(content) < 400_000
    assert content.isascii()
