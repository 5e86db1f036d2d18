"""Remove the prefixes of a state dict that was saved from inside a wrapper.

    _orig_mod.model.norm.weight          torch.compile
    module.model.norm.weight             DistributedDataParallel, DataParallel
    base_model.model.model.norm.weight   peft
    model.model.norm.weight              a module that contains the model

A prefix is removed if every key has it and is a Llama's key without it. The names that wrappers insert between two
parts of a key are removed anywhere.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence

BARE = ("embed_tokens.", "layers.", "norm.")  # the parts of a LlamaModel that was saved without its head
ROOTS = ("model.embed_tokens.", "model.layers.", "model.norm.", "model.rotary_emb.", "lm_head.", *BARE)
MOST_PARTS = 16  # of a prefix
BETWEEN = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
logger = logging.getLogger(__name__)


def without_wrappers(names: Sequence[str], strip_prefix: str = "") -> dict[str, str]:
    """Map each name, without `strip_prefix`, to its name in a Llama, and log what is removed.

    If the names as a whole do not determine a prefix, only `strip_prefix` is removed.
    """
    names = list(names)
    given = {name: name.removeprefix(strip_prefix) for name in names}
    bare = {name: BETWEEN.sub("", left) for name, left in given.items()}
    prefix = common_prefix(bare.values())
    stripped = {name: left[len(prefix or "") :] for name, left in bare.items()}
    if prefix is None or len(set(stripped.values())) < len(stripped):
        return given
    changed = next((name for name in names if stripped[name] != given[name]), None)
    if changed is not None:
        logger.warning("keys are read without the prefix of a wrapper: %s as %s", changed, stripped[changed])
    return stripped


def common_prefix(names: Iterable[str]) -> str | None:
    """Find the common prefix of all names before a key of a Llama, "" or whole parts; None if there is none."""
    names = list(names)
    parts = names[0].split(".") if names else []
    for count in range(len(parts)):
        prefix = "".join(f"{part}." for part in parts[:count])
        if all(name.startswith(prefix) and name.startswith(ROOTS, len(prefix)) for name in names):
            return prefix
    return None


def pairs(missing: Sequence[str], unexpected: Sequence[str]) -> tuple[str, list[tuple[str, str]]]:
    """Find the prefix that most unexpected keys have before a missing key; return it with the (actual, expected)
    pairs.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    wanted = set(missing)
    for name in unexpected:
        parts = name.split(".")
        keys = (".".join(parts[count:]) for count in range(1, min(len(parts), MOST_PARTS)))
        key = next((key for key in keys if key in wanted), None)
        if key is not None:
            found.setdefault(name.removesuffix(key), []).append((name, key))
    return max(found.items(), key=lambda item: len(item[1]), default=("", []))
