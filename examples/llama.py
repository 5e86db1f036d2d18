"""A whole small Llama in NumPy, which answers the questions of `llama-reference export DIR`. In DIR:

    python llama.py questions/rms_norm/hard.float32.txt answers/rms_norm/hard.float32

Without arguments it reads such pairs from standard input, a line each, and says "done" after each.
"""

import math
import sys
from pathlib import Path

import numpy as np

# the mathematics: float32 throughout but for angles; weights by Hugging Face's names in w, fields of the config in c


def rms_norm(w, c, where, x):
    return w[where + ".weight"] * (x / np.sqrt(np.mean(x * x, -1, keepdims=True) + np.float32(c["rms_norm_eps"])))


def frequencies(c, length):
    """Of every pair of channels the angle from one position to the next; a factor on cosine and sine."""
    kind, base, factor, H = c["rope.rope_type"], c["rope.rope_theta"], c.get("rope.factor", 1), c["head_dim"]
    longest, i = c["max_position_embeddings"], np.arange(H // 2)
    original = c.get("rope.original_max_position_embeddings", longest)
    if kind == "dynamic":
        base *= (factor * max(length, longest) / longest - factor + 1) ** (H / (H - 2))
    theta = base ** (-2 * i / H)
    if kind == "linear":
        return theta / factor, 1
    if kind == "llama3":
        low, high = c["rope.low_freq_factor"], c["rope.high_freq_factor"]
        kept = np.clip((original * theta / (2 * math.pi) - low) / (high - low), 0, 1)
        return theta * (kept + (1 - kept) / factor), 1
    if kind == "yarn":
        ends = [H * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base)) for turns in (32, 1)]
        first, last = max(math.floor(ends[0]), 0), min(math.ceil(ends[1]), H - 1)
        stretched = np.clip((i - first) / max(last - first, 1e-3), 0, 1)
        return theta * (1 - stretched + stretched / factor), 0.1 * math.log(factor) + 1
    if kind == "longrope":
        divisors = c["rope.long_factor" if length > original else "rope.short_factor"]
        return theta / np.array(divisors), math.sqrt(1 + math.log(factor) / math.log(original))
    return theta, 1


def rotate(c, x, positions):
    """(B, heads, T, H): channels i and i + H/2 are a pair."""
    theta, factor = frequencies(c, positions.max() + 1)
    angle = positions[:, None, :, None] * theta
    cos, sin = (np.float32(f(angle) * factor) for f in (np.cos, np.sin))
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate((a * cos - b * sin, b * cos + a * sin), -1)


def linear(w, name, x):
    return x @ w[name + ".weight"].T + w.get(name + ".bias", np.float32(0))


def attention(w, c, layer, x, positions, mask=None, cache=None):
    B, T, _ = x.shape
    at, H, R = f"model.layers.{layer}.self_attn.", c["head_dim"], c["num_attention_heads"] // c["num_key_value_heads"]
    q, k, v = (linear(w, f"{at}{n}_proj", x).reshape(B, T, -1, H).swapaxes(1, 2) for n in "qkv")
    q, k = rotate(c, q, positions), rotate(c, k, positions)
    if cache is not None:
        if layer in cache:
            k, v = np.concatenate((cache[layer][0], k), 2), np.concatenate((cache[layer][1], v), 2)
        cache[layer] = k, v
    S = k.shape[2]
    seen = np.tri(T, S, S - T, dtype=bool)[None, None]
    seen = seen if mask is None else seen & (mask[:, None, None, :] == 1)
    scores = np.where(seen, q @ np.repeat(k, R, 1).swapaxes(2, 3) / np.float32(math.sqrt(H)), np.float32(-1e30))
    p = np.exp(scores - scores.max(-1, keepdims=True)) * seen
    read = p / np.maximum(p.sum(-1, keepdims=True), np.float32(1e-30)) @ np.repeat(v, R, 1)
    return linear(w, at + "o_proj", read.swapaxes(1, 2).reshape(B, T, -1))


def swiglu(w, c, layer, x):
    gate, up = (linear(w, f"model.layers.{layer}.mlp.{n}_proj", x) for n in ("gate", "up"))
    with np.errstate(over="ignore"):
        phi = {
            "silu": lambda z: z / (1 + np.exp(-z)),
            "gelu": lambda z: np.float32(z * (1 + np.vectorize(math.erf)(z / math.sqrt(2))) / 2),
            "gelu_pytorch_tanh": lambda z: z / 2 * (1 + np.tanh(np.float32(0.7978845608) * (z + 0.044715 * z**3))),
            "relu": lambda z: np.maximum(z, 0),
        }[c["hidden_act"]]
    return linear(w, f"model.layers.{layer}.mlp.down_proj", phi(gate) * up)


def block(w, c, layer, x, positions, mask=None, cache=None):
    at = f"model.layers.{layer}."
    x = x + attention(w, c, layer, rms_norm(w, c, at + "input_layernorm", x), positions, mask, cache)
    return x + swiglu(w, c, layer, rms_norm(w, c, at + "post_attention_layernorm", x))


def llama(w, c, tokens, positions, mask=None, cache=None):
    x = w["model.embed_tokens.weight"][tokens]
    for layer in range(c["num_hidden_layers"]):
        x = block(w, c, layer, x, positions, mask, cache)
    return rms_norm(w, c, "model.norm", x) @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T


def loss(logits, labels):
    z, targets = np.float64(logits[:, :-1]), labels[:, 1:]
    z = z - z.max(-1, keepdims=True)
    picked = np.take_along_axis(z, np.maximum(targets, 0)[..., None], -1)[..., 0]
    return np.float32((np.log(np.exp(z).sum(-1)) - picked)[targets != -100].mean())


def generate(w, c, tokens, mask, new, use_cache, stop):
    mask, cache, T = np.ones_like(tokens) if mask is None else mask, {} if use_cache else None, tokens.shape[1]
    for step in range(new):
        positions = np.maximum(mask.cumsum(-1) - 1, 0)
        since = tokens.shape[1] - 1 if use_cache and step else 0
        best = llama(w, c, tokens[:, since:], positions[:, since:], mask, cache)[:, -1].argmax(-1)
        tokens, mask = np.c_[tokens, best], np.c_[mask, np.ones_like(best)]
        if all(set(row) & set(stop) for row in tokens[:, T:].tolist()):
            break
    return tokens


# the questions: lines of words; every call goes to the function of its name


def value(word):
    """A word as what it stands for: an array from its file, numbers, a list of them, true, false, none, text."""
    if word.startswith("data/"):
        found = np.load(word)
        return found.astype(np.float32) if found.dtype == np.float16 else found
    if "," in word:
        return [value(part) for part in word.split(",")]
    try:
        return {"true": True, "false": False, "none": None}[word] if word in ("true", "false", "none") else int(word)
    except ValueError:
        try:
            return float(word)
        except ValueError:
            return word


def rounded(x, dtype):
    """To the dtype of the model, as float32."""
    if dtype == "bfloat16":
        bits = x.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return x.astype(dtype).astype(np.float32)


def answer(request, folder):
    dtype, config, weights, caches = "", {}, {}, {}
    for line in Path(request).read_text().splitlines():
        kind, name, *words = line.split(" ")
        if kind == "model":
            dtype, config, weights = name, {}, {}
        elif kind == "config":
            config[name] = value(words[0])
        elif kind == "weight":
            weights[name] = rounded(np.load(words[0]), dtype)
        elif kind == "call":
            given = dict(word.split("=", 1) for word in words)
            files = [given.pop(key) for key in [*given] if key.startswith("answer")]
            found = call(name, weights, config, caches, {key: value(word) for key, word in given.items()})
            Path(folder).mkdir(parents=True, exist_ok=True)
            for file, array in zip(files, found, strict=False):
                np.save(Path(folder) / file, array)


def call(name, weights, config, caches, given):
    """The answers to one call: none where this Llama has none."""
    number = given.pop("cache", None)
    if name == "new_cache":
        caches[number] = {}
    elif name == "crop":
        kept = caches[number].items() if given["length"] else ()
        caches[number] = {layer: (k[:, :, : given["length"]], v[:, :, : given["length"]]) for layer, (k, v) in kept}
    elif name == "reorder":
        caches[number] = {layer: (k[given["rows"]], v[given["rows"]]) for layer, (k, v) in caches[number].items()}
    elif name == "rotary":
        return [rotate(config, given[part], given["positions"]) for part in "qk"]
    elif name == "loss":
        return [loss(**given)]
    elif name == "generate":
        stop = given.pop("stop")
        return [generate(weights, config, **given, stop=stop if isinstance(stop, list) else [stop])]
    elif name in ("rms_norm", "swiglu", "attention", "block", "llama"):
        return [globals()[name](weights, config, **given, **({} if number is None else {"cache": caches[number]}))]
    return []


if __name__ == "__main__":
    if len(sys.argv) == 3:
        answer(*sys.argv[1:])
    else:
        for line in sys.stdin:
            answer(*line.split())
            print("done", flush=True)
