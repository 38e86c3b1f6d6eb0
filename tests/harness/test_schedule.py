"""The scheduler: order, what is started beside what, what a failure takes along, and what is never done again."""

from dataclasses import dataclass

import pytest

from esft_bench.harness.execute.executor import Ended
from esft_bench.harness.schedule import Schedule
from esft_bench.harness.steps.graph import Graph
from esft_bench.harness.steps.step import Parallelism
from esft_bench.harness.store.artifacts import Store
from esft_bench.spec.errors import NoSpaceError, UserError
from esft_bench.spec.files import made_folder
from tests.harness.toys import Toy


class InOrder:
    """An executor that runs one step at a time, at once, and remembers the order."""

    def __init__(self, errors=None, fatal=False, no_space=False, meanwhile=None):
        self.meanwhile = meanwhile or {}
        self.errors, self.fatal, self.no_space = errors or {}, fatal, no_space
        self.ran, self.ended, self.closed = [], [], False

    def asks(self, step):
        return step.resources

    states = ()

    def fit(self, asked):
        return None if self.ended else 0 if asked.holds == "process" else 1

    def start(self, step, job):
        self.ran.append(step)
        made_folder(job.out)
        error = self.errors.get(step, "")
        if step in self.meanwhile:
            error = self.meanwhile.pop(step)(job) or error
        if not error:
            step.run(job)
        self.ended = [Ended(step, {}, error, bool(error) and self.fatal, self.no_space)]

    def wait(self):
        ended, self.ended = self.ended, []
        return ended

    def close(self):
        self.closed = True


class Silent:
    def __init__(self):
        self.failures, self.said = {}, []

    def started(self, step): ...

    def progressed(self, step, done, total): ...

    def finished(self, step, artifact): ...

    def failed(self, step, why):
        self.failures[step] = why

    def noted(self, text):
        self.said.append(text)


@pytest.fixture
def walk(tmp_path):
    """`walk(wanted)`: what ran, in order, what failed, and the graph after."""

    def go(*wanted, **options):
        executor, watcher = InOrder(**options), Silent()
        graph = Graph(wanted, Store(tmp_path / "store"))
        failed = Schedule(graph, executor, watcher, Parallelism(), wanted).run()
        assert failed == watcher.failures
        assert executor.closed
        graph.store.news += watcher.said
        return executor.ran, failed, graph

    return go


BASE = Toy("works", told="base")
LEFT, RIGHT = Toy("works", (BASE,), "left"), Toy("works", (BASE,), "right")
BOTH = Toy("works", (LEFT, RIGHT))


def test_what_is_needed_runs_first_and_once(walk):
    ran, failed, graph = walk(BOTH, LEFT)
    assert (ran, failed) == ([BASE, LEFT, RIGHT, BOTH], {})
    assert (graph.artifacts[BOTH].folder / "text").read_text() == "wwwww"


def test_nothing_finished_is_run_again(walk):
    walk(BOTH)
    assert walk(BOTH, Toy("works", (RIGHT,), "more"))[0] == [Toy("works", (RIGHT,), "more")]


def test_steps_that_differ_and_leave_the_same_are_one_input_to_what_follows(walk):
    one, other = Toy("works", told="one"), Toy("works", told="other")
    walk(Toy("works", (one,), "end"))
    assert walk(Toy("works", (other,), "end"))[0] == [other]


def test_a_failure_takes_along_what_rests_on_it_and_nothing_else(walk):
    ran, failed, graph = walk(BOTH, RIGHT, errors={LEFT: "odd"})
    assert ran == [BASE, LEFT, RIGHT]
    assert failed == {LEFT: "odd", BOTH: "odd"}
    assert RIGHT in graph.finished


def test_what_fits_what_is_held_goes_first(walk):
    engine = Toy("works", told="served", holds="engine")
    assert walk(engine, LEFT)[0] == [BASE, LEFT, engine]


@pytest.mark.parametrize(("no_space", "kind"), [(True, NoSpaceError), (False, UserError)])
def test_an_error_that_would_meet_every_step_ends_the_walk(walk, no_space, kind):
    with pytest.raises(kind, match="full"):
        walk(BOTH, errors={BASE: "full"}, fatal=True, no_space=no_space)


@pytest.mark.parametrize("damage", ["text", "manifest.json"])
def test_a_damaged_artifact_is_set_aside_and_made_again_and_what_follows_from_it_stays(walk, damage):
    _, _, graph = walk(BOTH)
    before = graph.artifacts[LEFT]
    path = before.folder / damage
    path.write_text(path.read_text().replace("w", "x").replace("toy", "tоy"))
    ran, _, after = walk(BOTH)
    assert ran == [LEFT]
    assert after.artifacts[LEFT].digest == before.digest
    assert walk(BOTH)[0] == []


def damages(role, why=None):
    """What happens while a step runs: its input of a role is damaged, or without one all that there is."""

    def damage(job):
        text = job.out.parents[1].glob("toy/*/text") if role is None else [job.inputs[role] / "text"]
        for path in text:
            path.write_text("damaged")
        return why

    return damage


@pytest.mark.parametrize("fatal", [False, True])
def test_a_step_that_fails_on_an_input_damaged_meanwhile_is_done_again_after_what_made_it(walk, fatal):
    ran, failed, graph = walk(BOTH, fatal=fatal, meanwhile={BOTH: damages("0", "it cannot be read")})
    assert ran == [BASE, LEFT, RIGHT, BOTH, LEFT, BOTH]
    assert failed == {}
    assert (graph.artifacts[BOTH].folder / "text").read_text() == "wwwww"
    (said,) = graph.store.news
    assert said.startswith("Damaged: toy/")


def test_an_input_that_is_damaged_before_the_step_starts_is_made_again_first(walk):
    ran, failed, graph = walk(BOTH, meanwhile={RIGHT: damages(None)})  # BASE's and LEFT's
    assert ran[:3] == [BASE, LEFT, RIGHT]
    assert [ran.count(step) for step in (BASE, LEFT, RIGHT, BOTH)] == [2, 2, 2, 1]
    assert failed == {}
    assert (graph.artifacts[BOTH].folder / "text").read_text() == "wwwww"
    assert walk(BOTH)[0] == []


def test_what_is_damaged_again_and_again_fails_and_does_not_go_round_for_ever(walk):
    def damage(job):
        happens[BOTH] = damage
        return damages("0", "it cannot be read")(job)

    happens = {BOTH: damage}
    ran, failed, _ = walk(BOTH, meanwhile=happens)
    assert ran == [BASE, LEFT, RIGHT, BOTH, LEFT, BOTH]
    assert failed.keys() == {LEFT, BOTH}
    assert "again and again" in failed[BOTH]


def test_a_manifest_names_what_was_read_the_settings_and_the_code(walk):
    _, _, graph = walk(BOTH)
    manifest = graph.artifacts[BOTH].manifest
    left = graph.artifacts[LEFT]
    assert (manifest.inputs["0"].kind, manifest.inputs["0"].key) == ("toy", left.key)
    assert manifest.inputs["0"].digest == left.digest
    assert manifest.settings == BOTH.settings
    assert list(manifest.sources) == ["esft_bench", "esft_bench.spec", "esft_bench.spec.errors"]


@dataclass(frozen=True, eq=False)
class Sized(Toy):
    """A toy of some size."""

    tokens: float = 0.0

    @property
    def size(self):
        return self.tokens


def test_of_what_is_ready_the_longest_way_goes_first(walk):
    short, long = Sized("works", told="short", tokens=2), Sized("works", told="long", tokens=3)
    first = Sized("works", told="first", tokens=1)
    after = Sized("works", (first,), "after", tokens=4)
    last = Sized("works", (short,), "last")
    assert walk(short, long, last, after)[0] == [first, after, long, short, last]


def test_a_process_that_is_no_work_itself_goes_before_those_with_a_longer_way(walk):
    long, short = Sized("works", told="long", tokens=9), Toy("works", told="short")
    follows = Toy("works", (short,), "follows", holds="engine")
    assert walk(long, follows)[0] == [short, long, follows]
