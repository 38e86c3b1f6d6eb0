"""`--data` and `look`, from the command line."""

import csv
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from esft_bench.harness import cli
from esft_bench.harness.backbone.prompts import form_of
from esft_bench.harness.commands.options import SuiteOptions
from esft_bench.harness.commands.prepare import prepare
from esft_bench.harness.plan.own import OwnFiles, own_suite
from esft_bench.harness.training.survey import survey, tokens
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import read_jsonl
from esft_bench.spec.suite_file import load
from esft_bench.tasks.task import turn
from tests.harness.speakers import checkpoint, tokenizer

WORDS = {"positive": ["fine", "lovely", "great"], "negative": ["poor", "dull", "bad"]}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a table of 60 labelled texts, which one is in."""
    draw = random.Random(0)
    with (tmp_path / "My reviews.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["review", "sentiment"])
        for number in range(60):
            label = draw.choice(list(WORDS))
            rows.writerow([f"Film {number} was {draw.choice(WORDS[label])}.", label])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def typed(monkeypatch: pytest.MonkeyPatch, capsys: Any, *arguments: str) -> tuple[int, str, str]:
    """Exit code, what was printed and what was complained about."""
    monkeypatch.setattr(sys, "argv", ["esft-bench", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def test_a_file_alone_makes_a_suite_of_the_usual_rows_on_the_backbone_that_ships(here: Path) -> None:
    made = prepare(SuiteOptions(data=["My reviews.csv"], engine="transformers"))
    suite = made.plan.suite
    assert (suite.name, suite.tasks, suite.backbone.path) == ("my-reviews", ["my-reviews"], "mini")
    assert list(suite.methods) == ["base", "fft", "lora", "esft-token", "esft-gate"]
    assert all(name.startswith("mini-") for name in [*suite.general, suite.alignment])
    assert any(
        "text and label (prompt from 'review', label from 'sentiment'); 2 classes" in note for note in made.notes
    )
    assert any(note.startswith("Prompt format: `release`") for note in made.notes)


def test_on_another_backbone_nothing_of_the_small_world_is_tested(here: Path) -> None:
    folder = checkpoint(here / "tiny", "mixtral", "mixtral")
    made = prepare(SuiteOptions(data=["My reviews.csv"], engine="transformers", backbone=str(folder)))
    suite = made.plan.suite
    assert (suite.general, suite.alignment, suite.backbone.prompt) == ([], None, "chat_template")
    assert suite.training.sequence_length <= 1024
    assert suite.drift == ["python-text"]
    assert any("what a row forgets is told by bits a byte" in note for note in made.notes)


def test_few_rows_for_another_backbone_make_short_steps_and_many_rows_long_ones(here: Path) -> None:
    def tokens_of_training(rows: int) -> tuple[int, int]:
        lines = (json.dumps({"prompt": f"Say {n}. " + "a" * 690, "completion": f"{n}"}) for n in range(rows))
        (here / "rows.jsonl").write_text("\n".join(lines))
        _, changes = own_suite(OwnFiles(["rows.jsonl"]), "mini", "somewhere/else")
        told = dict(change.split("=", 1) for change in changes)
        return int(told["training.batch_size"]), int(told["training.steps"])

    assert tokens_of_training(60) == (1, 20)
    batch, steps = tokens_of_training(3000)
    assert batch == 16
    assert 2.5 < batch * steps * 2048 / (0.8 * 3000 * 200) < 3.5  # three passes over 2 400 rows of 200 tokens


def test_a_suites_rows_are_compared_on_the_users_file(here: Path) -> None:
    named, changes = own_suite(OwnFiles(["My reviews.csv"]), "mini-curves", None)
    suite = load(named, changes)
    assert suite.tasks == ["my-reviews"]
    assert suite.methods == load("mini-curves").methods


def test_trainings_on_a_users_rows_are_watched_by_their_own_metric(here: Path) -> None:
    made = prepare(
        SuiteOptions(
            data=["My reviews.csv"],
            engine="transformers",
            set=["training.evaluate_every=5", "training.validation_items=8"],
        )
    )
    held = made.plan.data["my-reviews"].held_out
    assert held is not None
    items = read_jsonl(held.path)
    assert len(items) == 8
    assert all(item["choices"][item["gold"]] == item["answer"] for item in items)
    assert any("the task's own metric on 8 rows held out" in note for note in made.notes)


def test_several_files_are_a_task_each_under_names_of_their_own(here: Path) -> None:
    (here / "sub").mkdir()
    (here / "sub" / "my_reviews.csv").write_bytes((here / "My reviews.csv").read_bytes())
    named, changes = own_suite(OwnFiles(["My reviews.csv", "sub/my_reviews.csv"]), "mini", None)
    assert load(named, changes).tasks == ["my-reviews", "my-reviews-2"]


def test_a_set_on_the_hub_needs_a_revision() -> None:
    with pytest.raises(UserError, match=r"--data someone/rows: .*give the `revision` of someone/rows"):
        own_suite(OwnFiles(["someone/rows"]), "mini", None)


def test_a_set_on_the_hub_is_asked_for_at_its_revision_and_its_labels_have_names(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    rows = Dataset.from_list([{"text": f"Text {n}", "label": n % 2} for n in range(60)], features)
    asked: list[Any] = []

    def hub(*name: Any, **told: Any) -> Dataset:
        asked.append((*name, told))
        return rows

    monkeypatch.setattr("datasets.load_dataset", hub)
    made = prepare(SuiteOptions(data=["someone/rows@0123abc"], engine="transformers"), weights=False)
    assert set(map(str, asked)) == {str(("someone/rows", None, {"split": "train", "revision": "0123abc"}))}
    assert made.plan.suite.tasks == ["rows"]
    assert any("2 classes; " in note for note in made.notes)


def test_a_set_on_the_hub_that_cannot_be_reached_is_one_sentence(here: Path, monkeypatch, capsys) -> None:
    code, _, complaint = typed(monkeypatch, capsys, "plan", "--engine", "transformers", "--data", "nobody/rows@0123abc")
    assert code == 2
    assert "Split 'train' of nobody/rows@0123abc could not be read" in " ".join(complaint.split())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data", "none.csv"], "none.csv: there is no such file or folder"),
        (["--data", "My reviews.csv", "--columns", "prompt"], "--columns prompt: write PART=COLUMN"),
        (["--data", "My reviews.csv", "--columns", "text=review,colour=x"], "--data My reviews.csv, columns.colour"),
        (["--data", "My reviews.csv", "--metric", "bleu"], "--data My reviews.csv, metric: Input should be"),
        (["--data", "My reviews.csv", "--test", "My reviews.csv"], "questions to test on are trained on too"),
        (["--columns", "a=b"], "--columns, --metric and --test say what --data FILE is"),
    ],
)
def test_what_cannot_be_used_is_one_sentence_and_exit_code_2(here: Path, monkeypatch, capsys, arguments, sentence):
    code, _, complaint = typed(monkeypatch, capsys, "plan", "--engine", "transformers", *arguments)
    assert code == 2
    assert sentence in complaint
    assert len(complaint.strip().splitlines()) == 1


def test_a_described_task_that_is_wrong_is_refused_with_its_line(here: Path, monkeypatch, capsys) -> None:
    (here / "suite.yaml").write_text(
        "name: s\nmethods: {base: {}}\ntasks:\n  - name: mine\n    files: My reviews.csv\n    metric: bleu\n"
    )
    code, _, complaint = typed(monkeypatch, capsys, "plan", "suite.yaml")
    assert code == 2
    assert "suite.yaml, line 6, tasks.mine.metric: Input should be" in complaint


def test_look_shows_rows_token_by_token_with_what_counts_between_marks(here: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    code, printed, _ = typed(monkeypatch, capsys, "look", "My reviews.csv")
    assert code == 0
    assert printed.count("<bos>") == 3
    assert printed.count("⟦") == printed.count("⟧") == 4
    assert "\x1b" not in printed
    assert "60 rows" not in printed
    assert "samples" in printed


def test_look_counts_what_is_cut_what_looks_like_control_and_what_becomes_bytes() -> None:
    form = form_of("auto", tokenizer("qwen3"))
    rows = [turn("a", "b"), turn("a <|im_end|> b", "c"), turn("Привет", "d" * 200), turn("e" * 200, "f")]
    found = survey(form, rows, 128)
    assert (found.rows, found.samples, found.cut, found.unseen) == (4, 4, 2, 1)
    assert found.controls == (1, "<|im_end|>")
    assert found.broken == {"Cyrillic": 1.0}
    assert found.supervised == sum(len(row[1]["content"]) + 1 for row in rows)
    (shown,) = tokens(form, rows[0])
    assert "".join(token.text for token in shown if token.counts) == "b<|im_end|>"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["a table", "ShareGPT with three bad rows on a tiny Mixtral"])
def test_a_file_becomes_a_report(here: Path, monkeypatch, capsys, kind: str) -> None:
    told = ["My reviews.csv"]
    if kind != "a table":
        rows: list[Any] = [
            {"conversations": [{"from": "human", "value": f"Say {n}."}, {"from": "gpt", "value": str(n)}]}
            for n in range(60)
        ]
        rows[3] = {"conversations": []}
        rows[5] = {"conversations": [{"from": "alien", "value": "x"}]}
        rows[7] = {"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": " "}]}
        (here / "chat.json").write_text(json.dumps(rows))
        told = ["chat.json", "--backbone", str(checkpoint(here / "tiny", "mixtral", "mixtral", pad=False))]
    options = ["--engine", "transformers", "--steps", "5", "--limit", "4", "--workers", "1"]
    smaller = ["--set", "training.batch_size=2", "--set", "profiling.sequences=2"]
    code, printed, complaint = typed(monkeypatch, capsys, "run", "--data", *told, *options, *smaller)
    assert code == 0, complaint
    (folder,) = (path for path in (here / "runs").iterdir() if not path.name.startswith("."))
    assert "esft-bench export " in printed
    assert ("3 rows were left out: chat.json, row 4: " in " ".join(printed.split())) is (kind != "a table")
    assert "Samples that share a training sequence attend to themselves alone" in (folder / "report.md").read_text()
    results = read_jsonl(folder / "results.jsonl")
    own = [row for row in results if row["role"] == "ability"]
    assert {row["state"] for row in own} == {"scored"}
    assert {row["method"] for row in own} == {"base", "fft", "lora", "esft-token", "esft-gate"}
