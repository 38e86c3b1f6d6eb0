"""Testing asks in the ids that training taught, and decodes its own way, whatever lies beside the weights."""

import json
from pathlib import Path
from shutil import copytree

import pytest
import torch
from lm_eval.api.instance import Instance
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from esft_bench.harness.backbone.model import load_model, load_tokenizer
from esft_bench.harness.backbone.prompts import Form, Release
from esft_bench.harness.serving import canary
from esft_bench.harness.serving.client import Client
from esft_bench.harness.serving.engines import TransformersEngine
from esft_bench.harness.serving.lm import ServerLM
from esft_bench.harness.serving.requests import DECODING, SAMPLING
from esft_bench.harness.training.data import encode, first_turns, turn_ids
from esft_bench.spec.errors import UserError
from esft_bench.spec.files import read_jsonl, write_jsonl
from esft_bench.tasks.prompt import question
from esft_bench.tasks.task import turn
from tests.conftest import build
from tests.harness.conftest import BACKBONE, untrained

ADDED = {
    "adds both": "<s> $A </s>",
    "adds EOS": "$A </s>",
    "adds BOS": "<s> $A",
    "adds nothing": "$A",
}
SPECIAL = ["<pad>", "<s>", "</s>"]
ROWS = [turn("how are you", "so so"), turn("what is new", "not a thing"), turn("who asks", "me")]


def words(kind: str, bos: bool) -> PreTrainedTokenizerFast:
    """A tokenizer of single bytes that puts around texts what its kind says; spaces at a beginning are tokens too."""
    letters = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE({token: n for n, token in enumerate([*SPECIAL, *sorted(letters)])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    ids = [(token, tokenizer.token_to_id(token)) for token in SPECIAL]
    tokenizer.post_processor = processors.TemplateProcessing(single=ADDED[kind], special_tokens=ids)
    named = {"bos_token": "<s>"} if bos else {}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", **named)


@pytest.fixture(params=[(kind, bos) for kind in ADDED for bos in (True, False)], ids=str)
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model whose tokenizer is of one of the kinds, with three rows it was trained on."""
    folder = tmp_path / "checkpoint"
    build("olmoe", vocab_size=300, max_position_embeddings=256).save_pretrained(folder)
    words(*request.param).save_pretrained(folder)
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    return folder


def trained_canary(folder: Path) -> canary.Canary:
    """As a training leaves it."""
    form = form_in(folder)
    turns = first_turns(form, folder.parent / "rows.jsonl", 3)
    return canary.measure(load_model(folder), [turn_ids(form, *each) for each in turns], turns)


def form_in(folder: Path) -> Form:
    """The release's format with a checkpoint's tokenizer."""
    return Release(load_tokenizer(folder))


def test_the_ids_of_a_request_are_those_of_training(checkpoint: Path) -> None:
    form = form_in(checkpoint)
    expected = [sample.ids for row in read_jsonl(checkpoint.parent / "rows.jsonl") for sample in encode(form, row)]
    proof = trained_canary(checkpoint)
    assert proof.prompts == expected
    engine = TransformersEngine()
    engine.load(untrained(checkpoint), proof)
    local, remote = engine.lm(), ServerLM.connect(Client("http://127.0.0.1:9", 1), checkpoint, 64)
    for row, ids in zip(ROWS, expected, strict=True):
        ((asked, answer),) = form.turns(row)
        for lm in (local, remote):
            context, continuation = lm._encode_pair(asked, answer)
            assert [*context, *continuation] == ids
            assert ids.count(2) == 1
            assert lm.tok_encode(asked) == context
            assert lm.tok_encode([asked, asked], add_special_tokens=lm.add_bos_token) == [context, context]
        padded, mask = local.tok_batch_encode([asked, question("?")])
        assert padded[0].tolist() == context
        assert padded[1][mask[1] == 1].tolist() == local.tok_encode(question("?"))


def test_a_tokenizer_that_changed_since_training_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    build("olmoe", vocab_size=300).save_pretrained(folder)
    words("adds both", bos=True).save_pretrained(folder)
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    proof = trained_canary(folder)
    TransformersEngine().load(untrained(folder), proof)
    words("adds both", bos=False).save_pretrained(folder)
    with pytest.raises(UserError, match=r"other ids of 'User: how are you.*than the one that trained"):
        TransformersEngine().load(untrained(folder), proof)
    changed = words("adds both", bos=True)
    changed.eos_token = "<pad>"
    changed.save_pretrained(folder)
    with pytest.raises(UserError, match="than the one that trained"):
        TransformersEngine().load(untrained(folder), proof)


STEERING = {
    "repetition_penalty": 3.0,
    "no_repeat_ngram_size": 1,
    "suppress_tokens": list(range(50, 90)),
    "min_length": 20,
}


@pytest.fixture(scope="module")
def asked() -> list[Instance]:
    """Requests of free text."""
    kwargs = {"until": ["\n\n"], "max_gen_toks": 12}
    return [Instance("generate_until", {}, (question(text), kwargs), n) for n, text in enumerate(("a b", "Say 7."))]


def answers(folder: Path, asked: list[Instance]) -> list[str]:
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    engine = TransformersEngine()
    engine.load(untrained(folder), canary.measure(model, [tokenizer("a b c").input_ids]))
    return list(engine.lm().generate_until(asked, disable_tqdm=True))


def test_generation_defaults_of_a_checkpoint_change_no_answer(tmp_path: Path, asked: list[Instance]) -> None:
    plain, steered = tmp_path / "plain", tmp_path / "steered"
    build("olmoe", vocab_size=2048, max_position_embeddings=256).save_pretrained(plain)
    AutoTokenizer.from_pretrained(BACKBONE).save_pretrained(plain)
    copytree(plain, steered)
    (steered / "generation_config.json").write_text(json.dumps(STEERING | {"do_sample": True, "temperature": 9.0}))
    expected = answers(plain, asked)
    assert all(expected)
    assert answers(steered, asked) == expected


def test_an_answer_ends_at_the_tokenizers_end_though_the_configuration_names_another(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    model = build("olmoe", vocab_size=300, eos_token_id=7, max_position_embeddings=256)
    model.save_pretrained(folder)
    words("adds nothing", bos=True).save_pretrained(folder)
    engine = TransformersEngine()
    engine.load(untrained(folder), canary.measure(model, [[1, 5, 9]]))
    lm = engine.lm()
    end = torch.tensor([lm.tokenizer.eos_token_id])
    lm.model.lm_head.register_forward_hook(lambda module, inputs, logits: logits.index_fill(-1, end, 1e4))
    context, mask = lm.tok_batch_encode([question("a")])
    out = lm._model_generate(context, max_length=context.shape[1] + 6, stop=[], attention_mask=mask)
    assert out[0, context.shape[1] :].tolist() == end.tolist()


def test_a_server_is_told_how_to_decode_and_a_task_may_say_otherwise(tmp_path: Path) -> None:
    lm = ServerLM.connect(Client("http://127.0.0.1:9", 1), BACKBONE, 64)
    payload = lm._create_payload(
        [[1, 5]], generate=True, gen_kwargs={"until": list("abcdef"), "max_gen_toks": 3}, eos="</s>"
    )
    assert SAMPLING.items() <= payload.items()
    assert payload["stop_token_ids"] == [lm.tokenizer.eos_token_id]
    assert len(payload["stop"]) == 4
    warm = lm._create_payload([[1, 5]], generate=True, gen_kwargs={"temperature": 0.7, "top_p": 0.9}, eos="</s>")
    assert (warm["temperature"], warm["top_p"]) == (0.7, 0.9)
    scored = lm._create_payload([[1, 5]], generate=False)
    assert "stop_token_ids" not in scored
    assert json.loads(json.dumps(DECODING)) == DECODING


def test_the_shipped_backbones_requests_are_what_lm_eval_made_of_them(asked: list[Instance]) -> None:
    lm = ServerLM.connect(Client("http://127.0.0.1:9", 1), BACKBONE, 64)
    theirs = AutoTokenizer.from_pretrained(BACKBONE)
    assert lm.tok_encode(asked[1].args[0]) == theirs(asked[1].args[0]).input_ids
    whole = theirs(question("Say 7.") + " It is 7.").input_ids
    context, continuation = lm._encode_pair(question("Say 7."), " It is 7.")
    assert context + continuation == whole
