"""The gate of the hard case: would its questions notice if one tensor, or one field of the configuration, were wrong?

Each is perturbed in turn, and the question of the component that it belongs to is put to transformers before and after,
in float32. Where no answer moves by a hundred times what standard.budget allows an implementation there, the case is
void for that tensor or field: an implementation could have it wrong and pass.

A tensor is perturbed twice: made five percent larger, and shifted by a row, so that each channel has its neighbour's
numbers. (Of one percent on a key's bias the case would show too little: transformers' own error is large, its angles
of positions far out being rounded to float32.) A number of the configuration is made five percent larger, or replaced
by the one it is usually confused with: eps 1e-6, the context for the original context, another activation. Heads are
counted otherwise with the same tensors; of other sizes less is taken, with the first rows and columns of the tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from llama_reference.implementation import Config, Implementation, State
from llama_reference.judge.comparison import is_asked
from llama_reference.questions.checks import CHECKS, gradients
from llama_reference.questions.checks.check import Answers
from llama_reference.standard import budget, formula, oracle
from llama_reference.standard.cases import HARD, ROPES, Case, configuration, lacking, weights
from llama_reference.standard.profile import FULL, Profile
from llama_reference.standard.stepwise import StepwiseLlama

ENOUGH = 100  # times what the budget allows
LARGER = 1.05

# Fields that cannot move an answer: another value to try, and why it changes nothing.
UNMOVED: dict[str, tuple[Any, str]] = {
    "model_type": ("llama", "says which model it is, not how it computes"),
    "bos_token_id": (7, "which token the tokenizer puts first; a model is given tokens"),
    "eos_token_id": (7, "where generating stops; the questions never stop"),
    "initializer_range": (0.5, "new weights are drawn with it; these are given"),
    "attention_dropout": (0.5, "in training only; models are asked in eval mode"),
    "use_cache": (False, "a default of transformers' call, and the oracle always says"),
    "pretraining_tp": (2, "ignored by transformers 5; older versions split products by it"),
    "max_position_embeddings": (512, "read by dynamic rotary, which has its own probe, or where a length is missing"),
}
# Fields that the shapes of answers and tensors settle: another value, with which the weights do not load.
BY_SHAPE = {"vocab_size": 103, "hidden_size": 80}


@dataclass(frozen=True)
class Altered(Case):
    """The inputs of a case, for another configuration or other tensors."""

    changed: Config = field(default_factory=dict)
    tensors: State = field(default_factory=dict)

    @property
    def config(self) -> Config:
        config = configuration(self.variant, self.profile) | self.changed
        rope = config["rope_parameters"]
        planes = config["head_dim"] // 2
        fitted = {key: (rope[key] * 2)[:planes] for key in ("short_factor", "long_factor") if key in rope}
        return config | {"rope_parameters": rope | fitted}

    @property
    def state(self) -> State:
        return self.tensors


@dataclass(frozen=True)
class Probe:
    """A case before and after one perturbation, and the component whose question tells them apart."""

    what: str
    component: str
    before: Case
    after: Case
    gradients: bool = False  # whether it is looked for in the component's gradients


@dataclass(frozen=True)
class Finding:
    """How far a probe moves the answers, in multiples of what the budget allows, where it shows most."""

    what: str
    component: str
    leverage: float

    @property
    def void(self) -> bool:
        return not self.leverage >= ENOUGH

    def __str__(self) -> str:
        return f"{self.what}: moves the answers of {self.component} by {self.leverage:.3g} times the tolerance"


def measure(probes: Iterable[Probe]) -> list[Finding]:
    """Every probe, asked; the answers before are computed once for each case and component."""
    known: dict[tuple[int, str, bool], tuple[Answers, dict[str, float]]] = {}
    found = []
    for probe in list(probes):  # all alive at once, so that no two cases share an id
        key = id(probe.before), probe.component, probe.gradients
        if key not in known:
            known[key] = before_and_tolerances(probe.component, probe.before, probe.gradients)
        before, allowed = known[key]
        after = ask(probe.component, oracle, probe.after, probe.gradients)
        moved = {k: budget.ulps(after[k], before[k].double(), probe.before.dtype).max().item() for k in before}
        about = f"gradients of {probe.component}" if probe.gradients else probe.component
        found.append(Finding(probe.what, about, max(moved[k] / allowed[k] for k in before)))
    return found


def before_and_tolerances(component: str, case: Case, differentiated: bool = False) -> tuple[Answers, dict[str, float]]:
    """Transformers' answers, and how many ulps off the formula each may be in another implementation."""
    answers = ask(component, oracle, case, differentiated)
    if differentiated:  # which the formula in NumPy has none of
        exact = ask(component, StepwiseLlama(torch.float64), replace(case, exact=True), differentiated)
    else:
        exact = ask(component, formula, case)
    errors = {label: budget.ulps(answers[label], exact[label], case.dtype).max().item() for label in answers}
    return answers, {label: budget.FACTOR * error + budget.ULPS for label, error in errors.items()}


def ask(component: str, implementation: Implementation, case: Case, differentiated: bool = False) -> Answers:
    """The answers to the component's question, or their gradients."""
    if differentiated:
        with torch.enable_grad():
            return gradients.ask(component, implementation, case)
    with torch.no_grad():
        return CHECKS[component].ask(implementation, case)


def asked_of_the_model(probe: Probe) -> Probe:
    """The same perturbation, looked for in the logits alone."""
    return replace(probe, component="llama", gradients=False)


# the tensors


def component_of(key: str) -> str:
    """The component whose question uses the tensor first.

    The question of attention leaves out the layer in the middle, which the one of the block asks about.
    """
    if "layers.1.self_attn" in key:
        return "block"
    parts = {"self_attn": "attention", "mlp": "swiglu", "norm": "rms_norm"}
    return next((component for part, component in parts.items() if part in key), "llama")


def within(component: str, profile: Profile) -> str:
    """The component, or the whole model where it does not answer alone."""
    return component if is_asked(component, profile) else "llama"


def tensor_probes(state: State | None = None, profile: Profile = FULL) -> Iterator[Probe]:
    """Both perturbations of every tensor of the hard case within the profile, or of other tensors for it."""
    tensors = weights(configuration("hard", profile), 0) if state is None else state
    before = Altered(tensors=tensors, profile=profile)
    for key, tensor in before.state.items():
        for how, other in (("five percent larger", tensor * LARGER), ("shifted by a row", tensor.roll(1, 0))):
            after = replace(before, tensors=before.state | {key: other})
            yield Probe(f"{key}, {how}", within(component_of(key), profile), before, after)


# the fields

# field -> (variant, what it becomes, the component that reads it)
Fields = dict[str, tuple[str, Config, str]]


def fields(profile: Profile = FULL) -> Fields:
    """Every field of the hard case within the profile, but for rotary ones."""
    config = configuration("hard", profile)
    N = config["num_attention_heads"]
    G = config["num_key_value_heads"]
    H = config["head_dim"]
    others = {"num_attention_heads": N // 2, "num_key_value_heads": G // 2, "head_dim": 2 * H}  # the same tensors
    another = "gelu" if config["hidden_act"] == "silu" else "silu"
    found: Fields = {
        "rms_norm_eps": ("hard", {"rms_norm_eps": 1e-6}, "rms_norm"),
        "hidden_act": ("hard", {"hidden_act": another}, "swiglu"),
        "num_hidden_layers": ("hard", {"num_hidden_layers": 2}, "llama"),
        "intermediate_size": ("hard", {"intermediate_size": 91}, "swiglu"),
        "num_attention_heads": ("hard", others, "attention"),
        "num_key_value_heads": ("hard", {"num_key_value_heads": 1}, "attention"),
        "head_dim": ("hard", {"head_dim": H - 2}, "attention"),
        "pad_token_id": ("hard", {"pad_token_id": 7}, "llama"),
    }
    if "gelu" in profile.hidden_act:
        approximated = {"hidden_act": "gelu_pytorch_tanh"}
        found["hidden_act, gelu's approximation"] = ("gelu", approximated, "swiglu")
    for name, component in (("attention_bias", "attention"), ("mlp_bias", "swiglu")):
        if config[name]:
            found[name] = ("hard", {name: False}, component)
    if profile.tie_word_embeddings:
        found["tie_word_embeddings"] = ("hard", {"tie_word_embeddings": True}, "llama")
    if "dynamic" in profile.rope_type:
        trained = configuration("rope dynamic", profile)["max_position_embeddings"]
        found["max_position_embeddings"] = ("rope dynamic", {"max_position_embeddings": trained + 1}, "rotary")
    return found


SEEN_IN_GRADIENTS = {"pad_token_id"}  # of its embedding, which answers show nothing of


def field_probes(state: State | None = None, profile: Profile = FULL) -> Iterator[Probe]:
    """Every field that can move an answer, on the hard case's tensors or on others, and every rotary key."""
    tensors = weights(configuration("hard", profile), 0) if state is None else state
    cases: dict[str, Altered] = {}
    for what, (variant, changed, component) in {**fields(profile), **dict(rope_fields(profile))}.items():
        before = cases.setdefault(variant, Altered(variant, tensors=tensors, profile=profile))
        after = replace(before, changed=changed)
        after = replace(after, tensors=fitted(before.state, after.config))
        yield Probe(what, within(component, profile), before, after, gradients=what in SEEN_IN_GRADIENTS)


def rope_fields(profile: Profile = FULL) -> Iterator[tuple[str, tuple[str, Config, str]]]:
    """Every key of every rotary type, perturbed, as entries of `fields`."""
    hardest = configuration("hard", profile)["rope_parameters"]
    for name, standard in ROPES.items():
        variant = "hard" if name == "llama3" else f"rope {name}"
        if standard["rope_type"] in profile.rope_type and not lacking(variant, profile):
            config = configuration(variant, profile)
            rope = config["rope_parameters"]
            variant = "hard" if rope == hardest else variant
            longest = HARD["max_position_embeddings"]
            for key in rope:
                yield f"{name}: {key}", (variant, {"rope_parameters": _perturbed(rope, key, longest)}, "rotary")


def _perturbed(rope: Config, key: str, longest: int) -> Config:
    value = rope[key]
    if key == "rope_type":  # forgotten, or taken for another one
        return {**rope, key: "linear", "factor": LARGER} if value == "default" else ROPES["default"]
    if key == "original_max_position_embeddings":
        return {**rope, key: longest}
    return {**rope, key: [LARGER * v for v in value] if isinstance(value, list) else LARGER * value}


def fitted(state: State, config: Config) -> State:
    """The tensors that the configuration asks for, each cut down to its first rows and columns."""
    shapes = {key: tensor.shape for key, tensor in weights(config, 0).items()}
    return {key: state[key][tuple(slice(n) for n in shape)].contiguous() for key, shape in shapes.items()}
