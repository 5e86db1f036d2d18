"""Mistakes in the feed-forward layer."""

import torch
import torch.nn.functional as F

from llama_reference.mistakes.mistake import mistake
from llama_reference.standard.stepwise import StepwiseLlama


def _acting(function):
    return lambda _self, _config, z: function(z)


def _without_bias(*parts):
    def linear(self, handle, name, x):
        if any(name.endswith(part) for part in parts):
            return F.linear(x, handle[name + ".weight"])
        return StepwiseLlama.linear(self, handle, name, x)

    return linear


def _reading(**names):
    """Other weights than those of the name; only within the mlp."""

    def linear(self, handle, name, x):
        head, _, last = name.rpartition(".")
        return StepwiseLlama.linear(self, handle, f"{head}.{names.get(last, last)}", x)

    return linear


MISTAKES = [
    mistake("gate_and_up_swapped", "up_proj goes through the activation and gate_proj does not",
            "nntrainer#4194, mlx-lm#767, sglang#34940", linear=_reading(gate_proj="up_proj", up_proj="gate_proj")),
    mistake("gelu_always", "the activation is gelu whatever hidden_act says", "bkitano/llama-from-scratch#7",
            activation=_acting(F.gelu)),
    mistake("gelu_tanh_always", "the activation is gelu's tanh approximation whatever hidden_act says",
            activation=_acting(lambda z: F.gelu(z, approximate="tanh"))),
    mistake("relu_always", "the activation is relu whatever hidden_act says", activation=_acting(F.relu)),
    mistake("silu_always", "hidden_act is ignored: the activation is silu", activation=_acting(F.silu)),
    mistake("sigmoid_instead_of_silu", "the gate is σ(z) instead of z σ(z), as in the first gated linear units",
            activation=_acting(torch.sigmoid)),
    mistake("quick_gelu", "the activation is z σ(1.702 z)", activation=_acting(lambda z: z * torch.sigmoid(1.702 * z))),
    mistake("tanh_instead", "the activation is tanh", activation=_acting(torch.tanh)),
    mistake("squared_relu", "the activation is relu squared", activation=_acting(lambda z: F.relu(z) ** 2)),
    mistake("no_activation", "the gate is linear", activation=_acting(lambda z: z)),
    mistake("exact_and_approximate_exchanged", "gelu and gelu_pytorch_tanh are exchanged", activation=lambda s, c, z:
            F.gelu(z, approximate="tanh") if c["hidden_act"] == "gelu" else
            F.gelu(z) if c["hidden_act"] == "gelu_pytorch_tanh" else StepwiseLlama.activation(s, c, z)),
    mistake("activated_after_the_product", "the product is activated instead of the gate",
            gate=lambda s, c, gate, up: s.activation(c, gate * up)),
    mistake("both_activated", "gate and up are both activated",
            gate=lambda s, c, gate, up: s.activation(c, gate) * s.activation(c, up)),
    mistake("added_instead_of_multiplied", "gate and up are added", gate=lambda s, c, gate, up: s.activation(c, gate) + up),
    mistake("gate_missing", "there is no gate: up_proj is activated, as in a plain feed-forward layer",
            gate=lambda s, c, _gate, up: s.activation(c, up)),
    mistake("up_missing", "gate_proj is activated and nothing multiplies it",
            gate=lambda s, c, gate, _up: s.activation(c, gate)),
    mistake("rounded_once", "activation and product are computed in float32 and rounded once",
            gate=lambda s, c, gate, up: (s.activation(c, gate.to(s.wide)) * up.to(s.wide)).to(gate.dtype)),
    mistake("biases_dropped", "mlp_bias is ignored", "TensorRT-LLM#3476, LlamaFactory#3721",
            linear=_without_bias("gate_proj", "up_proj", "down_proj")),
    mistake("gate_bias_dropped", "gate_proj has no bias", linear=_without_bias("gate_proj")),
    mistake("up_bias_dropped", "up_proj has no bias", linear=_without_bias("up_proj")),
    mistake("down_bias_dropped", "down_proj has no bias", linear=_without_bias("down_proj")),
    mistake("up_is_gate", "up_proj's output is gate_proj's", linear=_reading(up_proj="gate_proj")),
    mistake("gate_is_up", "gate_proj's output is up_proj's", linear=_reading(gate_proj="up_proj")),
]  # fmt: skip
