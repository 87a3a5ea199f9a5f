"""One part of an audit in a process of its own: the part comes from standard input, its sums go to standard output."""

from __future__ import annotations

import pickle
import sys

from carbon_plugin.audit.tally.parts import add_up

if __name__ == "__main__":
    pickle.dump(add_up(pickle.load(sys.stdin.buffer)), sys.stdout.buffer)
