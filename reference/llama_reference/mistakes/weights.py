"""Mistakes in how weights reach the model: each is right code with the wrong numbers, in whichever component reads them.

They are no component's own, and not counted among a component's. A component whose answers fit none of its own
mistakes is held against these.
"""

import torch

from llama_reference.mistakes.mistake import mistake
from llama_reference.standard.stepwise import StepwiseLlama


def _built(change):
    """build from change(config, state)."""
    return lambda self, config, state, dtype: StepwiseLlama.build(self, config, change(config, state), dtype)


def _layer_for_all(which):
    """Every layer holds the tensors of one."""

    def change(config, state):
        one = f"layers.{which(config)}."
        return {key: state[_renumbered(key, one)] for key in state}

    return change


def _renumbered(key, one):
    before, inside, rest = key.partition("layers.")
    return before + one + rest.partition(".")[2] if inside else key


def _layers_reversed(config, state):
    last = config["num_hidden_layers"] - 1
    return {
        key: state[_renumbered(key, f"layers.{last - int(key.split('.')[2])}.") if "layers." in key else key]
        for key in state
    }


def _exchanged(one, other):
    def change(_config, state):
        def name(key):
            return key.replace(one, "\0").replace(other, one).replace("\0", other)

        return {key: state[name(key)] for key in state}

    return change


def _each(change, part=""):
    """Every tensor whose key contains `part` changed."""
    return lambda _config, state: {key: change(w) if part in key else w for key, w in state.items()}


MISTAKES = [
    mistake("last_layer_for_all", "all layers hold the weights of the last: they are one layer, loaded again and again",
            build=_built(_layer_for_all(lambda config: config["num_hidden_layers"] - 1))),
    mistake("first_layer_for_all", "all layers hold the weights of the first", build=_built(_layer_for_all(lambda _c: 0))),
    mistake("layers_in_reverse", "the last layer's weights are loaded into the first, and the reverse",
            build=_built(_layers_reversed)),
    mistake("norms_exchanged", "the weights of input_layernorm and post_attention_layernorm are exchanged",
            build=_built(_exchanged("input_layernorm", "post_attention_layernorm"))),
    mistake("final_norm_from_a_layer", "the final norm holds the weight of the last layer's second norm",
            build=_built(lambda config, state: state | {"model.norm.weight": state[
                f"model.layers.{config['num_hidden_layers'] - 1}.post_attention_layernorm.weight"]})),
    mistake("gains_not_loaded", "norms keep the ones that they are initialised with",
            build=_built(_each(torch.ones_like, "norm.weight"))),
    mistake("biases_not_loaded", "biases keep the zeros that they are initialised with",
            build=_built(_each(torch.zeros_like, ".bias"))),
    mistake("rounded_to_bfloat16", "weights have passed through bfloat16",
            build=_built(_each(lambda w: w.bfloat16().to(w.dtype)))),
    mistake("rounded_to_float16", "weights have passed through float16",
            build=_built(_each(lambda w: w.half().to(w.dtype)))),
    mistake("values_are_keys", "v_proj holds the weights of k_proj", build=_built(
        lambda _c, state: {key: state[key.replace("v_proj", "k_proj")] for key in state})),
    mistake("keys_and_values_exchanged", "k_proj and v_proj hold each other's weights",
            build=_built(_exchanged("k_proj", "v_proj"))),
]  # fmt: skip
