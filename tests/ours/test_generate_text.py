"""Text as it comes: whole characters, stop strings wherever they begin, and why it ended."""

import time
from itertools import count, pairwise

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from llama_scratch import Llama, LlamaConfig, Tokenizer
from llama_scratch.generate import TextStream, stop_ids
from llama_scratch.generate.text import FinishReason, StopStringFilter


class Reciting(Llama):
    """Writes the ids that it is given, whatever the prompt, and then the end token."""

    def __init__(self, tokenizer: Tokenizer, ids: list[int], prompt: int, context: int, eos: int | None) -> None:
        sizes = {"vocab_size": tokenizer.vocab_size, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
        super().__init__(LlamaConfig(**sizes, num_attention_heads=1, max_position_embeddings=context, eos_token_id=eos))
        self.ids = dict(enumerate(ids, start=prompt))

    def forward(self, tokens, cache=None, _attention_mask=None, last_only=False):
        cache.advance(tokens.shape[1])
        logits = torch.zeros(1, tokens.shape[1], self.config.vocab_size)
        logits[0, -1, self.ids.get(cache.length, 2)] = 1
        return logits[:, -1:] if last_only else logits


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["The cat sat on the mat.\n  The dog did not.\n\n" * 30], 290)


PROMPT = "The cat"


def recited(tokenizer, text, new=500, context=512, eos=None, **how):
    prompt = tokenizer.encode(PROMPT, bos=True)
    model = Reciting(tokenizer, tokenizer.encode(text), len(prompt), context, eos)
    return TextStream(model, tokenizer, prompt, new, **how)


@given(text=st.text(st.sampled_from("Tt hecat\né日🙂\u0301"), min_size=1, max_size=30))
def test_pieces_are_whole_characters_and_together_the_text(tokenizer, text):
    writing = recited(tokenizer, text)
    pieces = list(writing)
    assert "".join(pieces) == writing.text == text
    assert all(pieces)
    assert writing.ids == [*tokenizer.encode(text), tokenizer.eos_id]
    assert writing.finish_reason == FinishReason.TOKEN


def test_a_piece_comes_with_the_token_that_completes_it(tokenizer):
    """Nothing is held back but halves of characters and what may be a stop string."""
    writing = recited(tokenizer, " cat é!", stop=["!?"])
    seen = [(piece, len(writing.ids)) for piece in writing]
    ids = tokenizer.encode(" cat é!")
    stream = list(tokenizer.decode_stream([*tokenizer.encode(PROMPT), *ids]))[-len(ids) - 1 :]
    expected = [(piece, n) for n, piece in enumerate(stream, start=1) if piece]
    assert seen == [*expected[:-1], ("!", len(ids) + 1)]


def test_spaces_are_those_of_the_whole_text(shared):
    tokenizer = Tokenizer.from_pretrained(shared / "stories260K")
    model = Llama.from_pretrained(shared / "stories260K")
    for prompt in ("", "Once upon a time", "Once upon a time,"):
        ids = tokenizer.encode(prompt, bos=True)
        writing = TextStream(model, tokenizer, ids, 40)
        assert "".join(writing) == tokenizer.decode(ids + writing.ids).removeprefix(prompt)
        assert writing.text.startswith(" ") == (prompt[-1:] == ",")
    assert writing.text.startswith(" there was a little girl named Lily.")


TEXTS = st.text(st.sampled_from("ab<"), max_size=14)


@example(text="<abba", stop=["abb", "b"], cuts=[])  # "b" is complete first, "abb" begins first
@example(text="<abba", stop=["bb", "abb"], cuts=[2, 3])
@given(text=TEXTS, stop=st.lists(st.text(st.sampled_from("ab<"), min_size=1, max_size=4), max_size=3),
       cuts=st.lists(st.integers(0, 14), max_size=5))  # fmt: skip
def test_the_cut_is_before_the_stop_string_that_is_complete_first_whatever_the_pieces(text, stop, cuts):
    ends = [(n, -len(s)) for n in range(len(text) + 1) for s in stop if text[:n].endswith(s)]
    expected = text if not ends else text[: min(ends)[0] + min(ends)[1]]
    held, shown, given_ = StopStringFilter(stop), "", ""
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    for start, end in pairwise(edges):
        shown = shown + held.add(text[start:end])
        given_ = text[:end]
        if held.found_stop:
            break
        waiting = given_.removeprefix(shown)
        assert waiting == "" or any(s.startswith(waiting) and s != waiting for s in stop), "held back without need"
    assert held.found_stop == bool(ends)
    assert shown + held.rest() == expected


def test_a_stop_string_is_found_across_tokens_and_is_not_in_the_text(tokenizer):
    text = " sat on the mat.\n  The dog"
    whole = recited(tokenizer, text, stop=["mattress"])
    assert "".join(whole) == text
    writing = recited(tokenizer, text, stop=["zzz", "t.\n  T"])
    assert "".join(writing) == " sat on the ma"
    assert writing.finish_reason == FinishReason.STRING
    assert len(writing.ids) < len(whole.ids)


def test_a_stop_string_in_the_prompt_ends_nothing(tokenizer):
    writing = recited(tokenizer, " sat", stop=["cat", "t s"])
    assert "".join(writing) == " sat"


def test_it_ends_after_as_many_tokens_as_asked_or_where_the_context_is_full(tokenizer):
    text = " sat on the mat.\n  The dog did not."
    prompt = len(tokenizer.encode(PROMPT, bos=True))
    for new, context, length, why in ((3, 512, 3, FinishReason.LENGTH), (3, prompt + 3, 3, FinishReason.LENGTH),
                                      (4, prompt + 3, 3, FinishReason.CONTEXT)):  # fmt: skip
        writing = recited(tokenizer, text, new, context)
        assert tokenizer.decode(tokenizer.encode(text)[:length]) == "".join(writing)
        assert writing.finish_reason == why
    with pytest.raises(ValueError, match=f"the prompt has {prompt} tokens, expected fewer than .* context of {prompt}"):
        recited(tokenizer, text, context=prompt)


@pytest.mark.parametrize(
    ("eos", "joined"), [(None, [2]), (2, [2]), (7, [7, 2]), ([7, 2, 9], [7, 2, 9]), ([], [2])], ids=str
)
def test_stop_ids_are_the_configurations_and_the_tokenizers(eos, joined, tokenizer):
    config = LlamaConfig(eos_token_id=eos)
    assert tokenizer.stop_ids == [2]
    assert stop_ids(config, tokenizer) == joined
    assert stop_ids(config) == [i for i in joined if i in (eos if isinstance(eos, list) else [eos])]


def test_the_configurations_stop_ids_stop_too_and_are_not_shown(tokenizer):
    ids = tokenizer.encode(" sat on the mat.")
    writing = recited(tokenizer, " sat on the mat.", eos=ids[4])
    text, end = "".join(writing), ids.index(ids[4])
    assert writing.finish_reason == FinishReason.TOKEN
    assert writing.ids == ids[: end + 1]
    assert tokenizer.decode(ids[:end]) == text != tokenizer.decode(ids[: end + 1])


def test_it_leaves_the_mode_as_it_was_when_a_stop_string_ends_it(tokenizer):
    prompt = tokenizer.encode(PROMPT, bos=True)
    model = Reciting(tokenizer, tokenizer.encode(" sat on the mat."), len(prompt), 512, None).train()
    writing = TextStream(model, tokenizer, prompt, 100, stop=["on"])
    for _ in writing:
        assert not model.training
    assert model.training


def test_log_probabilities_and_times_are_of_every_token(tokenizer, monkeypatch):
    clock = count()
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock) / 4)
    writing = recited(tokenizer, " sat on", log_probabilities=True)
    assert writing.seconds_to_first_token is None
    for _ in writing:
        pass
    V = tokenizer.vocab_size
    expected = torch.zeros(V).index_fill(0, torch.tensor(0), 1).log_softmax(-1)[0].item()
    assert writing.log_probabilities == [expected] * len(writing.ids)
    assert writing.seconds_to_first_token == 0.25
    assert writing.tokens_per_second == 4
    single = recited(tokenizer, " sat", new=1)
    assert "".join(single)
    assert single.tokens_per_second is None
    assert single.log_probabilities == []


def test_an_empty_stop_string_is_refused(tokenizer):
    with pytest.raises(ValueError, match="a stop string is empty"):
        recited(tokenizer, " sat", stop=["a", ""])
