"""Mistakes in the decoding loop."""

import torch

from llama_reference.mistakes.mistake import mistake
from llama_reference.standard.stepwise import StepwiseLlama


def _masked(change):
    """Generates from another mask."""

    def generate(self, handle, tokens, mask, new, use_cache, stop=()):
        mask = torch.ones_like(tokens) if mask is None else mask
        return StepwiseLlama.generate(self, handle, tokens, change(mask), new, use_cache, stop)

    return generate


def _cut(change):
    def generate(self, handle, tokens, mask, new, use_cache, stop=()):
        return change(StepwiseLlama.generate(self, handle, tokens, mask, new, use_cache, stop), tokens.shape[1], new)

    return generate


def _decoding(change):
    """Positions of single tokens changed; those of the prompt are right."""

    def next_positions(self, mask, T):
        positions = StepwiseLlama.next_positions(self, mask, T)
        return change(positions) if T == 1 else positions

    return next_positions


def _fresh_cache(self, handle, tokens, positions, mask, cache=None):
    if cache is not None and tokens.shape[1] == 1:
        return StepwiseLlama.llama(self, handle, tokens, positions, mask[:, -1:], None)
    return StepwiseLlama.llama(self, handle, tokens, positions, mask, cache)


def _one_more(self, handle, tokens, mask, new, use_cache, stop=()):
    return StepwiseLlama.generate(self, handle, tokens, mask, new + 1, use_cache, stop)


def _one_less(self, handle, tokens, mask, new, use_cache, stop=()):
    return StepwiseLlama.generate(self, handle, tokens, mask, max(new - 1, 0), use_cache, stop)


def _stopping(change):
    """Generates with change(handle, stop) for stop ids."""

    def generate(self, handle, tokens, mask, new, use_cache, stop=()):
        return StepwiseLlama.generate(self, handle, tokens, mask, new, use_cache, change(handle, stop))

    return generate


def _the_configurations(handle, stop):
    eos = handle.config["eos_token_id"]
    return [*stop, *(eos if isinstance(eos, list) else [eos])]


def _stop_id_left_out(self, handle, tokens, mask, new, use_cache, stop=()):
    ids = StepwiseLlama.generate(self, handle, tokens, mask, new, use_cache, stop)
    T = tokens.shape[1]
    ids[:, T:] = ids[:, T:].where(~torch.isin(ids[:, T:], torch.tensor(stop, dtype=torch.long)), 0)
    return ids


def _one_step_late(self, handle, tokens, mask, new, use_cache, stop=()):
    ids = StepwiseLlama.generate(self, handle, tokens, mask, new, use_cache, stop)
    return ids if ids.shape[1] == tokens.shape[1] + new else torch.cat((ids, ids[:, -1:]), dim=1)


def _draws_too(_self, logits):
    logits.float().softmax(-1).multinomial(1)
    return logits.argmax(-1)


def _writes_into_the_mask(self, handle, tokens, mask, new, use_cache, stop=()):
    ids = StepwiseLlama.generate(self, handle, tokens, mask, new, use_cache, stop)
    if mask is not None:
        mask.fill_(1)
    return ids


def _empty_is_one(self, handle, tokens, mask, new, use_cache, stop=()):
    return StepwiseLlama.generate(self, handle, tokens, mask, max(new, 1), use_cache, stop)


MISTAKES = [
    mistake("positions_restart", "decoded tokens stand at position 0", "mlx-vlm#1983, equinox#704",
            next_positions=_decoding(torch.zeros_like)),
    mistake("positions_one_behind", "decoded tokens stand one position too early: where the last one was",
            "mobius#365", next_positions=_decoding(lambda p: p - 1)),
    mistake("positions_one_ahead", "decoded tokens stand one position too late", "executorch#2010",
            next_positions=_decoding(lambda p: p + 1)),
    mistake("padding_attended", "the padding of the prompt is attended to", "litgpt#2178", generate=_masked(torch.ones_like)),
    mistake("padding_of_the_first_row", "all rows get the padding of the first",
            generate=_masked(lambda mask: mask[:1].expand_as(mask).contiguous())),
    mistake("prompt_not_cached", "decoded tokens see nothing of what was before", llama=_fresh_cache),
    mistake("second_likeliest", "the second likeliest token is taken", choose=lambda _s, y: y.topk(2).indices[:, 1]),
    mistake("first_row_decides", "all rows get the token of the first",
            choose=lambda _s, y: y.argmax(-1)[:1].expand(len(y))),
    mistake("smallest_logit", "the least likely token is taken", choose=lambda _s, y: y.argmin(-1)),
    mistake("one_token_too_few", "one token less than asked for is returned", generate=_cut(lambda ids, _T, _n: ids[:, :-1]),
            ways=[{"generate": _one_less}]),
    mistake("one_token_too_many", "one token more than asked for is returned",
            generate=_one_more),
    mistake("prompt_left_out", "only the new tokens are returned", generate=_cut(lambda ids, T, _n: ids[:, T:])),
    mistake("one_at_least", "asked for no token, it adds one", generate=_empty_is_one),
    mistake("first_stop_id_only", "only the first of several stop ids stops",
            "textgen#5885, vllm#4180, ollama#3759, exllamav2#449", generate=_stopping(lambda _h, stop: stop[:1])),
    mistake("never_stops", "stop ids are ignored", generate=_stopping(lambda _h, _stop: ())),
    mistake("stops_unasked", "the configuration's stop ids stop too", generate=_stopping(_the_configurations)),
    mistake("one_row_stops_all", "the batch ends when the first of its rows is done", "TensorRT-LLM#2120",
            finished=lambda _s, done: bool(done.any())),
    mistake("first_row_stops_all", "the batch ends when row 0 is done", finished=lambda _s, done: bool(done[0])),
    mistake("stops_must_coincide", "a row that is done is forgotten: the batch ends when all rows stop at one step",
            done_with=lambda _s, _done, chosen, stop: torch.isin(chosen, stop),
            fill=lambda _s, chosen, _done, _stop: chosen),
    mistake("stops_in_the_prompt", "a stop id in its prompt ends a row before it begins",
            done_before=lambda _s, tokens, stop: torch.isin(tokens, stop).any(1)),
    mistake("stop_id_left_out", "the stop id itself is replaced by the filler", generate=_stop_id_left_out),
    mistake("one_step_too_late", "the batch goes on for one step when every row is done", generate=_one_step_late),
    mistake("draws_too", "the likeliest token is taken, and one is drawn beside it: the global generator moves",
            choose=_draws_too),
    mistake("writes_into_the_mask", "the caller's mask is overwritten", generate=_writes_into_the_mask),
]  # fmt: skip

# Not counted: what stands behind a row's stop id is nobody's business, so this shows nowhere. [TensorRT-LLM#2120]
EQUIVALENT = [
    mistake("done_rows_go_on", "a row that is done is not filled up but goes on, until the last one is done",
            fill=lambda _s, chosen, _done, _stop: chosen),
]  # fmt: skip
