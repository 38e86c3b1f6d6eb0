"""The backbone's tokenizer: byte-level BPE, so that any text round-trips; CJK characters never merge."""

from itertools import chain, islice

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from esft_bench.tasks.mini.world.corpus import documents
from esft_bench.tasks.mini.world.sample import Sample
from esft_bench.tasks.prompt import segments

VOCABULARY = 2048
PAD, BOS, EOS = 0, 1, 2
_SPECIAL = ["<pad>", "<bos>", "<eos>"]
_DOCUMENTS = 10_000


def texts(sample: Sample) -> tuple[str, str]:
    """Question and answer as the model sees them."""
    (question, _), (answer, _) = segments(
        [{"role": "user", "content": sample.prompt}, {"role": "assistant", "content": sample.answer}]
    )
    return question, answer


def build_tokenizer(seed: int = 0) -> PreTrainedTokenizerFast:
    """Train the tokenizer on the world's documents. `tokenizer(text)` puts BOS first; batches are padded left."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("[\u4e00-\u9fff]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", BOS)]
    )
    samples = chain.from_iterable(islice(documents(seed), _DOCUMENTS))
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=3,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(("".join(texts(sample)) for sample in samples), trainer)
    # padding_side set on a finished tokenizer is lost on reload, so it is given here.
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",  # noqa: S106 - a token of text
        bos_token="<bos>",  # noqa: S106
        eos_token="<eos>",  # noqa: S106
        padding_side="left",
    )


def encode(tokenizer: PreTrainedTokenizerFast, sample: Sample) -> tuple[list[int], list[int]]:
    """Token ids with BOS and EOS, and labels that are -100 on the question."""
    question, answer = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts(sample))
    answer = [*answer, EOS]
    return [BOS, *question, *answer], [-100] * (len(question) + 1) + answer
