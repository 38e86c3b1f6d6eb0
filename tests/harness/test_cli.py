"""The command line: what a user can mend is one sentence and exit code 2."""

import sys

import pytest

from esft_bench.harness import cli


@pytest.fixture
def typed(monkeypatch, tmp_path, capsys):
    """`typed("run", …)`: exit code, what was printed and what was complained about, in an empty folder."""

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["esft-bench", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out, printed.err

    return run


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "no-such-suite"], "no suite 'no-such-suite'"),
        (["run", "--only", "task=mini-lav"], "did you mean 'mini-law'"),
        (["run", "intent-bdci", "--data-dir", "no/such/folder"], "no such folder"),
        (["run", "--seeds", "one"], "--set seeds.0: Input should be a valid integer"),
        (["run", "--engine", "ollama"], "--set evaluation.engine: Input should be 'vllm' or 'transformers'"),
        (["run", "--set", "training.stepz=20"], "--set training.stepz: Extra inputs are not permitted"),
        (["plan", "--set", "training"], "write FIELD=VALUE"),
        (["plan", "--set", "name.of=1"], "name has no fields"),
        (["plan", "--set", "methods.esft-gate.p=7"], "methods.esft-gate.p"),
        (["where", "fft", "mini-law"], "holds no results.jsonl"),
        (["run", "--quick", "--set", "quick=null"], "has no `quick` section"),
        (["report", "no/such/run"], "no such run folder"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence_and_exit_code_2(typed, arguments, sentence):
    code, _, complaint = typed(*arguments)
    assert code == 2
    assert sentence in complaint
    assert len(complaint.strip().splitlines()) == 1


def test_a_run_folder_that_cannot_be_made_is_refused_in_one_sentence(typed, tmp_path):
    (tmp_path / "runs").write_text("a file where a folder should be")
    code, _, complaint = typed("plan", "--engine", "transformers")
    assert code == 2
    assert "runs" in complaint
    assert len(complaint.strip().splitlines()) == 1


def test_plan_shows_every_row_and_computes_nothing(typed, tmp_path):
    code, printed, _ = typed("plan", "--engine", "transformers")
    assert code == 0
    assert "37 cells, 0 done" in printed
    assert "Minimum detectable effect" in printed
    assert "50 points over items" in printed
    assert all(title in printed for title in ("Base", "FFT", "LoRA", "ESFT-Token", "ESFT-Gate", "Random (Gate)"))
    assert not (tmp_path / "runs" / ".store" / "train").exists()


@pytest.mark.parametrize(
    ("command", "shown"), [("tasks", "mini-law"), ("methods", "esft-gate"), ("suites", "intent-bdci")]
)
def test_what_is_installed_is_listed(typed, command, shown):
    code, printed, _ = typed(command)
    assert code == 0
    assert shown in printed


def test_doctor_names_processor_packages_and_the_sandbox(typed):
    code, printed, _ = typed("doctor")
    assert code in (0, 1)  # 1 where this machine lacks something
    assert all(word in printed for word in ("processor", "torch", "sandbox for code", "free disk"))
