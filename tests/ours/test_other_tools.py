"""What people and their tools do with a model: adapt, export, compile, copy, send, replicate, recompute."""

import copy
import pickle

import jaxtyping
import pytest
import torch
from torch.utils.checkpoint import checkpoint

from llama_reference.standard import budget
from llama_reference.standard.cases import ROPES, Case
from llama_scratch import KVCache, Llama, generate
from llama_scratch.checkpoint import config_file
from llama_scratch.model.config_rules import ASSIGNABLE, ConfigError
from llama_scratch.model.rotary import LENGTH_MATTERS

FIXED_ROPES = [
    f"rope {name}" for name, rope in ROPES.items() if rope["rope_type"] not in (*LENGTH_MATTERS, "llama3")
]  # llama3 is the hard case's own


def build(variant: str = "hard") -> tuple[Llama, Case]:
    case = Case(variant)
    model = Llama(config_file.from_dict(case.config))
    model.load_state_dict(case.state, strict=False)
    return model.eval(), case


@pytest.fixture
def unchecked():
    """Shapes in signatures are not checked: what checks them cannot be traced."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_peft_adapts_trains_and_merges_it(tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install '.[test]'")
    model, case = build()
    before = model(case.tokens)
    adapted = peft.get_peft_model(model, peft.LoraConfig(init_lora_weights=False))
    trained = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
    assert {name.split(".")[-4] for name in trained} == {"q_proj", "v_proj"}, "what peft adapts in a llama"
    adapted(case.tokens).sum().backward()
    assert all(weight.grad.any() for weight in adapted.parameters() if weight.requires_grad)
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(build()[0], tmp_path)
    assert torch.equal(again(case.tokens), adapted(case.tokens))
    merged = again.merge_and_unload()
    assert isinstance(merged, Llama)
    assert set(merged.state_dict()) == set(build()[0].state_dict())
    assert not torch.equal(merged(case.tokens), before)


def test_what_adapters_and_trainers_assign_can_be_assigned():
    """peft sets pretraining_tp, trainers use_cache, fine-tuning scripts the ids of special tokens."""
    config = build()[0].config
    assigned = {"pretraining_tp": 1, "use_cache": False, "pad_token_id": 0, "bos_token_id": None,
                "eos_token_id": [1, 2], "dtype": "bfloat16"}  # fmt: skip
    assert set(assigned) == set(ASSIGNABLE)
    for name, value in assigned.items():
        setattr(config, name, value)
        assert config_file.to_dict(config)[name] == value
        assert config.to_dict()[name] == value


def test_what_a_model_is_built_from_cannot_be_assigned():
    config = build()[0].config
    for name in set(vars(config)) - set(ASSIGNABLE):
        setattr(config, name, getattr(config, name))
        with pytest.raises(ConfigError, match=f"{name} is .* and cannot become 'other'.*dataclasses.replace"):
            setattr(config, name, "other")
    with pytest.raises(ConfigError, match="pad_tokn_id is not a field of LlamaConfig: it has vocab_size, "):
        config.pad_tokn_id = 3
    with pytest.raises(ConfigError, match="dtype is 'int8', expected one of"):
        config.dtype = "int8"
    with pytest.raises(
        ConfigError, match=f"pad_token_id is 10000, expected an id below vocab_size = {config.vocab_size}"
    ):
        config.pad_token_id = 10_000


def test_an_assigned_stop_id_is_what_generate_stops_at():
    model, case = build()
    new = generate(model, case.tokens[:1], 5, stop_ids=[])[0, case.tokens.shape[1] :].tolist()
    model.config.eos_token_id = new[1]
    assert generate(model, case.tokens[:1], 5).shape[1] == case.tokens.shape[1] + new.index(new[1]) + 1


@pytest.mark.parametrize("variant", ["hard", "tied", *FIXED_ROPES])
@pytest.mark.usefixtures("unchecked")
def test_torch_export_takes_it_at_any_length_with_the_same_bits(variant):
    model, case = build(variant)
    length = torch.export.Dim("T", min=2, max=64)
    with torch.no_grad():
        exported = torch.export.export(model, (case.tokens,), dynamic_shapes={"tokens": {1: length}}).module()
        for tokens in (case.tokens, case.tokens[:, :5]):
            assert torch.equal(exported(tokens), model(tokens))
        masked = torch.export.export(model, (case.tokens,), {"attention_mask": case.mask}).module()
        assert torch.equal(masked(case.tokens, attention_mask=case.mask), model(case.tokens, None, case.mask))


@pytest.mark.usefixtures("unchecked")
def test_the_whole_graph_compiles_without_a_break():
    model, case = build()
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        assert torch.equal(compiled(case.tokens), model(case.tokens))


def test_shapes_are_had_without_numbers():
    model, case = build()
    meta = copy.deepcopy(model).to("meta")
    assert meta(case.tokens.to("meta")).shape == model(case.tokens).shape


@pytest.mark.parametrize("variant", ["hard", "tied"])
@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_copies_are_equal_and_keep_what_is_tied(variant, again, tmp_path):
    model, case = build(variant)
    model.save_pretrained(tmp_path)
    for source in (model, Llama.from_pretrained(tmp_path)):
        other = again(source)
        assert other.config == source.config
        assert torch.equal(other(case.tokens), source(case.tokens))
        assert (other.lm_head.weight is other.model.embed_tokens.weight) == (variant == "tied")
        assert other.lm_head.weight is not source.lm_head.weight


@pytest.mark.parametrize("variant", ["hard", "tied"])
def test_casts_keep_what_is_tied_and_round_every_weight(variant):
    for cast, dtype in ((Llama.half, torch.float16), (Llama.bfloat16, torch.bfloat16), (Llama.double, torch.float64)):
        model, case = build(variant)
        other = cast(copy.deepcopy(model))
        assert {weight.dtype for weight in other.state_dict().values()} == {dtype}
        assert all(torch.equal(w, model.state_dict()[key].to(dtype)) for key, w in other.state_dict().items())
        assert (other.lm_head.weight is other.model.embed_tokens.weight) == (variant == "tied")
        assert other(case.tokens).dtype == dtype


def test_functional_calls_and_gradients_of_each_sample():
    model, case = build()
    weights = {name: weight.detach() for name, weight in model.named_parameters()}

    def loss(weights, row):
        return torch.func.functional_call(model, weights, (row[None],)).logsumexp(-1).sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, case.tokens)["model.norm.weight"]
    for row, gradient in zip(case.tokens, found, strict=True):
        expected = torch.func.grad(loss)(weights, row)["model.norm.weight"]
        exact = torch.func.grad(loss)({name: w.double() for name, w in weights.items()}, row)["model.norm.weight"]
        assert budget.judge("gradient", gradient, expected, exact, torch.float32, whole=True).within


def test_replicas_share_weights_and_answer_alike():
    model, case = build()
    replica = model._replicate_for_data_parallel()
    assert replica.config is model.config
    assert torch.equal(torch.nn.DataParallel(model)(case.tokens), model(case.tokens))


def test_recomputed_activations_give_the_same_gradients():
    model, case = build()
    plain = copy.deepcopy(model)
    plain(case.tokens).logsumexp(-1).sum().backward()
    checkpoint(model, case.tokens, use_reentrant=False).logsumexp(-1).sum().backward()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_hooks_on_the_state_dict_are_called_and_change_nothing():
    model, case = build()
    called = []
    model.register_state_dict_post_hook(lambda *_: called.append("saved"))
    model.register_load_state_dict_pre_hook(lambda *_: called.append("loading"))
    other = Llama(model.config).eval()
    other.register_load_state_dict_post_hook(lambda *_: called.append("loaded"))
    other.load_state_dict(model.state_dict())
    model.load_state_dict(other.state_dict(), assign=True)
    assert called == ["saved", "loaded", "loading"]
    assert torch.equal(model(case.tokens), other(case.tokens))


def test_a_parametrized_weight_is_used_everywhere():
    class Doubled(torch.nn.Module):
        def forward(self, weight):
            return 2 * weight

    model, case = build()
    before = model(case.tokens)
    parametrized = copy.deepcopy(model)
    torch.nn.utils.parametrize.register_parametrization(
        parametrized.model.layers[0].self_attn.q_proj, "weight", Doubled()
    )
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight.mul_(2)
    assert torch.equal(parametrized(case.tokens), model(case.tokens))
    assert not torch.equal(model(case.tokens), before)
    cache = KVCache(model.config, len(case.tokens), case.tokens.shape[1])
    with torch.no_grad():
        assert torch.equal(model(case.tokens, cache), model(case.tokens))
