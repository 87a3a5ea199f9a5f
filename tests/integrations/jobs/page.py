"""Runs programs of a page one after the other: `page.py FILE...`, and prints the losses of each as hex."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from telling import tell

from carbon_plugin.monitor.run import projection
from carbon_plugin.spec.hardware.profiles import load_accelerator

projection.MEASURED_S, projection.MEASURED_STEPS = 0.0, 1  # a real run has rates after ten seconds
ADDED = {"total_steps=50": "total_steps=50, accelerator=CPU"}
"""What the tests add to a program, so that its run can be predicted on this machine."""
CPU = replace(load_accelerator("h100-sxm"), name="this-machine", kind="cpu")


def main() -> None:
    for path in map(Path, sys.argv[1:]):
        program = path.read_text()
        for plain, with_addition in ADDED.items():
            program = program.replace(plain, with_addition)
        names: dict[str, Any] = {"__name__": path.stem, "CPU": CPU}
        sys.modules[path.stem] = type(sys)(path.stem)  # the home of classes that the program defines
        exec(compile(program, str(path), "exec"), names)
        tell("LOSSES", [path.stem, [float(loss).hex() for loss in names["losses"]]])


if __name__ == "__main__":
    main()
