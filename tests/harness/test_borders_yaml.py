"""Suites that are odd: one sentence with exit code 2, whatever stands in them."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esft_bench.harness import cli
from esft_bench.spec.errors import UserError
from esft_bench.spec.suite_file import load

SUITE = """\
name: tiny
tasks: [mini-intent]
general: [mini-cloze]
alignment: mini-alignment
seeds: [0]
methods:
  base: {title: Base}
  fft: {title: FFT, learning_rate: 1.0e-3}
  lora: {title: LoRA, learning_rate: 1.0e-2, rank: 2}
training: {steps: 6, batch_size: 2, sequence_length: 128}
evaluation: {engine: transformers, limit: 3}
"""
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {k: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
"""What PyYAML would write out, key by key."""

ODD: dict[str, tuple[str | bytes, str]] = {
    "UTF-16": (SUITE.encode("utf-16"), "not UTF-8"),
    "Latin-1": (SUITE.replace("Base}", "Modèle}").encode("latin-1"), "not UTF-8"),
    "a control character": (SUITE.replace("FFT", "F\x07T"), "a control character (U+0007)"),
    "an escaped control character": (SUITE.replace("title: FFT", 'title: "\\e[31m"'), "a control character (U+001B)"),
    "NUL": (SUITE + "\0", "a control character (U+0000)"),
    "half of a surrogate pair": (SUITE.replace("title: FFT", 'title: "\\ud800"'), "half of a surrogate pair"),
    "a tab": (SUITE.replace("\n  fft", "\n\tfft"), "this is not YAML"),
    "two rows of a name": (
        SUITE.replace("  lora:", "  fft:"),
        "line 9: this is not YAML (the key 'fft' is there twice",
    ),
    "a section twice": (SUITE + "training: {steps: 3}\n", "the key 'training' is there twice"),
    "a row called no": (SUITE.replace("fft:", "no:"), "the key no is read as False"),
    "a row called 1": (SUITE.replace("fft:", "1:"), "should be a valid string"),
    "a row that is a path": (SUITE.replace("fft:", "../../../ESCAPED/x:"), "a row's name has letters"),
    "a row of 300 characters": (SUITE.replace("fft:", "f" * 300 + ":"), "a row's name has letters"),
    "a title of 300 characters": (SUITE.replace("FFT", "f" * 300), "at most 200 characters"),
    "a title of two lines": (SUITE.replace("title: FFT", 'title: "F\\nT"'), "a title has one line"),
    "a name of 300 characters": (SUITE.replace("tiny", "t" * 300), "at most 100 characters"),
    "a task of 300 characters": (SUITE.replace("mini-intent", "t" * 300), "There is no task"),
    "one title twice": (SUITE.replace("LoRA", "FFT"), "have the same title"),
    "names that differ in capitals": (SUITE.replace("  lora:", "  FFT:"), "have the same file names"),
    "a seed twice": (SUITE.replace("[0]", "[0, 0]"), "0 is there twice"),
    "a negative seed": (SUITE.replace("[0]", "[-1]"), "greater than or equal to 0"),
    "an endless seed": (SUITE.replace("[0]", "[4294967296]"), "less than or equal to"),
    "a task twice": (SUITE.replace("[mini-intent]", "[mini-intent, mini-intent]"), "mini-intent is there twice"),
    "a task in two sections": (SUITE.replace("mini-cloze", "mini-intent"), "is under tasks and under general"),
    "rows that ablate each other": (
        SUITE.replace("  fft: {", "  fft: {ablates: lora, ").replace("  lora: {", "  lora: {ablates: fft, "),
        "methods.fft comes back to itself: fft → lora → fft",
    ),
    "a row that ablates itself": (SUITE.replace("  fft: {", "  fft: {ablates: fft, "), "comes back to itself"),
    "a row that continues itself": (
        SUITE.replace("  fft: {", "  fft: {continues: fft, after: [mini-intent], "),
        "no row of single tasks",
    ),
    "a suite that extends itself": (SUITE + "extends: SELF\n", "extend each other"),
    "an alias inside itself": (SUITE.replace("methods:", "methods: &m").replace("FFT,", "FFT, x: *m,"), "inside what"),
    "an unknown alias": (SUITE.replace("FFT,", "FFT, x: *nope,"), "undefined alias"),
    "a bomb of aliases": (SUITE + BOMB, "more than 100,000 values"),
    "a bomb of merges": (SUITE + MERGES, "more than 100,000 values"),
    "deep nesting": (SUITE + f"x: {'[' * 500}{']' * 500}\n", "nested deeper than 40 levels"),
    "very deep nesting": (SUITE + f"x: {'[' * 50_000}\n", "nested deeper than 40 levels"),
    "a tag of Python's": (SUITE.replace("FFT", "!!python/object/apply:os.system [ls]"), "could not determine a const"),
    "a number of 5 000 digits": (SUITE.replace("steps: 6", "steps: " + "9" * 5000), "a number of 5000 characters"),
    "many steps": (SUITE.replace("steps: 6", "steps: 99999999999999999999"), "less than or equal to"),
    "no number": (SUITE.replace("1.0e-3", ".nan"), "no number to count with"),
    "an endless number": (SUITE.replace("1.0e-3", ".inf"), "no number to count with"),
    "an endless number in words": (SUITE.replace("1.0e-3", "inf"), "finite number"),
    "a date": (SUITE.replace("FFT", "2026-11-26"), "is read as a date"),
    "no date": (SUITE.replace("FFT", "2026-13-45"), "is no such value"),
    "betas of one": (SUITE.replace("steps: 6", "steps: 6, betas: [1.0, 1.0]"), "less than 1"),
    "port 99999": (SUITE.replace("limit: 3", "limit: 3, port: 99999"), "less than or equal to 65535"),
    "port -1": (SUITE.replace("limit: 3", "limit: 3, port: -1"), "greater than or equal to 1"),
    "an empty backbone": (SUITE + 'backbone: {path: ""}\n', "at least 1 character"),
    "an empty file": ("", "valid dictionary"),
    "a list": ("- a\n- b\n", "valid dictionary"),
    "two documents": (SUITE + "---\n" + SUITE, "found another document"),
    "a row without value": (SUITE.replace(" {title: Base}", ""), "methods.base"),
    "a megabyte": ("# " + "x" * 1_000_000 + "\n" + SUITE, "larger than"),
}


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """`refused(…)`: the one sentence with which the command line, with exit code 2, refuses these arguments."""

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["esft-bench", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        complaint = capsys.readouterr().err
        assert ended.value.code == 2
        assert len(complaint.splitlines()) == 1
        assert len(complaint) < 1000
        return complaint

    return run


@pytest.mark.parametrize("name", list(ODD))
def test_an_odd_suite_is_refused_in_one_sentence(refused, tmp_path, name):
    content, sentence = ODD[name]
    path = tmp_path / "odd.yaml"
    path.write_bytes(content if isinstance(content, bytes) else str(content).replace("SELF", str(path)).encode())
    assert sentence in refused("plan", str(path), "--no-price")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--only", ",,,"], "--only ,,,: write method=NAME"),
        (["--only", ""], "write method=NAME"),
        (["--only", "method="], "write method=NAME"),
        (["--backbone", ""], "names no backbone"),
        (["--backbone", "@main"], "names no backbone"),
        (["--backbone", "x" * 300], "File name too long"),
        (["--engine", ""], "evaluation.engine"),
        (["--seeds", ""], "seeds"),
        (["--seeds", "0,0"], "0 is there twice"),
        (["--seeds", "9" * 5000], "a number of 5000 characters"),
        (["--set", "training.steps=[" * 9], "not YAML"),
        (["--set", 'methods.fft.title="\\ud800"'], "half of a surrogate pair"),
        (["--run-dir", "runs\udcff"], "half of a surrogate pair"),
        (["--run-dir", "a\x1b[31mb"], "a control character"),
        (["--run-dir", "r" * 300], "File name too long"),
        (["--run-dir", "/dev/null/runs"], "cannot be written"),
    ],
)
def test_an_odd_argument_is_refused_in_one_sentence(refused, tmp_path, arguments, sentence):
    (tmp_path / "suite.yaml").write_text(SUITE)
    assert sentence in refused("plan", "suite.yaml", "--no-price", *arguments)


def test_a_run_whose_results_are_damaged_has_no_such_cell(refused, tmp_path):
    (tmp_path / "results.jsonl").write_bytes(b'\xff\n[1]\n{"value": ' + b"9" * 5000 + b"}\n")
    assert "has no results of fft on mini-law" in refused("where", "fft", "mini-law", "--run", ".")


@pytest.mark.parametrize("suite", ["s" * 300, "/dev/null", "[/red]", "."])
def test_what_is_no_suite_file_is_refused_in_one_sentence(refused, suite):
    assert "esft-bench: " in refused("plan", suite)


def test_the_installed_command_refuses_with_exit_code_2_too(tmp_path):
    (tmp_path / "odd.yaml").write_bytes(SUITE.encode("utf-16"))
    command = [sys.executable, "-m", "esft_bench.harness.cli", "plan", "odd.yaml"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "esft-bench: odd.yaml: not UTF-8 at byte 1; save the file as UTF-8.\n"


def test_a_suite_with_a_mark_of_utf_8_and_windows_line_ends_is_read(tmp_path):
    path = tmp_path / "suite.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + SUITE.replace("\n", "\r\n").encode())
    assert load(str(path)).title("fft") == "FFT"


def test_aliases_and_merges_that_end_are_read(tmp_path):
    path = tmp_path / "suite.yaml"
    path.write_text(SUITE.replace("fft: {", "fft: &fft {").replace("lora: {title", "lora: {<<: *fft, title"))
    assert load(str(path)).methods["lora"].title == "LoRA"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.binary(max_size=200) | st.text(st.characters(), max_size=200).map(lambda t: t.encode(errors="surrogatepass")))
def test_any_bytes_are_a_suite_or_one_sentence(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(content)
    _a_suite_or_a_sentence(path)


@given(
    st.integers(0, len(SUITE) - 1),
    st.integers(0, 20),
    st.text(st.sampled_from("{}[]&*!|>'\"%@`:,-#?<= \n\t.0e"), max_size=8),
)
def test_a_suite_in_which_anything_was_typed_is_a_suite_or_one_sentence(tmp_path_factory, place, cut, typed):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_text(SUITE[:place] + typed + SUITE[place + cut :])
    _a_suite_or_a_sentence(path)


@given(
    st.sampled_from(["name", "seeds", "tasks", "methods.fft", "methods.lora.rank", "training.steps", "quick", "judge"]),
    VALUES,
)
def test_a_field_set_to_anything_is_a_suite_or_one_sentence(tmp_path_factory, field, value):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_text(SUITE)
    _a_suite_or_a_sentence(path, f"{field}={value}")


def _a_suite_or_a_sentence(path: Path, *changes: str) -> None:
    try:
        suite = load(str(path), changes)
    except UserError:
        return
    for row in suite.methods:
        suite.row(row)
    suite.model_dump_json()
