"""The families of mistakes with a number in them, by component: NAME.py holds those in NAME."""

from llama_reference.mistakes.families import (
    attention,
    block,
    generate,
    kv_cache,
    llama,
    loss,
    rms_norm,
    rotary,
    sampling,
    swiglu,
)
from llama_reference.mistakes.family import Family

FAMILIES: dict[str, tuple[Family, ...]] = {
    "attention": attention.FAMILIES,
    "block": block.FAMILIES,
    "generate": generate.FAMILIES,
    "kv_cache": kv_cache.FAMILIES,
    "llama": llama.FAMILIES,
    "loss": loss.FAMILIES,
    "rms_norm": rms_norm.FAMILIES,
    "rotary": rotary.FAMILIES,
    "sampling": sampling.FAMILIES,
    "swiglu": swiglu.FAMILIES,
}
