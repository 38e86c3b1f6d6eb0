"""The plan: which cells there are, what their keys depend on, and what is refused before anything runs."""

import pytest
from transformers import AutoTokenizer

from esft_bench.harness.commands.options import RunOptions
from esft_bench.harness.commands.plan import foreseen
from esft_bench.harness.commands.run import execute
from esft_bench.harness.plan.state import state_of
from esft_bench.harness.terminal import Terminal
from esft_bench.methods.errors import MethodError
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import write_jsonl
from esft_bench.tasks.mini import BACKBONE
from tests.harness.plans import finish, graph_of, prepared

ROWS = """\
name: tiny
tasks: [mini-law, mini-intent]
general: [mini-facts]
alignment: mini-alignment
seeds: [0, 1]
methods:
  base: {}
  fft: {learning_rate: 9.0e-4}
  esft-gate: {learning_rate: 1.0e-2, p: 0.1}
training: {steps: 2, batch_size: 2, sequence_length: 128}
profiling: {sequences: 2, sequence_length: 128}
evaluation: {engine: transformers}
"""


@pytest.fixture
def made(tmp_path):
    """`made(text)`: a suite of that text, prepared; everything under one run folder."""
    return lambda text=ROWS, **options: prepared(tmp_path, text, **options)


@pytest.fixture
def planned(made):
    """`planned(text)`: the plan of such a suite."""
    return lambda text=ROWS, **options: made(text, **options).plan


def train_key(one, cell):
    return graph_of(one).key(one.plan.paths[cell].training)


def test_there_is_one_base_cell_and_one_cell_for_each_method_task_and_seed(planned):
    cells = planned().cells
    assert len(cells) == 1 + 2 * 2 * 2
    assert [cell.label for cell in cells[:2]] == ["base", "fft · mini-law · seed 0"]


def test_a_trained_cell_is_tested_on_its_task_and_the_base_model_on_all(planned):
    plan = planned()
    assert plan.matrix.benchmarks(plan.cells[0]) == ["mini-law", "mini-intent", "mini-facts"]
    assert plan.matrix.benchmarks(plan.cells[1]) == ["mini-law", "mini-facts"]


def test_a_cell_that_selects_experts_waits_for_its_profile(made):
    one = made()
    esft = next(path.training for cell, path in one.plan.paths.items() if cell.method == "esft-gate")
    assert not graph_of(one).is_ready(esft)
    finish(one, *esft.profiles.values())
    assert graph_of(one).is_ready(esft)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("steps: 2,", "steps: 3,", False),
        ("9.0e-4", "8.0e-4", False),
        ("{engine: transformers}", "{engine: transformers, batch_size: 1, port: 9000}", True),
        ("name: tiny", "name: other", True),
        ("general: [mini-facts]", "general: []", True),
    ],
)
def test_a_training_key_depends_on_what_changes_weights_and_on_nothing_else(made, old, new, same):
    before = made()
    cell = before.plan.cells[1]
    assert (train_key(before, cell) == train_key(made(ROWS.replace(old, new)), cell)) == same


def test_a_cells_state_moves_from_step_to_step(made):
    one = made()
    path = one.plan.paths[one.plan.cells[1]]
    states = []
    for steps in ([], [path.training], path.answers.values(), [path.scores["mini-law"]]):
        for step in steps:
            finish(one, step)
        states.append(state_of(path, graph_of(one)))
    assert states == ["to do", "trained", "answered", "done"]


def test_verdicts_that_met_an_outage_are_there_and_not_finished(made):
    one = made()
    path = one.plan.paths[one.plan.cells[1]]
    for step in (path.training, *path.answers.values()):
        finish(one, step)
    finish(one, path.scores["mini-law"], failed=2)
    graph = graph_of(one)
    assert path.scores["mini-law"] in graph.artifacts
    assert graph.is_ready(path.scores["mini-law"])
    assert state_of(path, graph) == "answered"


def test_only_chooses_cells_and_keeps_the_base_model_if_its_row_is_chosen(made):
    chosen = made(only="method=base,method=fft,task=mini-law").chosen
    assert [cell.label for cell in chosen] == ["base", "fft · mini-law · seed 0", "fft · mini-law · seed 1"]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("mini-law,", "mini-lav,", "no task 'mini-lav'; did you mean mini-law"),
        ("[mini-law, mini-intent]", "[mini-law, mini-cloze]", "task 'mini-cloze' has no training data"),
        ("[mini-facts]", "[mini-alignment]", "task 'mini-alignment' has no evaluation items"),
        ("fft: {", "ffft: {", "there is no method 'ffft'"),
        ("p: 0.1", "p: 1.5", r"methods\.esft-gate\.p"),
        ("p: 0.1", "q: 0.1", r"methods\.esft-gate\.q"),
        ("name: tiny", "name: tiny\nbackbone: {path: no/such}", "'no/such' is no folder here"),
    ],
)
def test_a_suite_that_asks_for_what_is_not_there_is_refused_in_one_sentence(planned, old, new, sentence):
    with pytest.raises(UserError, match=sentence) as refused:
        planned(ROWS.replace(old, new))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "row", ["esft-gate: {}", "attention-router: {}", "all-experts: {}", "lora: {experts: true}", "fft: {group_size: 2}"]
)
def test_a_dense_backbone_is_refused_where_experts_are_to_be_touched(planned, tiny_checkpoint, row):
    text = ROWS.replace("  esft-gate: {learning_rate: 1.0e-2, p: 0.1}\n", "")
    folder = tiny_checkpoint("dense")
    AutoTokenizer.from_pretrained(BACKBONE).save_pretrained(folder)
    dense = f"backbone: {{path: {folder}}}\n"
    name = row.partition(":")[0]
    with pytest.raises(UserError, match=rf"methods\.{name}: LlamaForCausalLM is not a mixture-of-experts model"):
        planned(text.replace("  fft: {learning_rate: 9.0e-4}\n", f"  {row}\n") + dense)
    planned(text + dense)


def test_a_selection_that_does_not_fit_the_backbone_is_refused_before_anything_is_computed(planned):
    given = "p: 0.1, selection: {0: [64]}"
    with pytest.raises(UserError, match=r"methods\.esft-gate: the selection names expert 64 in layer 0"):
        planned(ROWS.replace("p: 0.1", given))
    with pytest.raises(UserError, match=r"methods\.esft-gate\.selection: .*is not an ESFT adapter"):
        planned(ROWS.replace("p: 0.1", "p: 0.1, selection: no/such"))
    with pytest.raises(UserError, match=r"methods\.esft-gate\.selection: tasks that are trained together have one"):
        planned(ROWS.replace("p: 0.1", "p: 0.1, together: true, selection: 'x/{task}'"))
    with pytest.raises(MethodError, match=r"x/mini-law is not an ESFT adapter"):
        planned(ROWS.replace("p: 0.1", "p: 0.1, selection: 'x/{task}'"))


def test_a_backbone_without_safetensors_is_refused(planned, tiny_checkpoint):
    folder = tiny_checkpoint("olmoe")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="holds no"):
        planned(ROWS + f"backbone: {{path: {folder}}}\n")


def test_a_malformed_row_is_refused_with_its_file_and_line(planned, tmp_path):
    folder = tmp_path / "data" / "esft_intent"
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    write_jsonl(folder / "train.jsonl", [good, {"messages": "odd"}])
    write_jsonl(folder / "eval.jsonl", [])
    with pytest.raises(UserError, match=r"train\.jsonl.*line 2"):
        planned(ROWS.replace("mini-law, mini-intent", "intent-bdci"), data_dir=tmp_path / "data")


def test_a_data_folder_without_the_files_is_refused(planned, tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match="esft_intent"):
        planned(ROWS.replace("mini-law, mini-intent", "intent-bdci"), data_dir=tmp_path / "data")


REAL = """\
name: real
tasks: [metamathqa]
methods: {base: {}, fft: {}}
training: {steps: 2, batch_size: 2, sequence_length: 128}
evaluation: {engine: transformers}
"""


def jsonl(path, *rows):
    path.parent.mkdir(exist_ok=True)
    write_jsonl(path, rows)


@pytest.fixture
def math_data(tmp_path):
    """A data folder with two sums to train on, and GSM8K and MATH to test on."""
    folder = tmp_path / "data"
    folder.mkdir()
    jsonl(folder / "metamathqa/train.jsonl", *({"query": f"1+{n}?", "response": f"{n + 1}"} for n in range(2)))
    for split in ("train", "test"):
        jsonl(folder / f"gsm8k/{split}.jsonl", {"question": f"{split}?", "answer": "#### 2"})
    jsonl(folder / "math/test.jsonl", {"problem": "1+1", "solution": "\\boxed{2}"})
    return folder


def test_training_data_without_items_are_tested_on_the_benchmarks_they_name(planned, math_data):
    plan = planned(REAL, data_dir=math_data)
    base, trained = plan.cells
    assert plan.matrix.benchmarks(trained) == ["gsm8k", "math"]
    assert plan.matrix.benchmarks(base) == ["gsm8k", "math"]
    assert [plan.data[name].count for name in ("gsm8k", "math")] == [1, 1]


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("metamathqa/train.jsonl", '{"query": "1+1?"}', r"Task 'metamathqa': .*train\.jsonl, line 1: field 'response'"),
        ("metamathqa/train.jsonl", "", r"Task 'metamathqa': Split 'train' of data set 'metamathqa' has no rows"),
        ("gsm8k/test.jsonl", '{"question": 1}', r"Task 'gsm8k': .*test\.jsonl, line 1: field 'question' must be"),
        ("math/test.jsonl", '{"problem": "", "solution": "2"}', r"Task 'math': math, split 'test', row 1: 'solution'"),
    ],
)
def test_bad_data_are_refused_by_task_file_and_line(planned, math_data, file, content, complaint):
    (math_data / file).write_text(content)
    with pytest.raises(UserError, match=complaint) as caught:
        planned(REAL, data_dir=math_data)
    assert "\n" not in str(caught.value)


def test_finished_steps_stay_when_data_go_bad(made, math_data):
    one = made(REAL, data_dir=math_data)
    kept = finish(one, one.plan.paths[one.plan.cells[0]].training)
    (math_data / "metamathqa/train.jsonl").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        made(REAL, data_dir=math_data)
    assert kept.folder.is_dir()


def test_rows_are_read_once_and_again_when_their_file_changes_or_the_copy_is_damaged(made, math_data, monkeypatch):
    first = made(REAL, data_dir=math_data).plan.data["gsm8k"]
    monkeypatch.setattr("esft_bench.harness.plan.data._write", lambda *_: pytest.fail("the rows were read again"))
    assert made(REAL, data_dir=math_data).plan.data["gsm8k"] == first
    monkeypatch.undo()
    first.items.path.write_text("")
    assert made(REAL, data_dir=math_data).plan.data["gsm8k"].items.path.read_text() != ""
    jsonl(math_data / "gsm8k/test.jsonl", {"question": "changed?", "answer": "#### 3"})
    assert made(REAL, data_dir=math_data).plan.data["gsm8k"].items != first.items


def test_what_can_be_resolved_is_told_of_the_benchmarks_that_stand_for_training_data(made, math_data):
    (table,) = foreseen(made(REAL, data_dir=math_data))
    assert list(table.columns[0].cells) == ["GSM8K", "MATH"]


def test_a_task_without_a_pinned_revision_is_refused_until_the_suite_names_one(planned, monkeypatch):
    code = REAL.replace("metamathqa", "evol-codealpaca")
    with pytest.raises(UserError, match=r"Task 'evol-codealpaca': .*`data: \{evol_codealpaca: \{revision: COMMIT\}\}`"):
        planned(code)
    monkeypatch.setattr("datasets.load_dataset", lambda name, config, **more: [] if more["revision"] else None)
    with pytest.raises(UserError, match="Split 'train' of data set 'evol_codealpaca' has no rows"):
        planned(code + "data: {evol_codealpaca: {revision: abc}}\n")


def test_the_report_is_told_that_the_alignment_data_are_not_the_papers(made, math_data):
    said = {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello to you"}]}
    jsonl(math_data / "alignment/train.jsonl", said)
    notes = made(REAL + "alignment: alignment-public\n", data_dir=math_data).notes
    assert any("public instructions without math and code" in note for note in notes)


def test_generated_code_is_refused_before_training_where_no_sandbox_works(made, tmp_path, monkeypatch):
    monkeypatch.setattr("esft_bench.tasks.sandbox.isolation", lambda: "limits only")
    monkeypatch.delenv("ESFT_BENCH_UNSAFE_CODE", raising=False)
    one = made(ROWS.replace("mini-law", "mini-code"))
    with pytest.raises(UserError, match="neither bubblewrap nor user namespaces"):
        execute(one, RunOptions(workers=1), Terminal(quiet=True), "esft-bench run")
    assert not list((tmp_path / "runs").rglob("train"))
