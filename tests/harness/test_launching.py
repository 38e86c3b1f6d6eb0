"""What is made of what several machines say of the processes that were launched there."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from esft_bench.harness.training.together import launching
from esft_bench.harness.training.together.launching import Place, Said, part
from esft_bench.harness.training.together.machines import SHARDED, LostError
from esft_bench.harness.training.together.processes import MARK
from esft_bench.spec.errors import DivergedError, UserError

WELL = Said({"done": [{}]}, 0)
ENDED = Said({}, 1)


def other(came: Said | Exception | None) -> Future[Said]:
    """What another machine came to; None where it has not."""
    future = Future[Said]()
    if isinstance(came, Said):
        future.set_result(came)
    elif came:
        future.set_exception(came)
    return future


def results(here: Said, *others: Said | Exception | None) -> list[dict[str, Any]]:
    """What is made of it."""
    said = [here, *launching._heard_of([other(each) for each in others], here)]
    return launching._results(said, 1 + len(others))


def test_results_are_those_of_all_machines_in_order():
    assert results(Said({"done": [{"rank": 0}]}, 0), Said({"done": [{"rank": 1}]}, 0)) == [{"rank": 0}, {"rank": 1}]


def test_a_sentence_goes_before_what_was_lost_or_ended_because_of_it(monkeypatch):
    monkeypatch.setattr(launching, "WORD", 0.1)
    sentence = Said({"error": [[False, "the moon cannot be had."]]}, 1)
    with pytest.raises(UserError, match=r"^the moon cannot be had\.$"):
        results(sentence, None)
    with pytest.raises(UserError, match=r"^the moon cannot be had\.$"):
        results(ENDED, sentence, LostError("a node died"), None)
    with pytest.raises(DivergedError):
        results(ENDED, Said({"error": [[True, "no number"]]}, 1))


def test_a_machine_that_is_lost_or_says_nothing_is_no_fault_of_the_step(monkeypatch):
    monkeypatch.setattr(launching, "WORD", 0.1)
    with pytest.raises(LostError, match="a node died"):
        results(ENDED, LostError("a node died"))
    with pytest.raises(LostError, match="does not say what became of its processes"):
        results(ENDED, None)


def test_a_process_that_was_ended_on_any_machine_is_one_sentence():
    with pytest.raises(UserError, match=r"^One of the 2 processes that train together was ended from outside"):
        results(WELL, ENDED)
    with pytest.raises(RuntimeError, match="its 2 processes ended with code 1"):
        results(ENDED, Said({"failed": [""]}, 1))


def test_what_runs_on_another_machine_is_told_the_place_of_that(monkeypatch, tmp_path):
    """The launcher stands for itself here: it prints what it was told."""
    monkeypatch.setattr(launching, "PROCESSES", "x")
    monkeypatch.setattr(launching, "_launcher", lambda place: ["tests.harness.test_launching"])
    seen = part(Path("job.json"), Place(4, 2, 1, "127.0.0.1", 1234, str(tmp_path), "1"))
    (told,) = seen.words["told"]
    assert told == {"shared": "1", "interface": "lo", "folder": str(tmp_path), "arguments": ["x", "job.json"]}


def test_machines_meet_at_the_first_ones_address_and_one_alone_picks_a_port_itself():
    def told(place: Place) -> str:
        return " ".join(launching._launcher(place))

    assert "--num_processes 16 --num_machines 2 --main_process_port 1234 --machine_rank 1 " in told(
        Place(16, 2, 1, "10.0.0.1", 1234)
    )
    assert "--main_process_ip 10.0.0.1 --same_network --rdzv_backend static" in told(Place(16, 2, 1, "10.0.0.1", 1234))
    assert told(Place(2)).endswith("--num_processes 2 --num_machines 1 --main_process_port 0 -m")


if __name__ == "__main__":
    import json
    import os
    import sys

    found = {"shared": os.environ[SHARDED], "interface": os.environ[launching.INTERFACE]}
    print(f"{MARK}{json.dumps(['told', found | {'folder': str(Path.cwd()), 'arguments': sys.argv[1:]}])}")
