"""What lies beside a tokenizer's own file: BOS and EOS, added tokens, names, templates; held to transformers."""

import json
import shutil

import pytest
import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from llama_scratch import Tokenizer, data
from llama_scratch.generate import ChatTemplate
from llama_scratch.tokenizer import TokenizerError

TEXTS = ["hi", "The quick brown fox", "a  b", "x<|im_end|>y", "1 + 1 = 2\n", "def f(x):\n    return x\n", "é日🙂"]
LLAMA = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
FAST = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model of SentencePiece that puts no space in front, and its tokenizer.json."""
    path = tmp_path_factory.mktemp("trained")
    Tokenizer.train(data.python_documents()[:50], 400).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def byte_level():
    """SmolLM2's kind: byte-level, without a post-processor, one token for all purposes."""
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)])
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>"],
    )
    library.train_from_iterator(data.python_documents()[:20], trainer)
    return library


def directory(path, content=None, model=None, **files):
    """A directory with a tokenizer.json or tokenizer.model, and json files beside it."""
    path.mkdir(parents=True, exist_ok=True)
    if content is not None:
        (path / "tokenizer.json").write_text(content)
    if model is not None:
        shutil.copy(model / "tokenizer.model", path)
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value))
    (path / "config.json").write_text('{"model_type": "llama"}')
    return path


def both(path):
    return Tokenizer.from_pretrained(path), transformers.AutoTokenizer.from_pretrained(path)


def same_prompts(path, texts=TEXTS):
    ours, theirs = both(path)
    for text in texts:
        assert ours.encode_prompt(text) == theirs.encode(text, split_special_tokens=True), ascii(text)
    return ours, theirs


# what goes around a text


AROUND = {
    "nothing": None,
    "no tokens": ("$A", []),
    "BOS": ("<s> $A", ["<s>"]),
    "EOS": ("$A </s>", ["</s>"]),
    "both": ("<s> $A </s>", ["<s>", "</s>"]),
    "two": ("<|im_start|> <s> $A", ["<|im_start|>", "<s>"]),
}


@pytest.mark.parametrize(
    "said", [{}, {"add_bos_token": False}, {"add_bos_token": True, "add_eos_token": True}], ids=str
)
@pytest.mark.parametrize("around", AROUND)
def test_a_prompt_has_what_the_tokenizer_json_puts_around_it(around, said, byte_level, tmp_path):
    raw = json.loads(byte_level.to_str())
    if AROUND[around]:
        single, names = AROUND[around]
        special = [(name, byte_level.token_to_id(name)) for name in names]
        template = processors.TemplateProcessing(single=single, special_tokens=special)
        raw["post_processor"] = json.loads(template.__getstate__())
    ours, theirs = same_prompts(directory(tmp_path, json.dumps(raw), tokenizer_config=FAST | said))
    puts = [ours.special_tokens[name] for name in (AROUND[around] or ("", []))[1]]
    assert [*ours.starts, *ours.ends] == puts == theirs.encode("")


@pytest.mark.parametrize("kind", ["bert", "roberta", "a row of them"])
def test_other_post_processors_are_followed(kind, byte_level, tmp_path):
    ends = [(name, byte_level.token_to_id(name)) for name in ("</s>", "<s>")]
    bytes_only = processors.ByteLevel(trim_offsets=False)
    outer = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    made = {
        "bert": processors.BertProcessing(*ends),
        "roberta": processors.RobertaProcessing(*ends),
        "a row of them": processors.Sequence([bytes_only, outer]),
    }
    library = tokenizers.Tokenizer.from_str(byte_level.to_str())
    library.post_processor = made[kind]
    ours, _ = same_prompts(directory(tmp_path, library.to_str(), tokenizer_config=FAST))
    assert ours.starts
    assert ours.ends


def test_post_processors_that_undo_each_other_are_refused(byte_level, tmp_path):
    """In a row the second one sees what the first has made as two texts."""
    library = tokenizers.Tokenizer.from_str(byte_level.to_str())
    each = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", library.token_to_id("</s>"))])
    library.post_processor = processors.Sequence([each, each])
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: post_processor has several parts that add tokens"):
        Tokenizer.from_pretrained(directory(tmp_path, library.to_str(), tokenizer_config=FAST))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda post: post["special_tokens"]["<s>"].update(ids=[4000]), "puts id 4000, expected one of the vocabulary"),
        (lambda post: post["single"].append(post["single"][1]), "has the text 2 times"),
        (lambda post: post["single"].pop(), "has the text 0 times"),
    ],
)
def test_a_post_processor_that_cannot_be_is_refused(change, message, trained, tmp_path):
    raw = json.loads((trained / "tokenizer.json").read_text())
    change(raw["post_processor"])
    with pytest.raises(TokenizerError, match=rf"tokenizer\.json: .*{message}"):
        Tokenizer.from_pretrained(directory(tmp_path, json.dumps(raw)))


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("eos", [True, False])
@pytest.mark.parametrize("settings", [LLAMA | {"add_prefix_space": False}, {"bos_token": "<s>"}], ids=["Llama", "none"])
def test_tokenizer_config_says_what_goes_around_a_tokenizer_model(settings, bos, eos, trained, tmp_path):
    said = settings | {"add_bos_token": bos, "add_eos_token": eos}
    path = directory(tmp_path / "given", model=trained, tokenizer_config=said)
    ours, _ = same_prompts(path)
    assert (ours.starts, ours.ends) == ([1] * bos, [2] * eos)
    ours.save_pretrained(tmp_path / "saved")
    same_prompts(tmp_path / "saved")


def test_a_tokenizer_model_alone_starts_with_bos_as_metas_own_do(trained, tmp_path):
    ours = Tokenizer.from_pretrained(directory(tmp_path, model=trained))
    assert ours.encode_prompt("hi") == [1, *ours.encode("hi")]


def test_a_bos_that_is_a_name_only_is_put_nowhere(byte_level, tmp_path):
    """SmolLM2: bos_token is the end of a text too, and stands in front of none."""
    ends = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    path = directory(tmp_path, byte_level.to_str(), tokenizer_config={"tokenizer_class": "GPT2Tokenizer"} | ends)
    ours, _ = same_prompts(path)
    assert (ours.bos_id, ours.eos_id, ours.starts, ours.ends) == (0, 0, [], [])


@pytest.mark.parametrize(("puts", "expected"), [("$A", "xE"), ("<s> $A", "BxE"), ("<s> $A </s>", "BxE")])
def test_documents_start_as_the_tokenizer_says_and_end_once(puts, expected, byte_level, tmp_path):
    from llama_scratch.data.encoding import Encoder
    from llama_scratch.data.sources import TextChunk

    library = tokenizers.Tokenizer.from_str(byte_level.to_str())
    special = [(name, library.token_to_id(name)) for name in ("<s>", "</s>")]
    library.post_processor = processors.TemplateProcessing(single=puts, special_tokens=special)
    ours = Tokenizer.from_pretrained(directory(tmp_path, library.to_str(), tokenizer_config=FAST))
    ids = {"B": [ours.bos_id], "x": ours.encode("some text"), "E": [ours.eos_id]}
    encode = Encoder(ours)
    assert encode(TextChunk("some text", True), True).tolist() == [i for part in expected for i in ids[part]]
    assert encode(TextChunk("some text", False), False).tolist() == ids["x"]


# added tokens


def token(content, special=True, **flags):
    return {"content": content, "special": special} | dict.fromkeys(
        ("lstrip", "rstrip", "normalized", "single_word"), False
    ) | flags  # fmt: skip


DECODER = {
    "0": token("<unk>"), "1": token("<s>"), "2": token("</s>"), "400": token("<|im_end|>"),
    "401": token("<tool>", special=False, normalized=True), "402": token("<left>", special=False, lstrip=True),
    "403": token("<right>", special=False, rstrip=True), "404": token("word", special=False, single_word=True),
}  # fmt: skip
ADDED = ["hi <tool> there", "a<tool>b", "<tool>", "x  <left>  y", "x  <right>  y<right>", "a word, sword words word",
         "<tool><tool> <left><right>\n", "<|im_end|>"]  # fmt: skip
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def same_added(path, texts=ADDED):
    ours, theirs = both(path)
    for text in texts:
        ids = theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
        assert ours.encode(text) == ids, text
        assert ours.decode(ids) == theirs.decode(ids)
    assert ours.special_tokens.items() <= theirs.get_vocab().items()
    assert ours.vocab_size == len(theirs)
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_token_id, theirs.eos_token_id)
    for ids in ([*range(3), *range(400, ours.vocab_size)], *([i] for i in range(400, ours.vocab_size))):
        assert ours.decode(ids, special=True) == theirs.decode(ids)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    return ours, theirs


@pytest.mark.parametrize("source", ["model", "json"])
@pytest.mark.parametrize("how", ["added_tokens.json", "added_tokens_decoder", "additional_special_tokens"])
def test_added_tokens_have_transformers_ids(how, source, trained, tmp_path):
    settings = LLAMA | {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    files, texts = {"tokenizer_config": settings}, ADDED
    if how == "added_tokens.json":
        files |= {"added_tokens": {"<tool>": 401, "<|im_end|>": 400}}
    elif how == "added_tokens_decoder":
        settings["added_tokens_decoder"] = DECODER
    else:
        settings |= {"eos_token": "</s>", "pad_token": "[PAD]", "additional_special_tokens": ["<|im_end|>", "<tool>"]}
    given = {"model": trained} if source == "model" else {"content": (trained / "tokenizer.json").read_text()}
    ours, _ = same_added(directory(tmp_path / "given", **given, **files), texts)
    assert "<|im_end|>" in ours.special_tokens
    ours.save_pretrained(tmp_path / "saved")
    saved, _ = same_added(tmp_path / "saved", texts)
    assert saved.special_tokens == ours.special_tokens
    assert saved.stop_ids == ours.stop_ids == [ours.eos_id]


@pytest.mark.parametrize("said", ["legacy", "nothing", "spaces"])
def test_added_tokens_of_a_llama_2_of_old(said, shared, tmp_path):
    """tokenizer.model, added_tokens.json, LlamaTokenizer: what stands behind an added token gets no space in front."""
    model = shared / "tokenizers" / "llama2"
    settings = (
        LLAMA | {"eos_token": "<|im_end|>", "add_bos_token": True} | ({"legacy": False} if said == "legacy" else {})
    )
    added = {"<|im_end|>": 32000, "<|im_start|>": 32001, "<tool>": 32002}
    path = directory(tmp_path / "given", model=model, tokenizer_config=settings, added_tokens=added)
    (path / "chat_template.jinja").write_text(CHATML)
    for folder in (path, tmp_path / "saved"):
        ours, theirs = both(folder)
        for text in ["hi <tool> there", "a<tool>b<tool>", "Once upon", "<|im_end|> x"]:
            assert ours.encode_prompt(text) == theirs.encode(text, split_special_tokens=True), text
        messages = [{"role": "user", "content": "Hi there"}, {"role": "assistant", "content": "1 + 1"}]
        expected = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert ChatTemplate.from_pretrained(folder, ours).encode(messages) == expected
        assert ours.stop_ids == [32000]
        ours.save_pretrained(tmp_path / "saved")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"added_tokens": {"<x>": 410}}, "added_tokens.json gives '<x>' the id 410, expected 400, the first one"),
        ({"added_tokens": {"<x>": 300}}, "added_tokens.json gives '<x>' the id 300, expected 400"),
        ({"added_tokens": {"<x>": "y"}}, "added_tokens.json gives '<x>' the id y, expected a number"),
        ({"tokenizer_config": {"added_tokens_decoder": {"402": token("<x>")}}},
         "tokenizer_config.json gives '<x>' the id 402, expected 400"),
        ({"tokenizer_config": {"added_tokens_decoder": {"7": token("</s>")}}},
         "tokenizer_config.json gives '</s>' the id 7, expected 2, which the vocabulary gives it"),
        ({"tokenizer_config": {"added_tokens_decoder": {"x": token("<x>")}}}, "added_tokens_decoder has 'x'"),
        ({"tokenizer_config": {"added_tokens_decoder": [1]}}, "added_tokens_decoder is .1., expected an object"),
        ({"tokenizer_config": {"eos_token": "<|im_end|>"}}, "eos_token is '<.im_end.>', expected one of the tokens"),
    ],
)  # fmt: skip
def test_added_tokens_that_would_get_other_ids_are_refused(files, message, trained, tmp_path):
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_pretrained(directory(tmp_path, model=trained, **files))


def test_names_of_llama_3s_special_tokens_may_be_others(tmp_path):
    import base64

    lines = [base64.b64encode(bytes([byte])) + b" %d\n" % byte for byte in range(256)]
    named = {"256": token("<|begin_of_text|>"), "257": token("<|end_of_text|>"), "258": token("<|mine|>"),
             "512": token("<|more|>")}  # fmt: skip
    path = directory(tmp_path, tokenizer_config={"added_tokens_decoder": named, "eos_token": "<|mine|>"})
    (path / "tokenizer.model").write_bytes(b"".join(lines))
    ours = Tokenizer.from_pretrained(path)
    assert (ours.bos_id, ours.eos_id, ours.special_tokens["<|more|>"], ours.vocab_size) == (256, 258, 512, 513)


# settings


def test_yes_and_no_are_not_tokens(trained, tmp_path):
    settings = FAST | {"add_bos_token": False, "add_eos_token": False, "image_token": "<unk>", "chat_template": "x"}
    path = directory(tmp_path, (trained / "tokenizer.json").read_text(), tokenizer_config=settings)
    ours, theirs = both(path)
    assert ours.names == theirs.special_tokens_map
    template = "{{ bos_token }}{{ eos_token }}{{ image_token }}{{ pad_token }}{{ add_bos_token }}"
    message = [{"role": "user", "content": "x"}]
    expected = theirs.apply_chat_template(message, chat_template=template, tokenize=False)
    assert ChatTemplate(template, ours).render(message) == expected == "<s></s><unk>"
    assert ChatTemplate.from_pretrained(path, ours).render(message) == "x"


@pytest.mark.parametrize("older", [{"eos_token": "<unk>"}, {"eos_token": {"content": "<unk>"}, "pad_token": "</s>"}])
@pytest.mark.parametrize("listed", [False, True], ids=["not listed", "listed"])
@pytest.mark.parametrize(
    "config", [FAST, LLAMA, {"tokenizer_class": "LlamaTokenizer"}, {}, {"bos_token": None}], ids=str
)
def test_special_tokens_map_counts_where_it_does_in_transformers(older, listed, config, trained, tmp_path):
    settings = config | ({"added_tokens_decoder": {"2": token("</s>")}} if listed else {})
    content = (trained / "tokenizer.json").read_text()
    path = directory(tmp_path, content, tokenizer_config=settings, special_tokens_map=older)
    ours, theirs = both(path)
    assert ours.names == theirs.special_tokens_map
    assert theirs.eos_token_id in (ours.eos_id, None)


def test_everything_that_came_with_a_tokenizer_is_saved_with_it(trained, tmp_path):
    files = {
        "tokenizer_config.json": json.dumps(FAST | {"chat_template": [{"name": "default", "template": "0"}]}),
        "special_tokens_map.json": '{"eos_token": "</s>"}',
        "added_tokens.json": '{"<x>": 400}',
        "chat_template.jinja": "1",
        "additional_chat_templates/tool_use.jinja": "2",
        "vocab.json": "{}",
        "merges.txt": "",
    }
    path = directory(tmp_path / "given", (trained / "tokenizer.json").read_text(), model=trained)
    (path / "additional_chat_templates").mkdir()
    for name, content in files.items():
        (path / name).write_text(content)
    for step in ("once", "twice"):
        Tokenizer.from_pretrained(path).save_pretrained(tmp_path / step)
        path = tmp_path / step
    for name in [*files, "tokenizer.json", "tokenizer.model"]:
        if name != "tokenizer_config.json":
            assert (path / name).read_bytes() == (tmp_path / "given" / name).read_bytes()
    assert json.loads((path / "tokenizer_config.json").read_text())["chat_template"][0]["template"] == "0"
    theirs = [transformers.AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "given", path)]
    assert theirs[0].chat_template == theirs[1].chat_template == {"default": "1", "tool_use": "2"}
    Tokenizer.from_pretrained(trained).save_pretrained(path)
    assert sorted(p.name for p in path.rglob("*") if p.is_file()) == sorted(p.name for p in trained.iterdir())
