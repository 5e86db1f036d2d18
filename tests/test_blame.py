"""Blame: a mistake planted in a whole model is found by its component and its layer, and by nothing else."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from llama_reference import mistakes
from llama_reference.judge import localization
from llama_reference.judge.error_growth import running
from llama_reference.questions import far, layer_checks
from llama_reference.questions.activations import Inputs
from llama_reference.standard import oracle
from llama_reference.standard.cases import DTYPES, Case
from llama_reference.standard.correct_variants import REORDERINGS
from llama_reference.standard.outcome import Outcome

LAYER = 1
ASKED = ("build", "new_cache", "rms_norm", "rotary", "attention", "swiglu", "block", "llama")


def questions(case: Case) -> layer_checks.LayerChecks:
    return layer_checks.prepare(case.config, case.state, case.dtype, Inputs(case.tokens, case.positions, case.mask))


@pytest.fixture(scope="module")
def hard():
    return questions(Case())


@pytest.fixture(scope="module", params=DTYPES, ids=str)
def every_dtype(request):
    return questions(Case(dtype=request.param))


def like(implementation, **others) -> SimpleNamespace:
    """The implementation with other functions in place of some of its own."""
    return SimpleNamespace(**{name: getattr(implementation, name) for name in ASKED} | others)


def mutated(plant) -> SimpleNamespace:
    """transformers, with something changed in every model that it builds: leaf, block and model are wrong alike."""

    def build(*about):
        handle = oracle.build(*about)
        with torch.no_grad():
            plant(handle)
        return handle

    return like(oracle, build=build)


def ignores_its_gain(handle):
    handle.model.layers[LAYER].input_layernorm.weight.fill_(1)


def ignores_the_last_gain(handle):
    handle.model.norm.weight.fill_(1)


def turns_by_another_base(handle):
    handle.config.rope_parameters["rope_theta"] = 500000.0


def scales_scores_twice(handle):
    handle.model.layers[LAYER].self_attn.scaling **= 2


def has_another_activation(handle):
    handle.model.layers[LAYER].mlp.act_fn = nn.GELU()


def perturbs_one_weight(handle):
    handle.model.layers[LAYER].mlp.up_proj.weight[3, 5] += 1


def runs_both_branches_side_by_side(handle):
    layer = handle.model.layers[LAYER]

    def forward(x, **around):
        read, _ = layer.self_attn(layer.input_layernorm(x), **around)
        return x + read + layer.mlp(layer.post_attention_layernorm(x))

    layer.forward = forward


def shifts_the_vocabulary(handle):
    handle.lm_head.weight.copy_(handle.lm_head.weight.roll(1, 0))


def scales_its_embeddings(handle):
    handle.model.embed_tokens.weight.mul_(2)


@pytest.mark.parametrize(
    ("plant", "component", "layers"),
    [
        (ignores_its_gain, "rms_norm", [LAYER]),
        (ignores_the_last_gain, "rms_norm", [None]),
        (turns_by_another_base, "rotary", [0, 1, 2]),
        (scales_scores_twice, "attention", [LAYER]),
        (has_another_activation, "swiglu", [LAYER]),
        (perturbs_one_weight, "swiglu", [LAYER]),
        (runs_both_branches_side_by_side, "block", [LAYER]),
        (shifts_the_vocabulary, "llama", [None]),
        (scales_its_embeddings, "llama", [None]),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_the_innermost_wrong_component_is_guilty(every_dtype, plant, component, layers):
    findings = localization.find(mutated(plant), every_dtype)
    found = [(finding.name, finding.layer) for finding in localization.culprits(findings)]
    assert found == [(component, layer) for layer in layers]
    logits = {
        finding.status for finding in findings if finding.name == "llama" and finding.how != layer_checks.SILENCED
    }
    assert logits == {Outcome.WRONG}


def test_a_rounding_in_another_place_shows_in_bits_only():
    def rounds_once(handle):
        norm = handle.model.layers[LAYER].post_attention_layernorm

        def forward(x):
            wide = x.float()
            return (norm.weight * wide * (wide.square().mean(-1, True) + norm.variance_epsilon).rsqrt()).to(x.dtype)

        norm.forward = forward

    findings = localization.find(mutated(rounds_once), questions(Case(dtype=torch.bfloat16)))
    assert localization.culprits(findings) == []
    assert [(f.name, f.layer) for f in localization.culprits(findings, bitwise=True)] == [("rms_norm", LAYER)]


class Forgetful(DynamicCache):
    """Gives back the keys in another order, in one layer."""

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args, **kwargs):
        keys, values = super().update(keys, values, layer_idx, *args, **kwargs)
        return (keys.roll(1, dims=-2), values) if layer_idx == LAYER else (keys, values)


def test_a_mistake_of_the_cache_shows_in_chunks_only(hard):
    findings = localization.find(like(oracle, new_cache=lambda handle, *_: Forgetful(config=handle.config)), hard)
    assert [(f.name, f.layer, f.how) for f in localization.culprits(findings)] == [
        ("kv_cache", LAYER, layer_checks.STEP_BY_STEP)
    ]
    assert all(f.good for f in findings if f.how not in (layer_checks.IN_CHUNKS, layer_checks.STEP_BY_STEP))


def test_a_mistake_of_the_mask_over_a_cache_is_one_of_attention(hard):
    """One token at a time needs no mask, and there the cache gives back what it should."""
    [known] = [m for m in mistakes.of("attention") if m.name == "not_causal_over_a_cache"]
    found = localization.culprits(localization.find(known.implementation, hard))
    assert [(f.name, f.layer, f.how) for f in found] == [
        ("attention", layer, layer_checks.IN_CHUNKS) for layer in range(3)
    ]


@pytest.mark.parametrize("plant", [shifts_the_vocabulary, scales_its_embeddings])
def test_embedding_and_head_do_not_hide_behind_a_wrong_layer(hard, plant):
    def both(handle):
        plant(handle)
        for layer in handle.model.layers:
            layer.mlp.act_fn = nn.GELU()

    found = localization.culprits(localization.find(mutated(both), hard))
    assert [(f.name, f.layer) for f in found] == [*(("swiglu", layer) for layer in range(3)), ("llama", None)]
    assert found[-1].how == layer_checks.SILENCED


@pytest.mark.parametrize("name", REORDERINGS)
def test_computing_in_another_order_is_no_guilt(name, hard):
    reordered, _ = REORDERINGS[name]
    assert localization.culprits(localization.find(reordered, hard)) == []


def test_a_right_implementation_is_clean(implementation, every_dtype):
    findings = localization.find(implementation, every_dtype)
    assert len(findings) == 3 * 16 + 5
    assert [str(finding) for finding in findings if not finding.good] == []
    assert localization.culprits(findings) == []
    steps = running(implementation, every_dtype)
    assert len(steps) == 3 * 5 + 2
    assert [str(step) for step in steps if not step.good] == []


@pytest.mark.parametrize("variant", ["rope dynamic", "rope longrope", "tied", "one group"])
def test_transformers_itself_is_clean(variant):
    findings = localization.find(oracle, questions(Case(variant)))
    assert {finding.status for finding in findings} == {Outcome.BITWISE}


def test_without_a_mask_every_row_counts(implementation):
    case = Case()
    asked = layer_checks.prepare(case.config, case.state, case.dtype, Inputs(case.tokens, case.positions))
    assert asked.questions[-1].theirs.shape == (case.tokens.numel(), case.config["vocab_size"])
    assert all(finding.good for finding in localization.find(implementation, asked))


def test_one_token_is_enough(implementation):
    case = Case()
    inputs = Inputs(case.tokens[:, :1], case.positions[:, :1])
    assert all(
        f.good
        for f in localization.find(implementation, layer_checks.prepare(case.config, case.state, case.dtype, inputs))
    )


def test_recorded_activations_are_the_answers_of_the_parts(hard):
    """What the hooks heard in one run of the model is what transformers answers to the questions."""
    recording = hard.recording
    compared = 0
    for question in hard.questions:
        if question.how == layer_checks.ONE_PASS and question.where in recording.out_of:
            assert torch.equal(recording.out_of[question.where][recording.inputs.real], question.theirs)
            compared += 1
    assert compared == 3 * 5 + 1


def test_a_wrong_function_alone_is_guilty_too(hard):
    """The whole model is right here: its swiglu is asked through a function that is not."""

    def swiglu(handle, layer, x):
        return oracle.swiglu(handle, layer, x) * (2 if layer == LAYER else 1)

    found = localization.culprits(localization.find(like(oracle, swiglu=swiglu), hard))
    assert [(finding.name, finding.layer) for finding in found] == [("swiglu", LAYER)]


def test_what_is_not_offered_is_not_passed(hard):
    def swiglu(*_):
        raise NotImplementedError

    lacking = like(oracle, swiglu=swiglu)
    del lacking.rotary, lacking.new_cache
    findings = localization.find(lacking, hard)
    missing = {(finding.name, finding.how) for finding in findings if finding.status == Outcome.NOT_OFFERED}
    chunked = {(name, layer_checks.IN_CHUNKS) for name in ("attention", "block", "llama")} | {
        ("kv_cache", layer_checks.STEP_BY_STEP)
    }
    turned = {
        ("rotary", f"{which}{where}")
        for which in (far.QUERIES, far.KEYS)
        for where in ("", f", {far.FAR}", f", {far.LAST}")
    }
    assert missing == {("swiglu", layer_checks.ONE_PASS), *turned, *chunked}
    assert localization.culprits(findings) == []
    assert {step.name for step in running(lacking, hard)} == {"rms_norm", "attention", "block", "llama"}


def test_an_implementation_without_build_offers_nothing(hard):
    assert [finding.status for finding in localization.find(SimpleNamespace(), hard)] == [Outcome.NOT_OFFERED]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda x: x[:, :1], "IndexError"),
        (lambda x: x[..., :1], "shapes differ"),
        (lambda _: None, "TypeError"),
        (lambda x: x * float("nan"), "inf ulp"),
        (lambda _: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
def test_an_answer_of_no_use_is_a_failure_with_its_reason(hard, answer, reason):
    wrong = like(oracle, swiglu=lambda *arguments: answer(arguments[-1]))
    found = localization.culprits(localization.find(wrong, hard))
    assert [(finding.name, finding.layer) for finding in found] == [("swiglu", layer) for layer in range(3)]
    assert all(reason in str(finding) for finding in found)
    running(wrong, hard)


def test_a_model_that_cannot_be_built_is_a_finding(hard):
    def build(*_):
        raise KeyError("model.embed_tokens.weight")

    findings = localization.find(SimpleNamespace(build=build), hard)
    assert [str(finding) for finding in localization.culprits(findings)] == [
        "build, of the model: KeyError: 'model.embed_tokens.weight'"
    ]
    assert running(SimpleNamespace(build=build), hard) == []


def test_writing_into_an_argument_spoils_only_the_own_answer(hard):
    """Each call gets its own copies, so the components asked next are still judged on transformers' activations."""

    def swiglu(handle, layer, x):
        y = oracle.swiglu(handle, layer, x)
        x.zero_()
        return y

    careless = like(oracle, swiglu=swiglu)
    assert all(finding.good for finding in [*localization.find(careless, hard), *running(careless, hard)])


def test_a_case_whose_reference_overflows_is_void():
    case = Case(dtype=torch.float16)
    loud = {key: w * 1e5 if "down_proj" in key else w for key, w in case.state.items()}
    asked = layer_checks.prepare(case.config, loud, case.dtype, Inputs(case.tokens, case.positions, case.mask))
    findings = localization.find(oracle, asked)
    assert Outcome.VOID in {finding.status for finding in findings}
    assert not all(finding.good for finding in findings)
    assert localization.culprits(findings) == []


def test_the_run_on_its_own_activations_strays_where_the_mistake_is(hard):
    steps = running(mutated(has_another_activation), hard)
    first = next(step for step in steps if step.status != Outcome.BITWISE)
    assert (first.name, first.layer) == ("swiglu", LAYER)
