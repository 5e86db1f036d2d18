"""Mistakes in how a block puts its parts together."""

from llama_reference.mistakes.mistake import mistake, wide

FIRST, SECOND = "input_layernorm", "post_attention_layernorm"


def _block(compose):
    """compose(x, attend, mlp, norm): the block from its parts; norm takes the name of the norm first."""

    def block_step(self, handle, layer, x, positions, mask, cache):
        at = f"model.layers.{layer}."
        return compose(
            x,
            lambda y: self.attention_step(handle, layer, y, positions, mask, cache),
            lambda y: self.swiglu(handle, layer, y),
            lambda name, y: self.rms_norm(handle, at + name, y),
        )

    return block_step


def _usual(x, attend, mlp, norm, first=FIRST, second=SECOND, keep=1.0, keep_second=1.0, scale=1.0):
    h = keep * x + scale * attend(norm(first, x))
    return keep_second * h + scale * mlp(norm(second, h))


def _post_norm(x, attend, mlp, norm):
    h = norm(FIRST, x + attend(x))
    return norm(SECOND, h + mlp(h))


def _from_the_normed(x, attend, mlp, norm):
    normed = norm(FIRST, x)
    h = normed + attend(normed)
    return h + mlp(norm(SECOND, h))


def _second_from_the_normed(x, attend, mlp, norm):
    normed = norm(SECOND, x + attend(norm(FIRST, x)))
    return normed + mlp(normed)


def _without(which):
    def compose(x, attend, mlp, norm):
        return _usual(x, attend, mlp, lambda name, y: y if name == which else norm(name, y))

    return compose


def _parallel(x, attend, mlp, norm):
    return x + attend(norm(FIRST, x)) + mlp(norm(SECOND, x))


def _swapped_order(x, attend, mlp, norm):
    h = x + mlp(norm(SECOND, x))
    return h + attend(norm(FIRST, h))


def _sandwich(x, attend, mlp, norm):
    h = x + norm(FIRST, attend(x))
    return h + norm(SECOND, mlp(h))


def _in_place(x, attend, mlp, norm):
    held = x.data
    h = x + attend(norm(FIRST, x))
    held.copy_(h.data)
    return h + mlp(norm(SECOND, h))


def _wide_stream(x, attend, mlp, norm):
    h = wide(x) + wide(attend(norm(FIRST, x)))
    return (h + wide(mlp(norm(SECOND, h.to(x.dtype))))).to(x.dtype)


def _layer_0_norms(self, handle, layer, x, positions, mask, cache):
    at = "model.layers.0."
    h = x + self.attention_step(handle, layer, self.rms_norm(handle, at + FIRST, x), positions, mask, cache)
    return h + self.swiglu(handle, layer, self.rms_norm(handle, at + SECOND, h))


MISTAKES = [
    mistake("post_norm", "norms stand after the residual sums, as in the first transformer", block_step=_block(_post_norm)),
    mistake("sandwich", "norms stand behind attention and mlp, before the residual sums", block_step=_block(_sandwich)),
    mistake("residual_from_the_normed", "the first residual is the normed input", "Tricycle#19",
            block_step=_block(_from_the_normed)),
    mistake("second_residual_from_the_normed", "the second residual is the normed stream",
            block_step=_block(_second_from_the_normed)),
    mistake("norms_swapped", "input_layernorm and post_attention_layernorm are exchanged",
            block_step=_block(lambda *a: _usual(*a, first=SECOND, second=FIRST))),
    mistake("first_norm_twice", "input_layernorm stands before the mlp too",
            block_step=_block(lambda *a: _usual(*a, second=FIRST))),
    mistake("second_norm_twice", "post_attention_layernorm stands before attention too",
            block_step=_block(lambda *a: _usual(*a, first=SECOND))),
    mistake("norms_of_layer_0", "all layers use the norms of the first", block_step=_layer_0_norms),
    mistake("first_norm_missing", "attention reads the stream as it is", block_step=_block(_without(FIRST))),
    mistake("second_norm_missing", "the mlp reads the stream as it is", block_step=_block(_without(SECOND))),
    mistake("parallel", "attention and mlp both read the input, as in GPT-J", block_step=_block(_parallel)),
    mistake("mlp_first", "the mlp comes before attention", block_step=_block(_swapped_order)),
    mistake("first_residual_missing", "attention's output replaces the stream",
            block_step=_block(lambda *a: _usual(*a, keep=0.0))),
    mistake("second_residual_missing", "the mlp's output replaces the stream",
            block_step=_block(lambda *a: _usual(*a, keep_second=0.0))),
    mistake("residual_halved", "branches are scaled by √½ before they are added",
            block_step=_block(lambda *a: _usual(*a, scale=0.5**0.5))),
    mistake("residual_twice", "the input is added a second time at the end",
            block_step=_block(lambda x, *a: _usual(x, *a) + x)),
    mistake("attention_missing", "only the mlp is computed",
            block_step=_block(lambda x, _attend, mlp, norm: x + mlp(norm(SECOND, x)))),
    mistake("mlp_missing", "only attention is computed",
            block_step=_block(lambda x, attend, _mlp, norm: x + attend(norm(FIRST, x)))),
    mistake("stream_in_float32", "the stream is kept in float32 within the layer and rounded at its end",
            block_step=_block(_wide_stream)),
]  # fmt: skip
