"""The report of a run at work, from its records, by a process of its own: the driver neither waits for it nor grows.

As a program, `python -m esft_bench.harness.records.beside FOLDER`.
"""

import os
import subprocess
import sys
import threading
from pathlib import Path

LOG = "esft-bench.log"


def write_beside(folder: Path) -> None:
    """Have the report of a run's folder written, without figures, and wait for that. What goes wrong is in the log."""
    with (folder / LOG).open("ab") as log:
        command = [sys.executable, "-m", "esft_bench.harness.records.beside", str(folder)]
        apart = True  # Ctrl-C is not for it
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=apart) as child:
            child.wait()


def main() -> None:
    """Write report and copies of the results; where the driver ends, end with it."""
    from esft_bench.reports.forms import write_reports
    from esft_bench.spec.results import write_copies

    threading.Thread(target=_end_with_driver, daemon=True).start()
    folder = Path(sys.argv[1])
    write_copies(write_reports(folder, draw=False).records, folder)


def _end_with_driver() -> None:
    sys.stdin.read()  # until nobody holds the other end
    os._exit(1)


if __name__ == "__main__":
    main()
