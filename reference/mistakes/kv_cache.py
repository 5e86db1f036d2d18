"""Mistakes in the key/value cache."""

import torch

from reference.mistakes import mistake
from reference.plain import Cache, Plain


def _kept(change):
    """Keys and values changed before they are kept."""
    return lambda self, cache, layer, k, v: Plain.remember(self, cache, layer, *change(k, v))


def _returned(change):
    """change(cache, layer, keys, values, T): what is returned instead of all that is filled."""

    def remember(self, cache, layer, k, v):
        keys, values = Plain.remember(self, cache, layer, k, v)
        return change(cache, layer, keys, values, k.shape[2])

    return remember


def _per_layer(self, cache, layer, k, v):
    kept = Plain.remember(self, cache, layer, k, v)
    if cache.filled + k.shape[2] < cache.room:
        cache.filled += 1 if layer == 0 else 0
    return kept


def _fitting(self, T, S, mask):
    """The mask cut, or continued on the left, to the number of keys that the mistake makes of them."""
    if mask is not None:
        mask = torch.cat((mask.new_ones(len(mask), max(S - mask.shape[1], 0)), mask), dim=1)[:, -S:]
    return Plain.may_look(self, T, S, mask)


def _padded_whole(cache, layer, keys, values, _T):
    """The whole buffer of values is averaged in: its free slots get weight."""
    share = keys.shape[2] / cache.room
    return keys, values * share


def _turned_again(self, handle, layer, x, positions, mask, cache):
    at = f"model.layers.{layer}.self_attn."
    q, k, v = self.project(handle, at, x)
    q, k = self.rotary(handle, q, k, positions)
    if cache is not None:
        before = cache.filled
        k, v = self.remember(cache, layer, k, v)
        if before:
            old = k[:, :, :before]
            _, old = self.rotary(handle, old, old, torch.arange(before).expand(len(x), -1))
            k = torch.cat((old, k[:, :, before:]), dim=2)
    read = self.attend(q, k, v, self.may_look(q.shape[2], k.shape[2], mask), self.scale(handle.config))
    return self.linear(handle, at + "o_proj", self.merge(read))


def _kept_unturned(self, handle, layer, x, positions, mask, cache):
    at = f"model.layers.{layer}.self_attn."
    q, raw, v = self.project(handle, at, x)
    q, k = self.rotary(handle, q, raw, positions)
    if cache is not None:
        before = cache.filled
        kept, v = self.remember(cache, layer, raw, v)
        k = torch.cat((kept[:, :, :before], k), dim=2)
    read = self.attend(q, k, v, self.may_look(q.shape[2], k.shape[2], mask), self.scale(handle.config))
    return self.linear(handle, at + "o_proj", self.merge(read))


def _shared_by_layers(self, cache, layer, k, v):
    keys, values = Plain.remember(self, cache, layer, k, v)
    before = cache.filled
    return keys, torch.cat((cache.values[0][:, :, :before], values[:, :, before:]), dim=2)


def _shared_by_caches():
    store: dict[int, Cache] = {}

    def new_cache(_self, handle, _batch, length):
        if id(handle) not in store:
            store.clear()
            store[id(handle)] = Cache(2 * length)
        return store[id(handle)]

    return new_cache


def _written(start):
    """write(store, start, new) with another start."""
    return lambda self, store, at, new: Plain.write(self, store, start(at, store, new), new)


def _without_last(_self, store, start, new):
    store[:, :, start : start + new.shape[2] - 1] = new[:, :, :-1].detach()


def _stale_row(_self, store, start, new):
    store[:, :, start : start + new.shape[2]] = new[:1].detach().expand_as(new)


MISTAKES = [
    mistake("turned_again", "cached keys are turned again in every call", "shainet#110", attention_step=_turned_again),
    mistake("kept_unturned", "keys are kept before they are turned, and read as if they had been",
            "kvcache-ai/sglang#31", attention_step=_kept_unturned),
    mistake("counted_in_layer_0", "the length moves when layer 0 writes: upper layers write and read one off",
            "fla#766", remember=_per_layer, may_look=_fitting,),
    mistake("advances_by_one", "the length moves by 1 a call instead of by T",
            advance=lambda _s, cache, _T: setattr(cache, "filled", cache.filled + 1), may_look=_fitting),
    mistake("writes_one_early", "a call overwrites the last position before it", "litgpt#1593",
            write=_written(lambda at, _store, _new: max(at - 1, 0))),
    mistake("writes_at_0", "a call writes at the beginning again", write=_written(lambda _at, _store, _new: 0)),
    mistake("last_not_written", "the last position of a call is not kept", write=_without_last),
    mistake("first_row_for_all", "every row keeps the keys and values of the first", write=_stale_row),
    mistake("past_forgotten", "only the keys and values of this call are read, the cached ones are zero",
            remember=_returned(lambda _c, _l, k, v, T: (
                torch.cat((torch.zeros_like(k[:, :, :-T]), k[:, :, -T:]), 2),
                torch.cat((torch.zeros_like(v[:, :, :-T]), v[:, :, -T:]), 2)))),
    mistake("values_forgotten", "cached values are zero, cached keys are not",
            remember=_returned(lambda _c, _l, k, v, T: (
                k, torch.cat((torch.zeros_like(v[:, :, :-T]), v[:, :, -T:]), 2)))),
    mistake("free_slots_have_weight", "free slots of the buffer take part in the average", "gpt-fast",
            remember=_returned(_padded_whole)),
    mistake("kept_in_bfloat16", "keys and values are kept in bfloat16", "gpt-fast#146, paz#415",
            remember=_kept(lambda k, v: (k.bfloat16().to(k.dtype), v.bfloat16().to(v.dtype)))),
    mistake("values_kept_as_keys", "the buffer of values holds the keys", remember=_kept(lambda k, _v: (k, k))),
    mistake("values_of_layer_0", "every layer reads the cached values of the first", remember=_shared_by_layers),
    mistake("one_for_all_caches", "two caches share their buffers and their length", "equinox#704",
            new_cache=_shared_by_caches(), may_look=_fitting,),
    mistake("rows_rolled", "cached rows are those of the neighbouring sequence",
            remember=_returned(lambda _c, _l, k, v, T: (
                torch.cat((k[:, :, :-T].roll(1, 0), k[:, :, -T:]), 2),
                torch.cat((v[:, :, :-T].roll(1, 0), v[:, :, -T:]), 2)))),
]  # fmt: skip
