"""A Llama of somebody's own, as far as there is one: its RMSNorm, with a mistake in it."""

import torch


class MyNorm(torch.nn.Module):
    def __init__(self, gain, eps):
        super().__init__()
        self.gain, self.eps = gain, eps

    def forward(self, x):
        wide = x.float()
        size = wide.pow(2).mean(-1, keepdim=True).sqrt() + self.eps
        return self.gain * (wide / size).to(x.dtype)


# The adapter: what the suite calls.


def build(config, state, dtype):
    """A model from the fields of a config.json and tensors under Hugging Face's names."""
    return config["rms_norm_eps"], {name: tensor.to(dtype) for name, tensor in state.items()}


def rms_norm(model, where, x):
    """The norm whose gain is stored as `where`.weight."""
    eps, tensors = model
    return MyNorm(tensors[where + ".weight"], eps)(x)
