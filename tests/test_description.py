"""What is said of wrong answers that nothing known gives is true of them, and of right ones nothing is said."""

import pytest
import torch

from llama_reference.judge import dependence, description, layouts
from llama_reference.mistakes import of
from llama_reference.standard.cases import Case
from llama_reference.standard.correct_variants import REORDERINGS
from llama_reference.standard.stepwise import StepwiseLlama
from tests import rewritten
from tests.profiles import among

QUICK = ("rms_norm", "rotary", "swiglu", "loss")


class BackwardsFarOutInBfloat16(StepwiseLlama):
    """Wrong in half of the channels, past position 256, in one dtype."""

    def angles(self, config, positions, dtype):
        cos, sin = StepwiseLlama.angles(self, config, positions, dtype)
        if dtype == torch.bfloat16:
            wrong = (positions > 256)[..., None] & (torch.arange(cos.shape[-1]) < cos.shape[-1] // 2)
            cos = torch.where(wrong, -cos, cos)
        return cos, sin


class LouderFrom30On(StepwiseLlama):
    def norm(self, x, gain, eps):
        return StepwiseLlama.norm(self, x, gain, eps) * torch.where(torch.arange(x.shape[1]) < 30, 1, 1.5)[:, None]


class AnEighthInLayer1(StepwiseLlama):
    def swiglu(self, handle, layer, x):
        return StepwiseLlama.swiglu(self, handle, layer, x) * (0.125 if layer == 1 else 1)


class OverTheWholeBatch(StepwiseLlama):
    """The first channel of every row is that of the first row."""

    def norm(self, x, gain, eps):
        y = StepwiseLlama.norm(self, x, gain, eps)
        return torch.cat((y[:1, ..., :1].expand_as(y[..., :1]), y[..., 1:]), dim=-1)


TOLD = {
    "rotary": (
        BackwardsFarOutInBfloat16(),
        "wrong only in bfloat16, in the first half of the channels, from position 257 on; "
        "right where asked about “first positions”",
    ),
    "rms_norm": (LouderFrom30On(), "wrong only from position 30 on"),
    "swiglu": (
        AnEighthInLayer1(),
        "wrong only where asked about “layer 1”; right where asked about “layer 0” or “layer 2”; "
        "the wrong answers are 0.125 times what they should be",
    ),
}


@pytest.mark.parametrize("component", TOLD)
def test_where_answers_are_wrong_is_told(component):
    implementation, told = TOLD[component]
    assert description.describe(component, implementation) == told


def test_what_an_answer_depends_on_and_should_not_is_told():
    told = description.describe("rms_norm", OverTheWholeBatch())
    assert "in channel 0 of 72" in told
    assert "a row of the batch depends on another" in told
    apart = description.describe("rms_norm", rewritten.STRANGERS["halves_normed_apart"][1])
    assert apart == "channels 36 to 71 do not depend on channel 0"


class FirstSumHalved(StepwiseLlama):
    """h = (x + attention) / √2."""

    def block_step(self, handle, layer, x, positions, mask, cache):
        at = f"model.layers.{layer}."
        normed = self.rms_norm(handle, at + "input_layernorm", x)
        h = (x + self.attention_step(handle, layer, normed, positions, mask, cache)) * 0.5**0.5
        return h + self.swiglu(handle, layer, self.rms_norm(handle, at + "post_attention_layernorm", h))


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (FirstSumHalved(), ["where neither branch adds anything, the answer is 0.70711 times what it should be"]),
        ("mlp_missing", ["right where the feed-forward adds nothing or neither branch adds anything"]),
        ("parallel", ["right where attention adds nothing or the feed-forward adds nothing"]),
        ("second_norm_missing", ["right where the feed-forward adds nothing or neither branch adds anything"]),
    ],
)
def test_which_branch_of_a_block_is_wrong_is_told(made, told):
    known = {mistake.name: mistake.implementation for mistake in of("block")}
    assert dependence.branches(known.get(made, made), Case()) == told


class OnlyInYarn(StepwiseLlama):
    """Wrong in every dtype, and asked about in one."""

    def yarn_factor(self, rope):
        return 2 * StepwiseLlama.yarn_factor(self, rope)


def test_of_what_is_asked_in_one_dtype_only_no_dtype_is_told():
    assert description.describe("rotary", OnlyInYarn()).startswith("wrong only with `rope yarn`")


@pytest.mark.parametrize("component", among(("rms_norm", "rotary", "attention", "swiglu", "block", "loss"), QUICK))
def test_of_what_is_right_nothing_is_said(component):
    reordered = [implementation for implementation, touched in REORDERINGS.values() if component in touched]
    for implementation in (StepwiseLlama(), rewritten.Textbook(), *reordered):
        assert description.describe(component, implementation, seed=1) == ""


class Interleaved(StepwiseLlama):
    """Neighbouring channels are pairs, and the rows of q and k are permuted to match."""

    def rotary(self, handle, q, k, positions):
        pairs = q.shape[-1] // 2
        order = torch.arange(2 * pairs).view(pairs, 2).T.flatten()
        turned = StepwiseLlama.rotary(self, handle, q[..., order], k[..., order], positions)
        return tuple(x[..., order.argsort()] for x in turned)

    def project(self, handle, at, x):
        q, k, v = StepwiseLlama.project(self, handle, at, x)
        order = torch.arange(q.shape[-1]).view(2, -1).T.flatten()
        return q[..., order], k[..., order], v


def test_another_layout_with_weights_to_match_is_a_convention():
    convention = layouts.of_rotary(Interleaved())
    assert convention is not None
    assert convention.told.startswith("channel 2i is paired with 2i + 1")


@pytest.mark.parametrize("name", ["neighbour_pairs", "wrong_way_round", "longrope_not_sharpened", "yarn_not_sharpened"])
def test_where_attention_is_wrong_too_it_is_a_mistake(name):
    """Each would be a convention if attention made up for it."""
    known = next(mistake for mistake in of("rotary") if mistake.name == name)
    assert layouts.of_rotary(known.implementation) is None


def test_what_is_right_follows_our_convention():
    assert layouts.of_rotary(StepwiseLlama()) is None
