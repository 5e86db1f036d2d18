"""What loads, format by format: Hugging Face's own forms as transformers loads them, bit for bit."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from llama_scratch import Llama, generate
from llama_scratch.checkpoint import config_file
from llama_scratch.checkpoint.files import CheckpointError
from tests.ours.checkpoint_writers import VARIANTS, built, logits, made, write_hf

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
ROWS = {variant: (variant, torch.float32, 1) for variant in VARIANTS} | {
    "bf16": ("untied", torch.bfloat16, 1),
    "sharded": ("untied", torch.float32, 3),
    "all at once": ("all at once", torch.bfloat16, 3),
}


def theirs(directory, **how):
    model, info = transformers.LlamaForCausalLM.from_pretrained(
        directory, attn_implementation="eager", output_loading_info=True, **how
    )
    assert not any(info.values()), info
    return lambda tokens: model(tokens, use_cache=False).logits


def same_tensors(model: Llama, state) -> bool:
    mine = model.state_dict()
    return all(torch.equal(mine[key], weight) for key, weight in state.items()) and mine.keys() - state.keys() <= {
        HEAD,
        EMBEDDING,
    }


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_it_loads_as_transformers_loads_it(kind, row, tmp_path):
    variant, dtype, shards = ROWS[row]
    config, state = made(variant, dtype)
    model = Llama.from_pretrained(write_hf(tmp_path, config, state, kind, shards))
    assert same_tensors(model, state)
    assert {weight.dtype for weight in model.state_dict().values()} == {dtype}
    assert not any(weight.is_meta for weight in [*model.parameters(), *model.buffers()])
    assert torch.equal(logits(model), logits(theirs(tmp_path)))


@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("kind", "stored"), [("safetensors", torch.float32), ("bin", torch.bfloat16)])
def test_a_dtype_asked_for_is_given(kind, stored, wanted, tmp_path):
    model = Llama.from_pretrained(write_hf(tmp_path, *made("biases", stored), kind, shards=2), dtype=wanted)
    assert {weight.dtype for weight in model.state_dict().values()} == {wanted}
    assert torch.equal(logits(model), logits(theirs(tmp_path, dtype=wanted)))


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_without_a_dtype_in_the_config_it_is_what_is_stored(kind, tmp_path):
    config, state = made("untied", torch.bfloat16)
    write_hf(tmp_path, config, state, kind)
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = Llama.from_pretrained(tmp_path)
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert torch.equal(logits(model), logits(theirs(tmp_path)))


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("shards", [1, 2])
def test_keys_without_their_prefix_are_the_same_keys(kind, shards, tmp_path):
    config, state = made("tied")
    bare = {key.removeprefix("model."): weight for key, weight in state.items()}
    assert same_tensors(Llama.from_pretrained(write_hf(tmp_path, config, bare, kind, shards)), state)


def stored_and_tied(stored: str, tied: bool, directory):
    """A directory that says `tied` and stores the embedding, the head, or both."""
    config, state = made("untied")
    config["tie_word_embeddings"] = tied
    if stored == "equal":
        state[HEAD] = state[EMBEDDING].clone()
    for key, only in ((HEAD, "embedding"), (EMBEDDING, "head")):
        if stored == only:
            del state[key]
    return write_hf(directory, config, state), state


@pytest.mark.parametrize("stored", ["embedding", "head", "equal"])
def test_one_of_a_tied_pair_is_enough(stored, tmp_path):
    _, state = stored_and_tied(stored, True, tmp_path)
    model = Llama.from_pretrained(tmp_path)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert same_tensors(model, state)
    expected = transformers.LlamaForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert torch.equal(logits(model), logits(lambda tokens: expected(tokens, use_cache=False).logits))


def test_a_tied_pair_that_differs_is_refused(tmp_path):
    stored_and_tied("different", True, tmp_path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: lm_head\.weight differs from model\.embed_tokens"):
        Llama.from_pretrained(tmp_path)


@pytest.mark.parametrize("stored", ["equal", "different"])
def test_an_untied_pair_is_two_tensors_even_if_equal(stored, tmp_path):
    _, state = stored_and_tied(stored, False, tmp_path)
    model = Llama.from_pretrained(tmp_path)
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()
    assert same_tensors(model, state)


@pytest.mark.parametrize(("stored", "missing"), [("embedding", HEAD), ("head", EMBEDDING)])
def test_an_untied_model_wants_both(stored, missing, tmp_path):
    stored_and_tied(stored, False, tmp_path)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: {missing} is missing$"):
        Llama.from_pretrained(tmp_path)


def test_two_names_of_one_tensor_in_a_bin_become_two_tensors(tmp_path):
    config, state = made()
    state[HEAD] = state[EMBEDDING]
    model = Llama.from_pretrained(write_hf(tmp_path, config, state, "bin"))
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()
    model.save_pretrained(tmp_path / "again")
    assert same_tensors(Llama.from_pretrained(tmp_path / "again"), state)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_stored_frequencies_are_ignored_whether_or_not_the_index_knows_them(kind, tmp_path):
    config, state = made()
    poison = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.full((4,), torch.nan) for i in range(2)}
    write_hf(tmp_path, config, state | poison, kind, shards=2)
    assert same_tensors(Llama.from_pretrained(tmp_path, check_finite=True), state)
    index = next(tmp_path.glob("*.index.json"))
    content = json.loads(index.read_text())
    content["weight_map"] = {key: file for key, file in content["weight_map"].items() if key not in poison}
    index.write_text(json.dumps(content))
    assert same_tensors(Llama.from_pretrained(tmp_path), state)


def test_a_tensor_of_a_bin_may_lie_in_another_order(tmp_path):
    config, state = made()
    crooked = {key: weight.t().contiguous().t() if weight.ndim == 2 else weight for key, weight in state.items()}
    model = Llama.from_pretrained(write_hf(tmp_path, config, crooked, "bin"))
    assert all(weight.is_contiguous() for weight in model.state_dict().values())
    assert same_tensors(model, state)


def test_only_files_that_the_index_names_are_read(tmp_path):
    config, state = made()
    write_hf(tmp_path, config, state, shards=2)
    zeros = {key: torch.zeros_like(weight) for key, weight in state.items()}
    save_file(zeros, tmp_path / "model-00003-of-00003.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"not even a pickle")
    assert same_tensors(Llama.from_pretrained(tmp_path), state)


def test_one_file_comes_before_an_index_as_in_transformers(tmp_path):
    config, state = made()
    write_hf(tmp_path, config, {key: torch.zeros_like(weight) for key, weight in state.items()}, shards=2)
    write_hf(tmp_path, config, state)
    assert same_tensors(Llama.from_pretrained(tmp_path), state)
    assert torch.equal(logits(theirs(tmp_path)), logits(built(config, state)))


def test_files_may_be_links_as_in_the_cache_of_the_hub(tmp_path):
    config, state = made()
    write_hf(tmp_path / "blobs", config, state, shards=2)
    (tmp_path / "snapshot").mkdir()
    for path in (tmp_path / "blobs").iterdir():
        (tmp_path / "snapshot" / path.name).symlink_to(f"../blobs/{path.name}")
    model = Llama.from_pretrained(tmp_path / "snapshot")
    before = {path.name: path.read_bytes() for path in (tmp_path / "blobs").iterdir()}
    model.save_pretrained(tmp_path / "snapshot")
    assert same_tensors(Llama.from_pretrained(tmp_path / "snapshot"), state)
    assert {path.name: path.read_bytes() for path in (tmp_path / "blobs").iterdir()} == before


@pytest.mark.parametrize(
    ("config_eos", "generation_eos", "expected"),
    [
        (2, None, 2),
        (2, 2, 2),
        (2, [2], 2),
        ([5, 2], [2, 5], [5, 2]),
        (128001, [128001, 128008, 128009], [128001, 128008, 128009]),
        ([7, 3], [9, 3, 8], [7, 3, 9, 8]),
        (3, 9, [3, 9]),
        (None, 9, 9),
        (None, [9, 8], [9, 8]),
        (None, None, None),
    ],
)
def test_stop_ids_of_both_files_are_joined_and_saved_again(config_eos, generation_eos, expected, tmp_path):
    config, state = made(eos_token_id=config_eos)
    write_hf(tmp_path, config, state)
    content = {"temperature": 0.6, "do_sample": True} | ({"eos_token_id": generation_eos} if generation_eos else {})
    (tmp_path / "generation_config.json").write_text(json.dumps(content))
    model = Llama.from_pretrained(tmp_path)
    assert model.config.eos_token_id == expected
    model.save_pretrained(tmp_path / "again")
    assert Llama.from_pretrained(tmp_path / "again").config == model.config
    saved = json.loads((tmp_path / "again" / "generation_config.json").read_text())
    assert saved == content | {"bos_token_id": 1} | ({"eos_token_id": expected} if expected else {})
    assert transformers.GenerationConfig.from_pretrained(tmp_path / "again").eos_token_id == expected


def test_generation_stops_at_an_id_that_only_the_generation_config_names(tmp_path):
    config, state = made()
    write_hf(tmp_path, config, state)
    start = torch.tensor([[5, 6]])
    written = generate(Llama.from_pretrained(tmp_path), start, 4)[0].tolist()
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [written[3]]}))
    assert generate(Llama.from_pretrained(tmp_path), start, 4)[0].tolist() == written[:4]


def test_a_model_made_here_tells_transformers_where_to_stop(tmp_path):
    Llama(config_file.from_dict(made(eos_token_id=[4, 9], pad_token_id=7)[0])).save_pretrained(tmp_path)
    theirs = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (1, [4, 9], 7)


@pytest.mark.parametrize(
    ("variant", "max_shard_size"), [("biases", 1), ("tied", 30_000), ("biases", 60_000), ("tied", 10**9)]
)
def test_shards_are_as_large_as_allowed_and_transformers_opens_them(variant, max_shard_size, tmp_path):
    config, state = made(variant)
    model = built(config, state)
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    sizes = [[w.numel() * 4 for w in load_file(path).values()] for path in tmp_path.glob("*.safetensors")]
    assert sum(map(sum, sizes)) == sum(w.numel() * 4 for w in state.values())
    assert all(sum(shard) <= max_shard_size or len(shard) == 1 for shard in sizes)
    assert (len(sizes) == 1) == (max_shard_size == 10**9) == (tmp_path / "model.safetensors").exists()
    assert same_tensors(Llama.from_pretrained(tmp_path), state)
    assert torch.equal(logits(theirs(tmp_path)), logits(model))


def test_a_shard_size_below_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match="max_shard_size is 0, expected 1 byte or more"):
        built(*made()).save_pretrained(tmp_path / "new", max_shard_size=0)
    assert not (tmp_path / "new").exists()
