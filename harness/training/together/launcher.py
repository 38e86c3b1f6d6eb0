"""`accelerate launch` that ends when the process that started it does, also while it waits for other machines.

python -m esft_bench.harness.training.together.launcher … (as `accelerate launch`)
"""

import os
import runpy
import signal
import threading


def end_with_the_starter() -> None:
    """End this process when the one that started it ends, however it does: that holds the other end of standard input.

    Processes that this one starts inherit it, so they may do the same.
    """
    threading.Thread(target=_die_at_the_end_of_input, daemon=True).start()


def _die_at_the_end_of_input() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    end_with_the_starter()
    runpy.run_module("accelerate.commands.launch", run_name="__main__", alter_sys=True)
