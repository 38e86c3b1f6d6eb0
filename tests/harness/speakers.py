"""Tokenizers of single bytes, with and without BOS, and the chat templates that models come with."""

import sys
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.conftest import build

SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
SPOKEN = ["<think>", "</think>"]
"""Tokens of their own that are no control tokens, as Qwen3 has them."""

QWEN3 = """{%- if tools %}<|im_start|>system
{{ messages[0].content + '\\n' if messages[0].role == 'system' }}Tools: {{ tools | tojson }}<|im_end|>
{% elif messages[0].role == 'system' %}<|im_start|>system
{{ messages[0].content }}<|im_end|>
{% endif %}{%- for message in messages %}{%- if message.role == 'user' %}<|im_start|>user
{{ message.content }}<|im_end|>
{% elif message.role == 'assistant' %}<|im_start|>assistant
{% if loop.last %}<think>

</think>

{% endif %}{{ message.content.strip() }}{% for call in message.tool_calls or [] %}<tool_call>
{{ call | tojson }}
</tool_call>{% endfor %}<|im_end|>
{% elif message.role == 'tool' %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% endif %}{% endfor %}{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}{% endif %}"""
"""Cut from Qwen3's: an answer at the end has an empty thought, an earlier one has none."""
MIXTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
DATED = "{{ strftime_now('%Y-%m-%d') }}" + MIXTRAL
TEMPLATES = {"qwen3": QWEN3, "mixtral": MIXTRAL, "dated": DATED}


def tokenizer(template: str | None = None, *, bos: bool = True, pad: bool = True) -> PreTrainedTokenizerFast:
    """A tokenizer with a template, by name; `bos` and `pad` say whether it has these tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({token: n for n, token in enumerate([*SPECIAL, *letters, *SPOKEN])}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(SPECIAL)
    made.add_tokens([AddedToken(token, special=False, normalized=False) for token in SPOKEN])
    named = {"bos_token": "<s>"} if bos else {}
    named |= {"pad_token": "<pad>"} if pad else {}
    found = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", **named)
    found.chat_template = TEMPLATES[template] if template else None
    return found


WIDE = {"hidden_size": 128, "head_dim": 64}
"""What vLLM's kernels for CPUs want of attention."""


def checkpoint(
    folder: Path, architecture: str, template: str | None = None, *, wide: bool = False, **tokens: bool
) -> Path:
    """A tiny random model with such a tokenizer, in a folder; a `wide` one is served by vLLM too."""
    size = WIDE if wide else {}
    build(architecture, vocab_size=320, max_position_embeddings=1024, **size).save_pretrained(folder)
    tokenizer(template, **tokens).save_pretrained(folder)
    return folder


def main() -> None:
    """Make the tiny models of three families in a folder: python -m tests.harness.speakers OUT."""
    out = Path(sys.argv[1])
    for architecture, template in (("mixtral", "mixtral"), ("qwen3-moe", "qwen3"), ("gpt-oss", None)):
        print(checkpoint(out / architecture, architecture, template, wide=True, bos=template != "qwen3"))


if __name__ == "__main__":
    main()
