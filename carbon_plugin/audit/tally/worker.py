"""Do one part of an audit in a process of its own. It reads the part from standard input and writes its sums to
standard output."""

from __future__ import annotations

import pickle
import sys

from carbon_plugin.audit.tally.parts import add_up

if __name__ == "__main__":
    pickle.dump(add_up(pickle.load(sys.stdin.buffer)), sys.stdout.buffer)
