import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.instance import Instance

from esft_bench.harness.backbone.model import load_tokenizer
from esft_bench.harness.serving.engines import VllmEngine
from esft_bench.harness.serving.lm import (
    PROMPTS_A_REQUEST,
    TOKENS_A_QUERY,
    ServerLM,
    Tokens,
    _batches,
    _beginnings,
    _chain,
    _until,
)
from tests.harness.conftest import Checkpoint

tokens = st.lists(st.integers(0, 300), min_size=1, max_size=4).map(tuple)


def test_options_that_begin_alike_share_their_queries() -> None:
    assert _beginnings((1, 2), [(5, 6), (5, 7), (8,)]) == {(1, 2): {5, 8}, (1, 2, 5): {6, 7}}


@given(st.lists(tokens, min_size=1, max_size=6))
def test_an_options_likelihood_is_the_product_over_its_tokens(options: list[Tokens]) -> None:
    """With a uniform distribution over V tokens an option of n tokens has the log-likelihood -n log V."""
    size = 301
    tree = _beginnings((1,), options)
    known = {beginning: dict.fromkeys(following, -math.log(size)) for beginning, following in tree.items()}
    for option in options:
        assert _chain((1,), option, known)[0] == pytest.approx(-len(option) * math.log(size))


def test_greedy_means_every_token_is_the_most_likely() -> None:
    known = {(1,): {5: -0.1, 8: -3.0}, (1, 5): {6: -2.0, 9: -0.2}}
    assert _chain((1,), (5,), known) == (-0.1, True)
    assert _chain((1,), (5, 6), known) == (pytest.approx(-2.1), False)


@given(st.dictionaries(tokens, st.sets(st.integers(0, 400), min_size=1, max_size=9), max_size=200))
def test_every_beginning_is_asked_once_within_the_servers_bounds(following: dict[Tokens, set[int]]) -> None:
    batches = list(_batches(following))
    assert sorted(beginning for batch in batches for beginning in batch) == sorted(following)
    for batch in batches:
        assert len(batch) <= PROMPTS_A_REQUEST
        assert len(set().union(*(following[beginning] for beginning in batch))) <= TOKENS_A_QUERY
    for before, after in pairwise(batches):
        both = set().union(*(following[beginning] for beginning in [*before, after[0]]))
        assert len(before) == PROMPTS_A_REQUEST or len(both) > TOKENS_A_QUERY


@pytest.mark.slow
def test_shared_queries_give_the_likelihoods_of_whole_prompts(
    engine: VllmEngine, checkpoints: list[Checkpoint]
) -> None:
    engine.load(checkpoints[0].model, checkpoints[0].canary)
    lm = engine.lm()
    assert isinstance(lm, ServerLM)
    tokenizer = load_tokenizer(checkpoints[0].folder)
    question = tokenizer("User: Who was wild?\n\nAssistant:").input_ids
    options = [
        tokenizer(text, add_special_tokens=False).input_ids for text in (" the cat", " the horse", " a fox", " I")
    ]
    requests = [(None, question, option) for option in options]
    shared = lm._loglikelihood_tokens(requests)
    whole = super(ServerLM, lm)._loglikelihood_tokens(requests)
    assert [value for value, _ in shared] == pytest.approx([value for value, _ in whole], abs=1e-4)
    assert [greedy for _, greedy in shared] == [greedy for _, greedy in whole]


def test_an_answer_ends_at_the_first_of_all_its_stops() -> None:
    assert _until("a = 1\nprint(a)\ndef b", ["\ndef", "\nprint"]) == "a = 1"
    assert _until("a = 1", []) == "a = 1"


@pytest.mark.slow
def test_a_request_may_have_more_stops_than_the_server_takes(engine: VllmEngine, checkpoints: list[Checkpoint]) -> None:
    engine.load(checkpoints[0].model, checkpoints[0].canary)
    lm = engine.lm()
    asked = "User: Who was wild?\n\nAssistant:"
    plain, stopped = (
        lm.generate_until([Instance("generate_until", {}, (asked, {"until": until, "max_gen_toks": 8}), 0)])[0]
        for until in (["\n\nUser:"], ["1", "2", "3", "4", "5", " the"])
    )
    assert stopped == plain.partition(" the")[0]
