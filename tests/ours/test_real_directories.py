"""Ten directories as people have them: load, generate, chat, train on, save, open in transformers of today and of
version 4: the ids and logits that transformers finds in the original.

The same with another version: LLAMA_SCRATCH_TRANSFORMERS_4=/path/to/python of an environment with transformers 4.57.
"""

import contextlib
import hashlib
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
import warnings

import pytest
import sentencepiece
import torch
import transformers

from llama_scratch import Llama, Tokenizer
from llama_scratch.checkpoint.files import CheckpointError
from llama_scratch.generate import ChatTemplate
from tests.ours import open_elsewhere, real_tokenizers
from tests.ours.open_elsewhere import CHATS, LEADING_SPACES, TEXTS, TOKENS, chat_ids, open_model, open_tokenizer, opened
from tests.ours.real_directories import MAKERS, lfs_pointer, lfs_pointers

OTHER = os.environ.get("LLAMA_SCRATCH_TRANSFORMERS_4") or None
PROMPTS = ["The quick brown fox", "What is the capital of France?", "two  spaces\n\n"]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
                   "added_tokens.json", "chat_template.jinja", "vocab.json", "merges.txt")  # fmt: skip
NEW = 16
TRAINING = ["--steps", "1", "--warmup", "1", "--batch-size", "2", "--seq-len", "32", "--eval-every", "1",
            "--save-every", "1", "--compile", "off", "--device", "cpu", "--learning-rate", "1e-4"]  # fmt: skip


def call(command, *arguments):
    """`python -m llama_scratch.COMMAND`, in this process: exit status, stdout, stderr."""
    out, err = io.StringIO(), io.StringIO()
    given, sys.argv = sys.argv, [command, *map(str, arguments)]
    status = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)
            runpy.run_module(f"llama_scratch.{command}", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        status = ended.code or 0
        if isinstance(status, str):  # what Python prints, and exits with 1
            err.write(status)
            status = 1
    finally:
        sys.argv = given
    return status, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module", params=MAKERS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def made(name, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real") / "given"
    folder.mkdir()
    return MAKERS[name](folder)


@pytest.fixture(scope="module")
def usable(name, made, tmp_path_factory):
    """The directory as it is, or what the advice in the refusal makes of it."""
    converted = tmp_path_factory.mktemp("usable") / "converted"
    if name == "GGUF alone":
        file = next(made.given.glob("*.gguf"))
        status, _, err = call("convert", file, converted)
        assert status == 0, err
        return converted
    if name == "git-lfs pointers":
        return made.weights
    if name == "_orig_mod. dump":
        refusal = refusal_of(made.given)
        if refusal is not None:
            assert "_orig_mod." in refusal
            assert "--strip-prefix" in refusal
            status, _, err = call("convert", made.given, converted, "--strip-prefix", "_orig_mod.")
            assert status == 0, err
            return converted
    return made.given


def refusal_of(directory):
    try:
        Llama.from_pretrained(directory)
    except CheckpointError as error:
        return str(error)
    return None


@pytest.fixture(scope="module")
def theirs(made):
    """What transformers makes of the original."""
    return opened(made.weights, made.tokenizer)


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text("\n".join(real_tokenizers.TEXT * 3))
    return path


def our_logits(directory):
    model = Llama.from_pretrained(directory)
    with torch.no_grad():
        return model(torch.tensor([TOKENS]))[0]


def stop_ids(made):
    """Of all files: transformers' generate knows generation_config.json's, a conversation ends at the tokenizer's."""
    config = transformers.AutoConfig.from_pretrained(made.weights).eos_token_id
    found = [config, open_tokenizer(made.tokenizer).eos_token_id]
    if (made.weights / "generation_config.json").is_file():
        found.append(transformers.GenerationConfig.from_pretrained(made.weights).eos_token_id)
    return sorted({i for one in found for i in (one if isinstance(one, list) else [one])})


def greedy(made, ids):
    """New ids and their text by transformers' generate."""
    tokenizer = open_tokenizer(made.tokenizer)
    how = transformers.GenerationConfig(
        max_new_tokens=NEW, do_sample=False, eos_token_id=stop_ids(made), pad_token_id=0
    )
    prompt = torch.tensor([ids])
    model = open_model(made.weights)
    whole = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=how)[0].tolist()
    texts = [
        tokenizer.decode(part, skip_special_tokens=True, clean_up_tokenization_spaces=False) for part in (ids, whole)
    ]
    return whole[len(ids) :], texts[1].removeprefix(texts[0])


def written(directory, *flags):
    """New ids and their text by the command; an id that ends the text is among both or neither."""
    flags = (*flags, "--temperature", "0", "--max-new-tokens", NEW, "--device", "cpu", "--json")
    status, out, err = call("generate", directory, *flags)
    assert status == 0, err
    found = json.loads(out)
    return found["ids"], found["text"]


def without_end(ids, ends):
    return ids[:-1] if ids and ids[-1] in ends else ids


def test_it_loads_with_transformers_logits(usable, theirs):
    ours = our_logits(usable)
    assert str(ours.dtype) == theirs["dtype"]
    assert torch.equal(ours.float(), torch.tensor(theirs["logits"]))


def test_it_encodes_and_decodes_as_transformers_does(usable, made):
    ours = Tokenizer.from_pretrained(usable)
    their = open_tokenizer(made.tokenizer)
    assert [ours.bos_id, ours.eos_id] == [their.bos_token_id, their.eos_token_id]
    for text in TEXTS:
        ids = their(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text) == ids, text
        how = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        assert ours.decode(ids) == their.decode(ids, **how), text


def test_a_leading_space_is_encoded_as_the_file_says(usable):
    """By tokenizer.json, or by SentencePiece where there is none: transformers' versions differ among themselves."""
    ours = Tokenizer.from_pretrained(usable)
    for text in LEADING_SPACES:
        if (usable / "tokenizer.json").is_file():
            ids = open_tokenizer(usable)(text, add_special_tokens=False)["input_ids"]
        else:
            ids = sentencepiece.SentencePieceProcessor(model_file=str(usable / "tokenizer.model")).encode(text)
        assert ours.encode(text) == ids, text


@pytest.mark.parametrize("prompt", PROMPTS)
def test_generate_writes_what_transformers_writes(usable, made, prompt):
    ids, text = greedy(made, open_tokenizer(made.tokenizer)(prompt)["input_ids"])
    ends = stop_ids(made)
    ours, our_text = written(usable, "--prompt", prompt)
    assert without_end(ours, ends) == without_end(ids, ends)
    assert our_text == text


@pytest.mark.parametrize("chat", CHATS)
def test_a_chat_has_transformers_ids(usable, theirs, chat):
    template = ChatTemplate.from_pretrained(usable, Tokenizer.from_pretrained(usable))
    assert template is not None
    assert template.encode(CHATS[chat]) == theirs["chats"][chat]


def test_the_chat_command_answers_as_transformers_does(usable, made):
    message = CHATS["one"][0]
    ids, _ = greedy(made, chat_ids(open_tokenizer(made.tokenizer), [message]))
    ends = stop_ids(made)
    ours, _ = written(usable, "--chat", "--prompt", message["content"])
    assert without_end(ours, ends) == without_end(ids, ends)


def assert_same_tokenizer(directory, made, theirs):
    again = open_tokenizer(directory)
    original = open_tokenizer(made.tokenizer)
    assert [again.bos_token_id, again.eos_token_id] == theirs["ends"]
    assert {text: again(text)["input_ids"] for text in TEXTS} == theirs["ids"]
    assert {name: chat_ids(again, messages) for name, messages in CHATS.items()} == theirs["chats"]
    assert len(again) == len(original)
    special = set(original.all_special_tokens)
    assert special <= set(again.all_special_tokens)


def test_a_step_of_training_keeps_the_tokenizer_and_the_template(usable, made, theirs, book, tmp_path):
    before = fingerprints(usable)
    out = tmp_path / "out"
    status, _, err = call("train", "--init-from", usable, "--data", book, "--out", out, *TRAINING)
    assert status == 0, err
    kept = {name for name in TOKENIZER_FILES if (usable / name).is_file()}
    assert kept <= {path.name for path in out.iterdir()}
    assert_same_tokenizer(out, made, theirs)
    with torch.no_grad():
        logits = open_model(out)(torch.tensor([TOKENS])).logits[0]
    assert torch.equal(our_logits(out), logits)
    assert not torch.equal(logits, torch.tensor(theirs["logits"]))  # it has learned something
    assert fingerprints(usable) == before


def save(directory, path):
    Llama.from_pretrained(directory).save_pretrained(path)
    Tokenizer.from_pretrained(directory).save_pretrained(path)


def convert(directory, path):
    status, _, err = call("convert", directory, path)
    assert status == 0, err


SAVING = {"save_pretrained": save, "convert": convert}


@pytest.fixture(params=SAVING)
def saved(request, usable, tmp_path):
    path = tmp_path / "saved"
    SAVING[request.param](usable, path)
    return path


def test_saved_again_it_opens_in_transformers(saved, made, theirs):
    assert_same_tokenizer(saved, made, theirs)
    again = opened(saved)
    assert again["dtype"] == theirs["dtype"]
    assert again["logits"] == theirs["logits"]


@pytest.mark.skipif(OTHER is None, reason="LLAMA_SCRATCH_TRANSFORMERS_4 names no Python with transformers 4.57")
def test_saved_again_it_opens_in_transformers_4(saved, theirs):
    line = [OTHER, open_elsewhere.__file__, str(saved)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ran = subprocess.run(line, capture_output=True, text=True, timeout=300, env=environment)
    assert ran.returncode == 0, ran.stderr[-2000:]
    found = json.loads(ran.stdout)[str(saved)]
    different = [key for key in theirs if found[key] != theirs[key]]
    assert different == []


def fingerprints(folder):
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def assert_refused(directory, book, tmp_path, *said):
    """By all three commands: one line that says what is there and what to do, and nothing written."""
    out, converted = tmp_path / "out", tmp_path / "converted"
    for command, arguments in (
        ("generate", [directory, "--prompt", "x"]),
        ("train", ["--init-from", directory, "--data", book, "--out", out, *TRAINING]),
        ("convert", [directory, converted]),
    ):
        status, printed, err = call(command, *arguments)
        assert (status, printed) == (1, ""), command
        assert "Traceback" not in err
        last = err.strip().splitlines()[-1]
        assert last.startswith("error: "), command
        assert all(part in last for part in said), (command, last)
    assert not converted.exists()
    assert not out.exists() or not any(out.rglob("*.safetensors"))


def test_a_folder_with_only_a_gguf_says_how_to_convert_it(book, tmp_path):
    folder = tmp_path / "given"
    folder.mkdir()
    made = MAKERS["GGUF alone"](folder)
    assert_refused(made.given, book, tmp_path, "llama-2-tiny-chat.F32.gguf", "llama_scratch.convert")


POINTERS = {
    "weights and tokenizer": (),
    "weights": ("tokenizer.model",),
    "tokenizer": tuple(f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)),
    "one shard": ("tokenizer.model", "model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors"),
}


@pytest.mark.parametrize("pulled", POINTERS.values(), ids=POINTERS)
def test_pointers_of_git_lfs_are_told_from_files(book, tmp_path, pulled):
    folder = tmp_path / "given"
    folder.mkdir()
    made = lfs_pointers(folder)
    for file in pulled:
        shutil.copy(made.weights / file, folder)
    if "tokenizer.model" in pulled or not pulled:
        assert_refused(folder, book, tmp_path, "git lfs pull", ".safetensors" if pulled else "")
        return
    status, _, err = call("generate", folder, "--prompt", "x")
    assert status == 1
    assert "tokenizer.model" in err
    assert "git lfs pull" in err


def test_a_pointer_in_place_of_a_torch_file(book, tmp_path):
    folder = tmp_path / "given"
    folder.mkdir()
    made = MAKERS["_orig_mod. dump"](folder)
    lfs_pointer(made.weights / "pytorch_model.bin")
    assert_refused(made.weights, book, tmp_path, "pytorch_model.bin", "git lfs pull")


def test_saving_into_a_snapshot_of_the_hub_s_cache_leaves_its_blobs_alone(tmp_path):
    made = MAKERS["hub cache"](tmp_path)
    blobs = made.given.parents[1] / "blobs"
    before = fingerprints(blobs)
    save(made.given, made.given)
    assert fingerprints(blobs) == before
    assert not (made.given / "model.safetensors").is_symlink()
