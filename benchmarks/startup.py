"""How long gamut takes to start: ``python benchmarks/startup.py``.

Each command is run in a fresh process RUNS times, in turn with the others so that a busy moment of the machine
touches all of them alike; the table shows medians in milliseconds, beside an interpreter that does nothing.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path
from statistics import median
from time import perf_counter

RUNS = 20

# What is run -> (its arguments, the most milliseconds that it may take).
COMMANDS: dict[str, tuple[list[str], float | None]] = {
    "python -c pass": ([sys.executable, "-c", "pass"], None),
    'python -c "import gamut"': ([sys.executable, "-c", "import gamut"], 100.0),
    "gamut --help": ([str(Path(sysconfig.get_path("scripts")) / "gamut"), "--help"], 300.0),
}


def milliseconds(command: list[str]) -> float:
    """Wall time of one run, process start and end included."""
    start = perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return 1000 * (perf_counter() - start)


def main() -> None:
    """Run every command and print the table."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(RUNS):
        for name, (command, _goal) in COMMANDS.items():
            times[name].append(milliseconds(command))
    peer = median(times["python -c pass"])
    print(f"{'command':<26}{'median ms':>10}{'goal ms':>9}{'ratio':>7}")
    for name, (_command, goal) in COMMANDS.items():
        ms = median(times[name])
        print(f"{name:<26}{ms:>10.1f}{'' if goal is None else f'{goal:.0f}':>9}{ms / peer:>7.1f}")


if __name__ == "__main__":
    main()
