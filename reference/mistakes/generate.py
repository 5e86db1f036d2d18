"""Mistakes in the decoding loop."""

import torch

from reference.mistakes import mistake
from reference.plain import Plain


def _masked(change):
    """Generates from another mask."""

    def generate(self, handle, tokens, mask, new, use_cache):
        mask = torch.ones_like(tokens) if mask is None else mask
        return Plain.generate(self, handle, tokens, change(mask), new, use_cache)

    return generate


def _cut(change):
    def generate(self, handle, tokens, mask, new, use_cache):
        return change(Plain.generate(self, handle, tokens, mask, new, use_cache), tokens.shape[1], new)

    return generate


def _decoding(change):
    """Positions of single tokens changed; those of the prompt are right."""

    def next_positions(self, mask, T):
        positions = Plain.next_positions(self, mask, T)
        return change(positions) if T == 1 else positions

    return next_positions


def _fresh_cache(self, handle, tokens, positions, mask, cache=None):
    if cache is not None and tokens.shape[1] == 1:
        return Plain.llama(self, handle, tokens, positions, mask[:, -1:], None)
    return Plain.llama(self, handle, tokens, positions, mask, cache)


def _one_more(self, handle, tokens, mask, new, use_cache):
    return Plain.generate(self, handle, tokens, mask, new + 1, use_cache)


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
    mistake("one_token_too_few", "one token less than asked for is returned", generate=_cut(lambda ids, _T, _n: ids[:, :-1])),
    mistake("one_token_too_many", "one token more than asked for is returned",
            generate=_one_more),
    mistake("prompt_left_out", "only the new tokens are returned", generate=_cut(lambda ids, T, _n: ids[:, T:])),
]  # fmt: skip
