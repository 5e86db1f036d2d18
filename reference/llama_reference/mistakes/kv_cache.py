"""Mistakes in the key/value cache."""

import torch
import torch.nn.functional as F

from llama_reference.mistakes.mistake import mistake
from llama_reference.standard.stepwise import Cache, StepwiseLlama


def _kept(change):
    """Keys and values changed before they are kept."""
    return lambda self, cache, layer, k, v: StepwiseLlama.append(self, cache, layer, *change(k, v))


def _returned(change):
    """change(cache, layer, keys, values, T): what is returned instead of all that is filled."""

    def append(self, cache, layer, k, v):
        keys, values = StepwiseLlama.append(self, cache, layer, k, v)
        return change(cache, layer, keys, values, k.shape[2])

    return append


def _per_layer(self, cache, layer, k, v):
    kept = StepwiseLlama.append(self, cache, layer, k, v)
    if cache.filled + k.shape[2] < cache.room:
        cache.filled += 1 if layer == 0 else 0
    return kept


def fitting(self, T, S, mask):
    """The mask cut, or continued on the left, to the number of keys that the mistake makes of them."""
    if mask is not None:
        mask = torch.cat((mask.new_ones(len(mask), max(S - mask.shape[1], 0)), mask), dim=1)[:, -S:]
    return StepwiseLlama.visible(self, T, S, mask)


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
        k, v = self.append(cache, layer, k, v)
        if before:
            old = k[:, :, :before]
            _, old = self.rotary(handle, old, old, torch.arange(before).expand(len(x), -1))
            k = torch.cat((old, k[:, :, before:]), dim=2)
    read = self.attend(q, k, v, self.visible(q.shape[2], k.shape[2], mask), self.scale(handle.config))
    return self.linear(handle, at + "o_proj", self.merge(read))


def _kept_unturned(self, handle, layer, x, positions, mask, cache):
    at = f"model.layers.{layer}.self_attn."
    q, raw, v = self.project(handle, at, x)
    q, k = self.rotary(handle, q, raw, positions)
    if cache is not None:
        before = cache.filled
        kept, v = self.append(cache, layer, raw, v)
        k = torch.cat((kept[:, :, :before], k), dim=2)
    read = self.attend(q, k, v, self.visible(q.shape[2], k.shape[2], mask), self.scale(handle.config))
    return self.linear(handle, at + "o_proj", self.merge(read))


def _shared_by_layers(self, cache, layer, k, v):
    keys, values = StepwiseLlama.append(self, cache, layer, k, v)
    before = cache.filled
    return keys, torch.cat((cache.values[0][:, :, :before], values[:, :, before:]), dim=2)


def _all_of_layer_0(self, cache, layer, k, v):
    """As it comes out where what is read is the cache, which holds this call's values too."""
    keys, values = StepwiseLlama.append(self, cache, layer, k, v)
    return keys, cache.values[0][:, :, : values.shape[2]]


def _one_buffer(keys=True, values=True):
    """All layers write where all layers read."""

    def append(self, cache, layer, k, v):
        own, shared = (StepwiseLlama.append(self, cache, at, k, v) for at in (layer, -1))
        return (shared if keys else own)[0], (shared if values else own)[1]

    return {"append": append}


def _shared_by_caches():
    shared = [None, None]  # a model, which is kept so that no other is taken for it, and its cache

    def new_cache(_self, handle, _batch, length):
        if shared[0] is not handle:
            shared[:] = handle, Cache(8 * length)  # room for all that is ever asked of a model
        return shared[1]

    return new_cache


def written(start):
    """write(store, start, new) with another start."""
    return lambda self, store, at, new: StepwiseLlama.write(self, store, start(at, store, new), new)


def _without_last(_self, store, start, new):
    store[:, :, start : start + new.shape[2] - 1] = new[:, :, :-1].detach()


def _stale_row(_self, store, start, new):
    store[:, :, start : start + new.shape[2]] = new[:1].detach().expand_as(new)


def roomy(_self, _handle, _batch, length):
    """Room for what a wrong length leaves in the cache: it is to answer wrongly, not to break."""
    return Cache(3 * length)


def cropped(length):
    """crop(cache, wanted): keeps length(filled, wanted) instead of what is wanted."""

    def crop(_self, _handle, cache, wanted):
        cache.filled = max(length(cache.filled, wanted), 0)
        return cache

    return {"crop": crop, "visible": fitting, "new_cache": roomy}


def _emptied_by_zeros(_self, _handle, cache, length):
    """What is to be forgotten is overwritten, and still counted."""
    if length:
        cache.filled = length
        return cache
    for kept in (*cache.keys.values(), *cache.values.values()):
        kept.zero_()
    return cache


def _crop_keeps_the_end(_self, _handle, cache, length):
    for store in (cache.keys, cache.values):
        for layer, kept in store.items():
            store[layer] = torch.cat((kept[:, :, cache.filled - length : cache.filled], kept[:, :, length:]), dim=2)
    cache.filled = length
    return cache


def _uncropped(layers=lambda _layer: True, keys=True):
    """These layers are not cropped (or only their values): they go on behind what the others have forgotten."""

    def crop(_self, _handle, cache, length):
        cache.behind = getattr(cache, "behind", 0) + cache.filled - length
        cache.filled = length
        return cache

    def append(self, cache, layer, k, v):
        behind = getattr(cache, "behind", 0)
        filled = cache.filled
        S = cache.filled + k.shape[2]
        if not behind or not layers(layer):
            return StepwiseLlama.append(self, cache, layer, k, v)
        cache.filled += behind
        late = StepwiseLlama.append(self, cache, layer, k, v)
        cache.filled = filled
        if keys:
            return late
        self.write(cache.keys[layer], filled, k)
        return cache.keys[layer][:, :, :S], late[1][:, :, :S]

    return {"crop": crop, "append": append, "visible": fitting, "new_cache": roomy}


def _stale_tail(self, cache, layer, k, v):
    StepwiseLlama.append(self, cache, layer, k, v)
    cache.highest = max(getattr(cache, "highest", 0), cache.filled + k.shape[2])
    return cache.keys[layer][:, :, : cache.highest], cache.values[layer][:, :, : cache.highest]


def _whole_buffer(self, cache, layer, k, v):
    StepwiseLlama.append(self, cache, layer, k, v)
    return cache.keys[layer], cache.values[layer]


def _free_slots_masked(self, handle, layer, x, positions, mask, cache):
    """The whole buffer is read, its free slots behind the last query, where the mask gives them no weight."""
    if cache is None:
        return StepwiseLlama.attention_step(self, handle, layer, x, positions, mask, cache)
    at = f"model.layers.{layer}.self_attn."
    q, k, v = self.project(handle, at, x)
    q, k = self.rotary(handle, q, k, positions)
    self.append(cache, layer, k, v)
    T, S = x.shape[1], cache.filled + x.shape[1]
    seen = F.pad(self.visible(T, S, mask), (0, cache.room - S), value=False)
    read = self.attend(q, cache.keys[layer], cache.values[layer], seen, self.scale(handle.config))
    return self.linear(handle, at + "o_proj", self.merge(read))


def _reordered(keys=True, values=True, layers=lambda _layer: True, rows=lambda rows: rows):
    """Only some stores or layers are reordered, or by other rows."""

    def reorder(_self, _handle, cache, wanted):
        for store, is_meant in ((cache.keys, keys), (cache.values, values)):
            for layer, kept in store.items():
                if is_meant and layers(layer):
                    store[layer] = kept[rows(wanted)]
        return cache

    return reorder


def _in_place(_self, _handle, cache, rows):
    for store in (cache.keys, cache.values):
        for kept in store.values():
            for i, row in enumerate(rows.tolist()):
                kept[i] = kept[row]
    return cache


def _twice(self, handle, cache, rows):
    return StepwiseLlama.reorder(self, handle, StepwiseLlama.reorder(self, handle, cache, rows), rows)


MISTAKES = [
    mistake("turned_again", "cached keys are turned again in every call", "shainet#110", attention_step=_turned_again),
    mistake("kept_unturned", "keys are kept before they are turned, and read as if they had been",
            "kvcache-ai/sglang#31", attention_step=_kept_unturned),
    mistake("counted_in_layer_0", "the length moves when layer 0 writes: upper layers write and read one off",
            "fla#766", append=_per_layer, visible=fitting, new_cache=roomy),
    mistake("advances_by_one", "the length moves by 1 a call instead of by T",
            advance=lambda _s, cache, _T: setattr(cache, "filled", cache.filled + 1), visible=fitting),
    mistake("writes_one_early", "a call overwrites the last position before it", "litgpt#1593",
            write=written(lambda at, _store, _new: max(at - 1, 0))),
    mistake("writes_at_0", "a call writes at the beginning again", write=written(lambda _at, _store, _new: 0)),
    mistake("last_not_written", "the last position of a call is not kept", write=_without_last),
    mistake("first_row_for_all", "every row keeps the keys and values of the first", write=_stale_row),
    mistake("past_forgotten", "only the keys and values of this call are read, the cached ones are zero",
            append=_returned(lambda _c, _l, k, v, T: (
                torch.cat((torch.zeros_like(k[:, :, :-T]), k[:, :, -T:]), 2),
                torch.cat((torch.zeros_like(v[:, :, :-T]), v[:, :, -T:]), 2)))),
    mistake("values_forgotten", "cached values are zero, cached keys are not",
            append=_returned(lambda _c, _l, k, v, T: (
                k, torch.cat((torch.zeros_like(v[:, :, :-T]), v[:, :, -T:]), 2)))),
    mistake("free_slots_have_weight", "free slots of the buffer take part in the average", "gpt-fast",
            append=_returned(_padded_whole)),
    mistake("kept_in_bfloat16", "keys and values are kept in bfloat16", "gpt-fast#146, paz#415",
            append=_kept(lambda k, v: (k.bfloat16().to(k.dtype), v.bfloat16().to(v.dtype)))),
    mistake("values_kept_as_keys", "the buffer of values holds the keys", append=_kept(lambda k, _v: (k, k))),
    mistake("values_of_layer_0", "every layer reads the cached values of the first", append=_shared_by_layers,
            ways=[{"append": _all_of_layer_0}]),
    mistake("one_buffer_for_all_layers", "all layers share one buffer: what is cached is what the last of them wrote",
            ways=[_one_buffer(keys=False), _one_buffer(values=False)], **_one_buffer()),
    mistake("one_for_all_caches", "two caches share their buffers and their length", "equinox#704",
            new_cache=_shared_by_caches(), visible=fitting,),
    mistake("rows_rolled", "cached rows are those of the neighbouring sequence",
            append=_returned(lambda _c, _l, k, v, T: (
                torch.cat((k[:, :, :-T].roll(1, 0), k[:, :, -T:]), 2),
                torch.cat((v[:, :, :-T].roll(1, 0), v[:, :, -T:]), 2)))),
    mistake("crop_keeps_one_more", "a crop leaves one position more than asked for",
            ways=[cropped(lambda filled, wanted: min(wanted + 1, filled) if wanted else 0)],
            **cropped(lambda filled, wanted: min(wanted + 1, filled))),
    mistake("crop_keeps_one_less", "a crop leaves one position less than asked for",
            **cropped(lambda _filled, wanted: wanted - 1)),
    mistake("crop_counts_from_the_end", "a crop takes away as many positions as it should leave", "transformers 4 to 5",
            ways=[cropped(lambda filled, wanted: filled - wanted if wanted else 0)],
            **cropped(lambda filled, wanted: filled - wanted)),
    mistake("crop_does_nothing", "a crop leaves everything: the cache goes on behind it", "litgpt#1595",
            ways=[cropped(lambda filled, wanted: filled if wanted else 0)], **cropped(lambda filled, _wanted: filled)),
    mistake("crop_keeps_the_end", "a crop leaves the last positions instead of the first", crop=_crop_keeps_the_end),
    mistake("crop_of_keys_only", "values are not cropped: they are written behind those that should be gone",
            **_uncropped(keys=False)),
    mistake("crop_of_layer_0_only", "layers above the first are not cropped", "fla#766",
            **_uncropped(layers=lambda layer: layer > 0)),
    mistake("reset_keeps_the_length", "a cropped cache is right, an emptied one keeps its length",
            "litgpt#1595/#1647/#1678, AutoAWQ#170, DeepSpeed#2669, LocalAI#6747",
            ways=[{**cropped(lambda filled, _wanted: filled), "crop": _emptied_by_zeros}],
            **cropped(lambda filled, wanted: wanted or filled)),
    mistake("reset_keeps_one", "an emptied cache keeps its first position",
            **cropped(lambda _filled, wanted: max(wanted, 1))),
    mistake("stale_tail_is_read", "what stands behind the filled part is read, as far as the cache was ever filled",
            "gpt-fast, litgpt#1595", append=_stale_tail, visible=fitting),
    mistake("whole_buffer_is_read", "the whole buffer is read, as if its free slots were filled", "gpt-fast",
            append=_whole_buffer, visible=fitting),
    mistake("free_slots_are_multiplied_by_0", "free slots are read with weight 0, which keeps NaN", "gpt-fast",
            attention_step=_free_slots_masked),
    mistake("reorder_does_nothing", "rows stay where they are", "transformers#46612", reorder=lambda _s, _h, cache, _r: cache),
    mistake("reorder_of_keys_only", "values are not reordered", "PaddleNLP#6672", reorder=_reordered(values=False)),
    mistake("reorder_of_values_only", "keys are not reordered", "PaddleNLP#6672", reorder=_reordered(keys=False)),
    mistake("reorder_of_layer_0_only", "layers above the first are not reordered", "transformers#46612, llama.cpp#3802",
            reorder=_reordered(layers=lambda layer: layer == 0)),
    mistake("reorder_above_layer_0_only", "the first layer is not reordered", "transformers#46612",
            reorder=_reordered(layers=lambda layer: layer > 0)),
    mistake("reorder_is_the_inverse", "row rows[i] becomes what row i was",
            reorder=_reordered(rows=lambda rows: rows.argsort())),
    mistake("reorder_in_place", "rows are copied one after another: later ones are copies of copies", reorder=_in_place),
    mistake("reorder_twice", "the same reordering is done twice", reorder=_twice),
]  # fmt: skip
