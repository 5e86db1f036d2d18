"""The conventions that an adapter translates between: each against transformers' own, and back where there is a way."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from llama_reference import conventions as c
from llama_reference.standard import cases
from llama_reference.standard.stepwise import StepwiseLlama

CONFIG = cases.HARD
STATE = cases.weights(CONFIG, 0)
N = CONFIG["num_attention_heads"]
G = CONFIG["num_key_value_heads"]
H = CONFIG["head_dim"]
AT = "model.layers.1.self_attn."


# names


@pytest.mark.parametrize("names", [c.META, c.TORCHTUNE, c.LITGPT, c.GPT_NEOX, c.CS336])
def test_every_tensor_has_one_other_name(names):
    state = c.fuse_qkv(STATE, CONFIG) if names in (c.LITGPT, c.GPT_NEOX) else STATE
    renamed = c.rename(state, names)
    assert len(renamed) == len(state)
    assert not any("self_attn" in key or "{" in key for key in renamed)
    assert sum(".2." in key for key in renamed) == sum(".2." in key for key in state)


def test_a_name_keeps_its_number_and_its_kind():
    assert c.name("model.layers.11.mlp.up_proj.bias", c.META) == "layers.11.feed_forward.w3.bias"
    assert c.name("model.layers.11.input_layernorm.weight", c.TORCHTUNE) == "layers.11.sa_norm.scale"
    assert c.name("model.layers.11.input_layernorm", c.TORCHTUNE) == "layers.11.sa_norm"


def test_a_tensor_that_the_map_lacks_is_told():
    with pytest.raises(ValueError, match=r"neither 'model\.layers\.\{\}\.self_attn\.rotary' nor"):
        c.name("model.layers.3.self_attn.rotary", c.META)


# layouts


def test_fused_rows_stand_one_after_the_other():
    fused = c.fuse_qkv(STATE, CONFIG)
    q, k, v = fused[AT + "qkv_proj.weight"].split([N * H, G * H, G * H])
    for name, rows in {"q": q, "k": k, "v": v}.items():
        assert torch.equal(rows, STATE[f"{AT}{name}_proj.weight"])
    assert f"{AT}q_proj.weight" not in fused
    assert fused[AT + "qkv_proj.bias"].shape == ((N + 2 * G) * H,)


def test_fused_by_group_each_group_has_its_own_queries_key_and_value():
    fused = c.fuse_qkv(STATE, CONFIG, by_group=True)[AT + "qkv_proj.weight"].view(G, N // G + 2, H, -1)
    heads = STATE[AT + "q_proj.weight"].view(N, H, -1)
    assert torch.equal(fused[1, 2], heads[N // G + 2])
    assert torch.equal(fused[1, -2], STATE[AT + "k_proj.weight"].view(G, H, -1)[1])
    assert torch.equal(fused[1, -1], STATE[AT + "v_proj.weight"].view(G, H, -1)[1])


def test_fused_gate_and_up():
    gate, up = c.fuse_gate_up(STATE)["model.layers.0.mlp.gate_up_proj.weight"].chunk(2)
    assert torch.equal(gate, STATE["model.layers.0.mlp.gate_proj.weight"])
    assert torch.equal(up, STATE["model.layers.0.mlp.up_proj.weight"])


def test_neighbours_are_what_stood_half_a_head_apart():
    assert c.interleaved(torch.arange(6)).tolist() == [0, 3, 1, 4, 2, 5]
    assert c.interleaved(torch.arange(8), heads=2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.parametrize(("there", "back"), [(c.interleaved, c.half_split), (c.exchanged, c.exchanged)])
def test_a_layout_has_an_exact_inverse(there, back):
    rows = torch.randn(3 * 10, 7)
    assert torch.equal(back(there(rows, 3, 0), 3, 0), rows)
    assert not torch.equal(there(rows, 3, 0), rows)
    x = torch.randn(2, 5, 10)
    assert torch.equal(back(there(x)), x)


def test_exchanged_halves_turn_the_other_way_round():
    """R(−θ) of exchanged halves is R(θ) with its halves exchanged: what such a model computes is right."""
    model, x = StepwiseLlama(), torch.randn(1, 2, 4, 10)
    angles = torch.randn(1, 4, 5).repeat(1, 1, 2)
    right = model.rotate(x, angles.cos(), angles.sin())
    other = model.rotate(c.exchanged(x), angles.cos(), -angles.sin())
    assert torch.equal(c.exchanged(other), right)


# weights in a model


class Fused(nn.Module):
    def __init__(self, F=CONFIG["intermediate_size"]):
        super().__init__()
        self.both = nn.Linear(CONFIG["hidden_size"], 2 * F)


GATED = {key: w for key, w in STATE.items() if key.startswith(("model.layers.0.mlp.gate", "model.layers.0.mlp.up"))}


def fused(weights):
    return c.rename(c.fuse_gate_up(weights), {"model.layers.{}.mlp.gate_up_proj": "both"})


def test_gradients_arrive_under_hugging_faces_names_however_weights_are_laid_out():
    model = Fused()
    x = torch.randint(9, (3, CONFIG["hidden_size"])).float()
    leaves = c.load(model, GATED, fused, torch.float32)
    model.both(x).chunk(2, -1)[1].sum().backward()
    assert leaves.keys() == GATED.keys()
    assert not leaves["model.layers.0.mlp.gate_proj.weight"].grad.any()
    expected = x.sum(0).expand(CONFIG["intermediate_size"], -1)
    assert torch.equal(leaves["model.layers.0.mlp.up_proj.weight"].grad, expected)


def test_weights_that_do_not_fit_are_told():
    with pytest.raises(
        ValueError, match=r"2 names of weights differ, the first is 'both\.bias': convert does not give it"
    ):
        c.load(Fused(), GATED, lambda _weights: {}, torch.float32)
    with pytest.raises(ValueError, match=r"both\.weight is \(184, 72\), the model expects \(10, 72\)"):
        c.load(Fused(F=5), GATED, fused, torch.float32)


# positions and masks


def test_what_a_model_has_no_room_for_is_refused():
    rows = torch.tensor([[3, 4, 5], [3, 4, 5]])
    assert c.input_pos(rows).tolist() == [3, 4, 5]
    assert c.offset(rows) == 3
    c.from_zero(rows - 3)
    for refuse, positions in (
        (c.input_pos, rows + torch.tensor([[0], [1]])),
        (c.offset, rows * 2),
        (c.from_zero, rows),
    ):
        with pytest.raises(NotImplementedError):
            refuse(positions)
    c.only(CONFIG, hidden_act=("silu", "gelu"), rope_type="llama3")
    with pytest.raises(NotImplementedError, match="rope_type is 'default' only"):
        c.only(CONFIG, rope_type="default")


@pytest.mark.parametrize("mask", [None, torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])])
def test_masks_are_those_of_the_standard(mask):
    look = c.visible(2, 5, mask)
    assert torch.equal(look, StepwiseLlama().visible(2, 5, mask))
    added = c.additive(look, torch.float16)
    assert torch.equal(added == 0, look)
    assert (added[~look] == torch.finfo(torch.float16).min).all()


# caches and rows


class Remembers(nn.Module):
    """Sums of all that it has been given, kept in a buffer or in a dictionary that grows."""

    def __init__(self, grows):
        super().__init__()
        self.part = nn.Module()
        self.part.kept = {} if grows else nn.Module()
        if not grows:
            self.part.kept.register_buffer("x", torch.zeros(2, 1, 9, 1))

    def forward(self, x, places):
        kept = self.part.kept
        if isinstance(kept, dict):
            self.part.kept = {"x": torch.cat((kept["x"], x), dim=2) if kept else x}
            return self.part.kept["x"].sum(2)
        kept.x[:, :, places] = x
        return kept.x[:, :, : places[-1] + 1].sum(2)


@pytest.mark.parametrize("grows", [True, False])
def test_a_cache_inside_a_model_can_be_had_twice_cropped_and_reordered(grows):
    model = Remembers(grows)
    first = c.HeldCache(model, "kept")
    second = c.HeldCache(model, "kept")

    def ask(cache, *rows):
        x = torch.tensor(rows, dtype=torch.float32)[:, None, :, None]
        with cache.inside(model, x.shape[2]) as places:
            return model(x, places).flatten().tolist()

    assert ask(first, (1, 2), (10, 20)) == [3, 30]
    assert ask(second, (5,), (50,)) == [5, 50]
    assert ask(first, (4,), (40,)) == [7, 70]
    first = first.crop(1)
    assert ask(first, (8,), (80,)) == [9, 90]
    first = first.reorder(torch.tensor([1, 1]))
    assert ask(first, (0,), (1,)) == [90, 91]
    assert not (model.part.kept if grows else model.part.kept.x.any())


def test_rows_one_by_one_are_asked_their_real_tokens_alone():
    x = torch.arange(8.0).view(2, 4, 1)
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    cache = c.RowCache([[], []], lambda row, length: row[:length])

    def call(x, positions, row):
        row += x.flatten().tolist()
        return x + 100 * positions[..., None]

    at = torch.arange(4).expand(2, -1)
    answer = c.row_by_row(call, x[:, :3], at[:, :3], mask[:, :3], cache)
    assert answer.flatten().tolist() == [0, 0, 202, 4, 105, 206]
    c.row_by_row(call, x[:, 3:], at[:, 3:], mask, cache)
    assert cache.rows == [[2, 3], [4, 5, 6, 7]]
    assert cache.crop(3).rows == [[2], [4, 5, 6]]
    assert cache.reorder(torch.tensor([1, 1, 0])).rows == [[4, 5, 6], [4, 5, 6], [2]]


def test_a_chunk_of_padding_alone_gets_zeros_and_leaves_the_cache_as_it_is():
    x, at = torch.ones(1, 2, 3), torch.tensor([[5, 6]])
    cache = c.RowCache([[]], lambda row, length: row[:length])

    def call(x, _positions, row):
        if row is not None:
            row += x.flatten().tolist()
        return x[..., :1]

    assert c.row_by_row(call, x, at, torch.zeros(1, 2), cache).tolist() == [[[0], [0]]]
    assert (cache.rows, cache.real.tolist()) == ([[]], [[False, False]])


def test_a_program_is_asked_token_by_token():
    text = []

    def step(token, place):
        if place == 0:
            text.clear()
        text.append(token)
        return [float(sum(text)), float(place)]

    logits = c.token_by_token(step, torch.tensor([[7, 1, 2], [3, 4, 5]]), torch.tensor([[0, 1, 1], [1, 1, 1]]))
    assert logits.tolist() == [[[0, 0], [1, 0], [3, 1]], [[3, 0], [7, 1], [12, 2]]]


def test_a_built_model_has_its_parts_by_their_names():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.feed_forward = nn.Module()
            self.attention_norm = nn.LayerNorm(72, bias=False)
            for w, (outer, inner) in {"w1": (92, 72), "w2": (72, 92), "w3": (92, 72)}.items():
                setattr(self.feed_forward, w, nn.Linear(inner, outer))

    model = nn.Module()
    model.layers = nn.ModuleList([Layer()])
    state = {k: w for k, w in STATE.items() if k.startswith(("model.layers.0.mlp", "model.layers.0.input"))}
    built = c.Built(model, c.META, state, torch.bfloat16)
    assert built.part("model.layers.0") is model.layers[0]
    assert built.part("model.layers.0.mlp") is model.layers[0].feed_forward
    assert c.parameters(built)["model.layers.0.mlp.up_proj.weight"].dtype == torch.bfloat16
    x = torch.randn(2, 72, dtype=torch.bfloat16)
    theirs = F.layer_norm(x, (72,), state["model.layers.0.input_layernorm.weight"].bfloat16())
    assert torch.equal(c.rms_norm(built, "model.layers.0.input_layernorm", x), theirs)
