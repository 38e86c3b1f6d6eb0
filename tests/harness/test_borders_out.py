"""What goes out: texts of users on a terminal, names of users as files, and the folders they name."""

import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.table import Table
from transformers import AutoTokenizer

from esft_bench.harness import cli
from esft_bench.harness.plan.checks import check_file_names, check_served_from
from esft_bench.harness.plan.matrix import Matrix
from esft_bench.harness.terminal import Terminal, complain
from esft_bench.methods.registry import load_methods
from esft_bench.spec.cell import Cell
from esft_bench.spec.errors import UserError
from esft_bench.spec.suite import Suite
from esft_bench.tasks.mini import BACKBONE
from esft_bench.tasks.registry import load_tasks

SUITE = """\
name: tiny
tasks: [mini-intent, mini-law]
alignment: mini-alignment
methods:
  base: {title: 'Base [/r] [red]'}
  fft: {title: 'FFT [lr=1e-3] :smile:', learning_rate: 1.0e-3}
evaluation: {engine: transformers, limit: 3}
"""
UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@pytest.fixture
def typed(tmp_path, monkeypatch, capsys):
    """`typed(suite, …)`: exit code, what was printed and what was complained about, of a plan."""

    def run(suite, *arguments):
        (tmp_path / "suite.yaml").write_text(suite)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["esft-bench", "plan", "suite.yaml", "--no-price", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run


@given(st.text(st.characters(), max_size=40))
@example("[/r]")
@example("[red]x[/red] :smile: \\[")
@example("\x1b[2J\x07\ud800\u2028")
def test_any_text_is_printed_as_it_is_but_for_what_moves_the_cursor(text):
    shown = io.StringIO()
    terminal = Terminal(file=shown, width=2000, force_terminal=True, color_system=None)
    table = Table(title=text, caption=text, box=None)
    table.add_column(text)
    table.add_row(text)
    terminal.print(table)
    terminal.say(text)
    terminal.print(f"Note: {text}")
    shown.getvalue().encode()
    assert not UNSEEN.search(shown.getvalue())
    if text.isascii() and text.isprintable():
        assert shown.getvalue().endswith(f"{text}\nNote: {text}\n")


@given(st.text(st.characters(), max_size=40))
def test_any_complaint_is_one_line(text):
    before, sys.stderr = sys.stderr, io.StringIO()
    try:
        complain(f"esft-bench: {text}")
        said = sys.stderr.getvalue()
    finally:
        sys.stderr = before
    assert len(said.splitlines()) == 1
    assert not UNSEEN.search(said.rstrip("\n"))


def test_brackets_in_titles_and_folders_are_printed(typed):
    code, printed, _ = typed(SUITE, "--run-dir", "runs [/r] [0-9]*")
    assert code == 0
    assert "Base [/r] [red]" in printed
    assert "FFT [lr=1e-3] :smile:" in printed


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
TASKS = st.from_regex(r"[a-z0-9]{1,9}(-[a-z0-9]{1,9}){0,5}", fullmatch=True)


@given(NAMES, st.lists(TASKS, max_size=20), st.integers(0, 2**31 - 1))
def test_a_cells_files_lie_in_their_folder_under_a_name_that_file_systems_take(method, tasks, seed):
    name = f"{Cell(method, '+'.join(tasks), seed).file_name}-{'b' * 60}.jsonl"
    assert Path("items", name).name == name
    assert len(name.encode()) < 240


def test_cells_of_many_tasks_keep_names_of_their_own():
    tasks = "+".join(f"a-task-of-some-length-{n}" for n in range(20))
    assert len({Cell("fft", tasks + end, 0).file_name for end in "abc"}) == 3


def test_rows_whose_files_would_have_one_name_are_refused():
    suite = Suite.model_validate({"name": "s", "tasks": ["b-c", "c"], "methods": {"a": {}, "a-b": {}, "other": {}}})
    tasks = {name: replace(load_tasks()["mini-law"], name=name) for name in suite.tasks}
    fft = load_methods()["fft"]()
    check_file_names(Matrix(suite, {"a": fft, "other": fft}, tasks))
    with pytest.raises(UserError, match=r"methods\.a-b: a-b · c · seed 0 and a · b-c · seed 0 would have files of one"):
        check_file_names(Matrix(suite, {"a": fft, "a-b": fft}, tasks))


@pytest.mark.parametrize("name", ["runs[1]", "runs*", "what?"])
def test_a_folder_that_vllm_would_read_as_a_pattern_is_refused(tmp_path, name):
    check_served_from([tmp_path / "runs"])
    with pytest.raises(UserError, match=r"vLLM takes '.' for a pattern"):
        check_served_from([tmp_path / name])


CONFIG = json.loads((BACKBONE / "config.json").read_text())
CONFIGS = {
    "cut off": (b'{"model_type": "olm', "config.json is not JSON"),
    "not UTF-8": (b"\xff\xfe{", "config.json is not JSON"),
    "nested deeply": (b"[" * 100_000, "config.json is not JSON"),
    "a number of 5 000 digits": (b'{"model_type": ' + b"9" * 5000 + b"}", "config.json is not JSON"),
    "a list": (b"[]", "config.json holds no JSON object"),
    "no model_type": (b"{}", "config.json, model_type"),
    "a number for model_type": (b'{"model_type": 7}', "config.json, model_type"),
    "an unknown model_type": (b'{"model_type": "nonesuch"}', "nonesuch"),
    "a model without text": (b'{"model_type": "vit"}', "makes no causal language model"),
    "a text for a size": (json.dumps(CONFIG | {"hidden_size": "wide"}).encode(), "hidden_size"),
    "a negative size": (json.dumps(CONFIG | {"hidden_size": -1}).encode(), "makes no causal language model"),
}


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of the shipped checkpoint."""
    folder = tmp_path / "checkpoint [0-9]"
    folder.mkdir()
    for path in BACKBONE.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_broken_configuration_is_refused_by_its_file_in_one_sentence(typed, checkpoint, name):
    content, sentence = CONFIGS[name]
    (checkpoint / "config.json").write_bytes(content)
    code, _, complaint = typed(SUITE, "--set", f"backbone.path='{checkpoint}'")
    assert (code, len(complaint.splitlines())) == (2, 1)
    assert str(checkpoint) in complaint
    assert sentence in complaint


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b'{"cut', b"[]", b"\xff"])
def test_a_broken_tokenizer_is_refused_before_anything_is_computed(typed, checkpoint, name, content):
    (checkpoint / name).write_bytes(content)
    code, _, complaint = typed(SUITE, "--set", f"backbone.path='{checkpoint}'")
    assert (code, len(complaint.splitlines())) == (2, 1)
    assert name in complaint


def test_a_sound_checkpoint_in_a_folder_with_brackets_is_planned(typed, checkpoint):
    AutoTokenizer.from_pretrained(checkpoint)
    code, printed, _ = typed(SUITE, "--backbone", str(checkpoint))
    assert code == 0
    assert "tiny-checkpoint-0-9" in printed
