"""Leases: one holder at a time, whatever dies, sleeps or keeps another time; and drivers that share a store."""

import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from esft_bench.harness.commands.machines import alone_on_accelerators
from esft_bench.harness.store import leases as module
from esft_bench.harness.store.leases import Leases
from esft_bench.spec.errors import UserError
from tests.harness.drivers import matrix, started

LAPSE = 0.5
NOBODY = 2**22 + 1
"""A process number that Linux gives to none."""


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "ran"
    made.mkdir()
    return made


def laid(folder, machine="elsewhere", pid=NOBODY, age=0.0):
    """A lease that somebody else laid, who touches it no more."""
    there = folder / "a"
    there.mkdir(parents=True)
    path = there / f"{pid}-{machine}-00000000@there"
    path.touch()
    then = path.stat().st_mtime - age
    os.utime(path, (then, then))
    return path


def test_a_name_has_one_holder_until_it_is_let_go(tmp_path):
    one, other = Leases(tmp_path), Leases(tmp_path)
    lease = one.claim("a")
    assert (other.claim("a"), one.claim("a")) == (None, None)
    assert one.holder("a") == other.holder("a") == one.me
    assert other.claim("b").renew()
    lease.release()
    assert (one.holder("a"), lease.renew()) == ("", False)
    assert other.claim("a").renew()


def test_of_many_who_claim_at_once_one_gets_it_and_nothing_is_left_of_the_others(tmp_path):
    folder, count = tmp_path / "leases", 8
    for stale in [False, True] * 10:
        if stale:
            laid(folder, age=99)
        meet = threading.Barrier(count)

        def claims(_, meet=meet):
            mine = Leases(folder)
            meet.wait()
            return mine.claim("a")

        with ThreadPoolExecutor(count) as pool:
            (lease,) = [found for found in pool.map(claims, range(count)) if found]
        assert lease.renew()
        assert [path.name for path in folder.iterdir()] == ["a"]
        lease.release()
        assert list(folder.iterdir()) == []


def test_a_lease_that_is_touched_stays_and_one_that_is_not_is_taken_over_once_it_is_stale(tmp_path, monkeypatch):
    began = laid(tmp_path / "other").stat().st_mtime
    theirs = Leases(tmp_path / "other", LAPSE)
    mine = Leases(tmp_path, LAPSE).claim("a")
    while (touched := mine._path.stat().st_mtime) < began + 1.5 * LAPSE:
        time.sleep(0.02)
    monkeypatch.setattr(Leases, "_now", lambda self: began + 0.5 * LAPSE)
    assert theirs.claim("a") is None
    monkeypatch.setattr(Leases, "_now", lambda self: touched)
    assert Leases(tmp_path, LAPSE).claim("a") is None
    assert theirs.claim("a").renew()
    assert mine.renew()


def test_who_slept_too_long_finds_its_lease_taken_over_and_cannot_let_go_of_the_new_one(tmp_path):
    mine = Leases(tmp_path).claim("a")
    os.utime(mine._path, (0, 0))
    new = Leases(tmp_path).claim("a")
    assert not mine.renew()
    mine.release()
    assert new.renew()


def test_a_folder_that_was_laid_aside_holds_the_next_lease_under_a_name_of_its_own(tmp_path):
    leases = Leases(tmp_path)
    names = set()
    for name in "aab":
        lease = leases.claim(name)
        assert lease.renew()
        assert leases.claim(name) is None
        names.add(lease._path.name)
        inode = (tmp_path / name).stat().st_ino
        lease.lay_aside()
        assert (leases.holder(name), lease.renew()) == ("", False)
        assert [path.stat().st_ino for path in tmp_path.iterdir()] == [inode]
    assert len(names) == 3
    leases.tidy()
    assert not list(tmp_path.iterdir())


def test_what_processes_that_are_dead_laid_aside_goes_and_what_others_did_stays(tmp_path):
    for machine, age in ((module.MACHINE, 0.0), ("elsewhere", 0.0), ("elsewhere", 99.0)):
        path = laid(tmp_path, machine, age=age)
        path.parent.rename(tmp_path / f".{path.name}{age}")
    Leases(tmp_path).tidy()
    assert [path.name for path in tmp_path.iterdir()] == [f".{NOBODY}-elsewhere-00000000@there0.0"]


def test_a_lease_that_was_taken_over_is_not_laid_aside(tmp_path):
    mine = Leases(tmp_path).claim("a")
    os.utime(mine._path, (0, 0))
    new = Leases(tmp_path).claim("a")
    mine.lay_aside()
    assert new.renew()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_holder_of_this_machine_that_is_dead_is_not_waited_for(tmp_path):
    laid(tmp_path, module.MACHINE)
    assert Leases(tmp_path).claim("a").renew()


@pytest.mark.parametrize(("mine", "theirs"), [("one", "another"), ("", "")])
def test_a_process_number_of_another_machine_says_nothing(tmp_path, monkeypatch, mine, theirs):
    monkeypatch.setattr(module, "MACHINE", mine)
    laid(tmp_path, theirs)
    assert Leases(tmp_path).claim("a") is None


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_clock_that_differs_from_the_file_systems_changes_nothing(tmp_path, monkeypatch, hours):
    monkeypatch.setattr(time, "time", lambda real=time.time: real() + 3600 * hours)
    laid(tmp_path / "fresh")
    laid(tmp_path / "stale", age=2 * module.LAPSE)
    assert Leases(tmp_path / "fresh").claim("a") is None
    assert Leases(tmp_path / "stale").claim("a").renew()


def test_leases_are_as_old_as_the_file_system_says_whatever_time_it_has(tmp_path, monkeypatch):
    touched = laid(tmp_path).stat().st_mtime
    for now, free in [(touched + module.LAPSE - 1, False), (touched + module.LAPSE + 1, True)]:
        monkeypatch.setattr(Leases, "_now", lambda self, now=now: now)
        assert (Leases(tmp_path).holder("a") == "") is free


def test_two_runs_of_a_store_do_not_fill_one_accelerator_and_others_are_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    one, other = Leases(tmp_path), Leases(tmp_path)
    with alone_on_accelerators(one):
        with pytest.raises(UserError, match=f"accelerators \\({one.me}\\)"), alone_on_accelerators(other):
            pass
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
        with alone_on_accelerators(other):
            pass
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with alone_on_accelerators(other):
        pass


def ran(folder):
    """How often each step was run."""
    return Counter({path.name: len(path.read_text().splitlines()) for path in folder.iterdir()})


def test_drivers_that_share_a_store_run_each_step_once_and_all_come_to_the_end(tmp_path, folder):
    drivers = [started(tmp_path / "store", 40, 60.0, folder) for _ in range(3)]
    said = [driver.communicate(timeout=280)[0] for driver in drivers]
    assert said == ["finished\n"] * 3
    assert set(ran(folder).values()) == {1}
    assert len(ran(folder)) == 1 + 2 * 40
    by = {line for path in folder.iterdir() for line in path.read_text().splitlines()}
    assert len(by) == 3  # each had its share
    assert not list((tmp_path / "store" / ".leases").iterdir())
    assert not list((tmp_path / "store" / ".new").iterdir())


@pytest.mark.parametrize("machine", ["", "elsewhere"])
def test_a_driver_that_is_killed_loses_what_it_had_at_work_to_the_others_and_nothing_else(tmp_path, folder, machine):
    store = tmp_path / "store"
    killed = started(store, 40, LAPSE, folder, machine)
    while len(list(folder.iterdir())) < 20:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    held = len(list((store / ".leases").glob("[!.]*")))
    done = len(list(store.glob("toy/*/manifest.json")))
    assert held
    other = started(store, 40, LAPSE, folder)
    assert other.communicate(timeout=280)[0] == "finished\n"
    assert len(list(store.glob("toy/*/manifest.json"))) == 81
    again = [name for name, count in ran(folder).items() if count > 1]
    assert len(again) <= 1  # it has one step at work at a time
    assert sum(ran(folder).values()) == 81 + len(again) >= done
    assert not list((store / ".leases").glob("[!.]*"))


def test_a_driver_that_was_stopped_and_goes_on_throws_away_what_another_has_taken_over(tmp_path, folder):
    store = tmp_path / "store"
    slept = started(store, 20, LAPSE, folder)
    while len(list(folder.iterdir())) < 10:
        time.sleep(0.01)
    slept.send_signal(signal.SIGSTOP)
    try:
        other = started(store, 20, LAPSE, folder)
        assert other.communicate(timeout=280)[0] == "finished\n"
        made = {path: path.stat().st_ino for path in store.glob("toy/*")}
    finally:
        slept.send_signal(signal.SIGCONT)
    assert slept.communicate(timeout=280)[0] == "finished\n"
    assert made == {path: path.stat().st_ino for path in store.glob("toy/*")}
    assert len(made) == len(matrix(folder, 20)) * 2 + 1
