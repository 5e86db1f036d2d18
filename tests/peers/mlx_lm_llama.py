"""mlx-lm's Llama (PyPI: mlx-lm, mlx[cpu]): arrays of another library, rows that begin at one offset, silu only."""

import mlx.core as mx
import numpy
import torch
from mlx_lm.models import cache as caches
from mlx_lm.models import llama as theirs

from llama_reference import conventions as c
from llama_reference.conventions import crop, reorder  # noqa: F401  as they stand

TYPES = {torch.float32: mx.float32, torch.bfloat16: mx.bfloat16, torch.float16: mx.float16}


def to_mlx(x):
    return mx.array(x.detach().float().numpy()).astype(TYPES[x.dtype]) if x.is_floating_point() else mx.array(x.numpy())


def to_torch(x, dtype):
    return torch.from_numpy(numpy.array(x.astype(mx.float32))).to(dtype)


def build(config, state, dtype):
    c.only(config, hidden_act="silu", rope_type=("default", "linear", "llama3", "yarn", "longrope"))
    rope = config["rope_parameters"]
    arguments = config | {"rope_theta": rope["rope_theta"], "rope_scaling": rope}
    model = theirs.Model(theirs.ModelArgs.from_dict(arguments))
    model.load_weights([(key, to_mlx(w.to(dtype))) for key, w in state.items()], strict=True)
    model.torch_dtype = dtype
    return model


def rms_norm(handle, where, x):
    module = handle
    for part in where.split("."):
        module = module[int(part)] if part.isdigit() else getattr(module, part)
    return to_torch(module(to_mlx(x)), x.dtype)


def rotary(handle, q, k, positions):
    def turn(x):
        rows = zip(x, positions.expand(len(x), -1), strict=True)
        turned = [rope(to_mlx(row[None]), offset=c.offset(at[None])) for row, at in rows]
        return to_torch(mx.concatenate(turned), x.dtype)

    rope = handle.layers[0].self_attn.rope
    return turn(q), turn(k)


def _mask(x, cache):
    return theirs.create_attention_mask(x, cache)


def swiglu(handle, layer, x):
    return to_torch(handle.layers[layer].mlp(to_mlx(x)), x.dtype)


def _layer(part, layer):
    def call(x, positions, cache):
        c.from_zero(positions - (cache[layer].offset if cache else 0))
        own = cache[layer] if cache else None
        return to_torch(part(to_mlx(x), _mask(to_mlx(x), own), own), x.dtype)

    return call


def attention(handle, layer, x, positions, mask, cache=None):
    return c.row_by_row(_layer(handle.layers[layer].self_attn, layer), x, positions, mask, cache)


def block(handle, layer, x, positions, mask, cache=None):
    return c.row_by_row(_layer(handle.layers[layer], layer), x, positions, mask, cache)


def llama(handle, tokens, positions, mask, cache=None):
    def call(x, positions, cache):
        c.from_zero(positions - (cache[0].offset if cache else 0))
        return to_torch(handle(to_mlx(x), cache), handle.torch_dtype)

    return c.row_by_row(call, tokens, positions, mask, cache)


def new_cache(handle, batch, _length):
    def cropped(row, length):
        caches.trim_prompt_cache(row, max(layer.offset for layer in row) - length)
        return row

    return c.RowCache([handle.make_cache() for _ in range(batch)], cropped)
