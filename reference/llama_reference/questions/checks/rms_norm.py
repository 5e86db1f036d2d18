"""Every norm of the model, on rows of several sizes: small ones are where eps shows."""

from torch import Tensor

from llama_reference.implementation import RmsNorm
from llama_reference.standard.cases import SCALES, Case

VARIANTS = ("hard", "eps 1e-6", "eps 1e-2")


def ask(implementation: RmsNorm, case: Case) -> dict[str, Tensor]:
    handle = implementation.build(case.config, case.state, case.dtype)
    layers = range(case.config["num_hidden_layers"])
    names = [f"model.layers.{i}.{norm}_layernorm" for i in layers for norm in ("input", "post_attention")]
    return {
        f"{name} at scale {scale:g}": implementation.rms_norm(handle, name, case.hidden(scale))
        for name in [*names, "model.norm"]
        for scale in SCALES
    }
