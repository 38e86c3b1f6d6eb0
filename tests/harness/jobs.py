"""Jobs that worker processes run in tests; as a program, a parent with one sleeping child."""

import os
import signal
import sys
import time
from pathlib import Path

from esft_bench.harness.workers import Job, Workers
from esft_bench.spec.errors import UserError


def works(places, settings, progress):
    for step in range(3):
        progress(step + 1, 3)
    print("a line for the log")
    return {"pid": os.getpid(), "said": settings["say"]}


def is_refused(places, settings, progress):
    raise UserError("the data are odd: mend them.")


def breaks(places, settings, progress):
    raise RuntimeError("boom")


def fills_the_disk(places, settings, progress):
    with open("/dev/full", "w") as file:  # noqa: PTH123
        file.write("x" * 100_000)


def dies(places, settings, progress):
    os.kill(os.getpid(), signal.SIGKILL)


def sleeps(places, settings, progress):
    Path(settings["pid"]).write_text(str(os.getpid()))
    time.sleep(120)


def refuses_its_share(arguments, progress):
    raise UserError(f"{arguments['what']} cannot be had.")


def sleeps_over_its_share(arguments, progress):
    Path(arguments["folder"], f"{os.getpid()}.pid").touch()
    time.sleep(600)


if __name__ == "__main__":
    parent = Workers(1, Path(sys.argv[1]), preload=())
    parent.start(Job("job", "tests.harness.jobs:sleeps", None, {"pid": sys.argv[2]}))
    while True:
        parent.wait(lambda *_: None)
