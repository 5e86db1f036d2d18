"""The ids that end a text: the one place that joins those of a model's configuration and of its tokenizer."""

from __future__ import annotations

from llama_scratch.model.config import LlamaConfig
from llama_scratch.tokenizer import Tokenizer


def stop_ids(config: LlamaConfig, tokenizer: Tokenizer | None = None) -> list[int]:
    """List the configuration's eos_token_id, then the tokenizer's ends of a text, of a message and of a turn.

    The ids of generation_config.json are in eos_token_id since the checkpoint was read.
    """
    eos = config.eos_token_id
    if eos is None:
        eos = []
    elif isinstance(eos, int):
        eos = [eos]
    ends = tokenizer.stop_ids if tokenizer is not None else []
    return list(dict.fromkeys([*eos, *ends]))
