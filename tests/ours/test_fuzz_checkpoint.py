"""Damaged files of every format: they load, or are refused with a CheckpointError; nothing else happens, or takes long.

500 inputs in a normal run; 40 for each of hypothesis' examples in its thorough profile, 20,000 for 500.
"""

import copy
import json
import random
import struct
import time
import warnings
import zipfile

import hypothesis
import pytest

from llama_scratch import Llama
from llama_scratch.checkpoint.files import CheckpointError
from llama_scratch.convert import open_source
from llama_scratch.errors import MESSAGE
from llama_scratch.tokenizer.converting import find_tokenizer
from tests.ours.checkpoint_writers import made, write_gguf, write_hf, write_llama2c, write_meta

EXAMPLES = hypothesis.settings.default.max_examples
INPUTS = 500 if EXAMPLES <= 25 else 40 * EXAMPLES
NASTY = [None, True, False, 0, -1, 1, 3, 2**31, 2**63, 10**30, 10**400, 0.5, -0.0, 1e308, float("inf"), float("nan"),
         "", "a" * 3000, "../x.safetensors", "\ud800", [], {}, [[]], [2**63], {"a": {}}, list(range(300))]  # fmt: skip
NUMBERS = [0, 1, 2, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]
SIZES = {"num_hidden_layers": 1, "vocab_size": 12, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 44,
         "num_key_value_heads": 2, "max_position_embeddings": 4}  # fmt: skip


def sources(folder):
    """Target -> what is opened, and the file in it that is damaged."""
    config, state = made("untied", **SIZES)
    one = write_hf(folder / "one", config, state)
    two = write_hf(folder / "two", config, state, shards=2)
    pickled = write_hf(folder / "bin", config, state, "bin")
    (one / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2], "temperature": 0.5, "a": [{}]}))
    meta = write_meta(folder / "meta", config, state, parts=2)
    old = write_llama2c(folder / "model.bin", config, state)
    sizes = SIZES | {"hidden_size": 32, "num_attention_heads": 4}
    wide = write_gguf(folder / "model.gguf", *made("GQA", **sizes), "F16", extra=twelve_pieces, words=False)
    return {
        "config.json": (one, one / "config.json"),
        "generation_config.json": (one, one / "generation_config.json"),
        "model.safetensors": (one, one / "model.safetensors"),
        "index": (two, two / "model.safetensors.index.json"),
        "shard": (two, two / "model-00001-of-00002.safetensors"),
        "pytorch_model.bin": (pickled, pickled / "pytorch_model.bin"),
        "the pickle inside": (pickled, pickled / "pytorch_model.bin"),
        "params.json": (meta, meta / "params.json"),
        "consolidated.01.pth": (meta, meta / "consolidated.01.pth"),
        "llama2.c": (old, old),
        "gguf": (wide, wide),
    }


def twelve_pieces(writer):
    """A tokenizer."""
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *"▁abcdef", "▁a", "bc"])
    writer.add_token_scores([0.0] * 3 + [-float(i) for i in range(9)])
    writer.add_token_types([2, 3, 3] + [1] * 9)
    writer.add_add_bos_token(True)
    writer.add_chat_template("{{ messages }}")


def damaged_bytes(content: bytes, dice: random.Random) -> bytes:
    """A few changes, most of them in the front, where the sizes and names are."""
    changed = bytearray(content)
    for _ in range(dice.choice([1, 1, 2, 5])):
        place = dice.randrange(min(len(changed), dice.choice([16, 64, 2000, len(changed)])) or 1)
        kind = dice.randrange(6)
        if kind == 0:
            changed[place : place + 1] = bytes([dice.randrange(256)])
        elif kind == 1:
            changed[place : place + 1] = bytes([changed[place] ^ 1 << dice.randrange(8)]) if changed else b"\0"
        elif kind == 2:
            form = dice.choice(["<I", "<Q"])
            number = dice.choice(NUMBERS) % (1 << 8 * struct.calcsize(form))
            changed[place : place + struct.calcsize(form)] = struct.pack(form, number)
        elif kind == 3:
            del changed[place : place + dice.choice([1, 4, 100])]
        elif kind == 4:
            changed[place:place] = changed[place : place + dice.choice([1, 8, 64])]
        else:
            del changed[place:]
        changed = changed or bytearray(1)
    return bytes(changed)


def damaged_json(content: bytes, dice: random.Random) -> bytes:
    """A value, somewhere in it, of another kind; or a name more or less; or raw damage."""
    if dice.random() < 0.2:
        return damaged_bytes(content, dice)
    whole = json.loads(content)
    for _ in range(dice.choice([1, 1, 3])):
        place = whole
        while isinstance(inner := place[dice.choice(list(place))], dict) and inner and dice.random() < 0.8:
            place = inner
        key = dice.choice(list(place))
        kind = dice.randrange(5)
        if kind == 0 and len(place) > 1:
            del place[key]
        elif kind == 1:
            place[dice.choice(["a", "", key + "\n", "rope_scaling", "moe", key.upper()])] = copy.deepcopy(
                dice.choice(NASTY)
            )
        else:
            place[key] = copy.deepcopy(dice.choice(NASTY))
    return json.dumps(whole).encode()


def damaged_header(content: bytes, dice: random.Random) -> bytes:
    """The header of safetensors as damaged JSON, with its length put right, half of the time."""
    if dice.random() < 0.5:
        return damaged_bytes(content, dice)
    end = 8 + int.from_bytes(content[:8], "little")
    header = damaged_json(content[8:end], dice)
    return struct.pack("<Q", len(header)) + header + content[end:]


def damaged_pickle(path, content: bytes, dice: random.Random) -> None:
    """The pickle of a zip file damaged, and the zip made anew around it."""
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, record in records.items():
            archive.writestr(name, damaged_bytes(record, dice) if name.endswith("data.pkl") else record)


def damage(target: str, path, content: bytes, dice: random.Random) -> None:
    if target == "the pickle inside":
        damaged_pickle(path, content, dice)
    elif path.suffix == ".json":
        path.write_bytes(damaged_json(content, dice))
    else:
        path.write_bytes((damaged_header if path.suffix == ".safetensors" else damaged_bytes)(content, dice))


def opened(source) -> bool:
    """Whether it loads, to the last tensor, as a program would: directly, or through the converter."""
    try:
        if (source / "config.json").exists():
            Llama.from_pretrained(source, check_finite=True)
        else:
            checkpoint = open_source(source)
            _, weights = Llama.empty_model_and_weights(checkpoint)
            for weight in weights.values():
                weight.read()
            carried = find_tokenizer(source, checkpoint.config.vocab_size)
            assert all(line.isprintable() for line in carried.lines)
    except CheckpointError as error:
        message = str(error)
    else:
        return True
    assert message.isprintable()
    assert len(message) < MESSAGE + 10
    return False


TARGETS = ["config.json", "generation_config.json", "model.safetensors", "index", "shard", "pytorch_model.bin",
           "the pickle inside", "params.json", "consolidated.01.pth", "llama2.c", "gguf"]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_a_damaged_file_loads_or_is_refused(target, tmp_path):
    source, path = sources(tmp_path)[target]
    content = path.read_bytes()
    assert opened(source)
    outcomes = []
    for seed in range(-(-INPUTS // len(TARGETS))):
        damage(target, path, content, random.Random(f"{target} {seed}"))
        started = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outcomes.append(opened(source))
        except Exception as error:
            pytest.fail(f"{target}, seed {seed}: {type(error).__name__}: {error}")
        assert time.perf_counter() - started < 10, f"{target}, seed {seed}"
    assert outcomes.count(False) > len(outcomes) / 20  # damage is found, where it can be
