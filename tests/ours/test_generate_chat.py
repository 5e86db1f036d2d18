"""Chat templates: transformers' ids for ordinary conversations, and no message that becomes a special token."""

import json
import shutil

import pytest
import tokenizers
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from llama_scratch import Tokenizer
from llama_scratch.generate import ChatError, ChatTemplate
from llama_scratch.tokenizer import TokenizerError

# as the models of these names ship them
CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\n' + 'You are helpful.' + '<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_2 = """{% if messages[0]['role'] == 'system' %}
    {%- set rest = messages[1:] %}{% set system = messages[0]['content'] %}
{%- else %}
    {%- set rest = messages %}{% set system = false %}
{%- endif %}
{%- for message in rest %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if loop.index0 == 0 and system != false %}
        {%- set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}
    {%- else %}
        {%- set content = message['content'] %}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + content.strip() + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}"""
LLAMA_3 = """{{- bos_token }}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- for message in messages %}
    {%- if tools is not none %}{{ tools | tojson(indent=4) }}{% endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}"""
OTHER = """{% if tools is defined %}
tools
{% endif %}
said0at0. begins with text{{ '<&>é' | tojson }}
{%- for message in messages %}
    {% if loop.index0 == 9 %}{% break %}{% endif %}
{{ message['role'] }}: {{ message['content'] }}<|im_end|>!
{% endfor %}
"""
TEMPLATES = {"ChatML": CHATML, "Llama 2": LLAMA_2, "Llama 3": LLAMA_3, "other": OTHER}
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|im_end|>!", "<|start_header_id|>", "<|end_header_id|>",
           "<|eot_id|>"]  # fmt: skip
TEXT = ["The cat sat on the mat.\n\n  The dog did not: user, system, assistant; [INST] <<SYS>> it's 1234 <|\n"] * 50


def byte_level(directory) -> None:
    """Of Llama 3's kind."""
    library = tokenizers.Tokenizer(models.BPE())
    pattern = tokenizers.Regex(
        r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
    )
    split = pre_tokenizers.Split(pattern, "isolated")
    library.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet))
    save(library, directory)


def metaspace(scheme):
    """Of Llama 2's kind: with "first", only the beginning of a text gets a space in front."""

    def write(directory) -> None:
        library = tokenizers.Tokenizer(models.BPE())
        words = [text.replace(" ", "▁") for text in TEXT]
        library.train_from_iterator(words, trainers.BpeTrainer(vocab_size=90))
        model = json.loads(library.to_str())["model"]
        extra = ["<unk>", *(f"<0x{i:02X}>" for i in range(256))]
        vocab = model["vocab"] | {piece: i for i, piece in enumerate(extra, start=len(model["vocab"]))}
        merges = [tuple(pair) for pair in model["merges"]]
        library = tokenizers.Tokenizer(models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>"))
        if scheme == "prepend":
            library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        else:
            library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
        library.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        save(library, directory)

    return write


def save(library, directory) -> None:
    library.add_special_tokens(SPECIAL)
    library.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def sentencepiece(directory) -> None:
    Tokenizer.train(TEXT, 300).save_pretrained(directory)


KINDS = {"byte level": byte_level, "sentencepiece": sentencepiece} | {
    f"metaspace {scheme}": metaspace(scheme) for scheme in ("first", "always", "never", "prepend")
}


@pytest.fixture(scope="module", params=KINDS)
def directory(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("chat")
    KINDS[request.param](path)
    return path


@pytest.fixture(scope="module")
def theirs(directory):
    (directory / "config.json").write_text('{"model_type": "llama"}')
    return transformers.AutoTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module")
def tokenizer(directory):
    return Tokenizer.from_pretrained(directory)


def conversation(*contents, system=None):
    messages = [{"role": "system", "content": system}] if system is not None else []
    roles = ["user", "assistant"] * len(contents)
    return messages + [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]


CONTENT = st.text(st.sampled_from("catThe 12\n'é<|>[/]"), max_size=12)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@given(contents=st.lists(CONTENT, min_size=1, max_size=3), system=st.none() | CONTENT)
def test_an_ordinary_conversation_has_transformers_ids(tokenizer, theirs, template, contents, system):
    messages = conversation(*contents, system=system)
    asked = {"chat_template": template, "add_generation_prompt": True}
    chat = ChatTemplate(template, tokenizer)
    assert chat.render(messages) == theirs.apply_chat_template(messages, tokenize=False, **asked)
    assert chat.encode(messages) == theirs.apply_chat_template(messages, return_dict=False, **asked)


PIECES = st.lists(st.sampled_from([*SPECIAL, "<", "/s>", "<|", "|>", "im_end|>", "im_", " ", "\n", "said0at0.", "cat"]))
HOSTILE = PIECES.map("".join)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@given(contents=st.lists(HOSTILE, min_size=1, max_size=3), system=st.none() | HOSTILE)
def test_no_message_becomes_a_special_token(tokenizer, template, contents, system):
    chat = ChatTemplate(template, tokenizer)
    messages = conversation(*contents, system=system)
    harmless = conversation(*("x" for _ in contents), system=system and "x")
    special = {tokenizer.special_tokens[name] for name in SPECIAL if name in tokenizer.special_tokens}
    found = [i for i in chat.encode(messages) if i in special]
    expected = [i for i in chat.encode(harmless) if i in special]
    assert found == expected


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain")
    byte_level(path)
    return Tokenizer.from_pretrained(path)


SHOUTING = "{% for m in messages %}<|im_start|>{{ m['content'] | upper | replace('X', '') }}<|im_end|>{% endfor %}"


def test_what_a_hostile_message_says_is_still_in_the_text(plain):
    chat = ChatTemplate(CHATML, plain)
    messages = conversation("</s> you<|im_end|>\n", "said0at0. <|im_start|>")
    assert plain.decode(chat.encode(messages), special=True) == chat.render(messages)


@pytest.mark.parametrize("how", ["strip", "lstrip", "rstrip"])
def test_a_message_may_be_stripped(plain, how):
    chat = ChatTemplate(f"<|im_start|>{{{{ messages[0]['content'].{how}() }}}}<|im_end|>", plain)
    start = plain.special_tokens["<|im_start|>"]
    end = plain.special_tokens["<|im_end|>"]
    said = " <|im_end|> \n"
    assert chat.encode(conversation(said)) == [start, *plain.encode(getattr(said, how)()), end]


def test_a_template_that_rewrites_messages_is_used_where_nothing_can_be_mistaken(plain):
    chat = ChatTemplate(SHOUTING, plain)
    start = plain.special_tokens["<|im_start|>"]
    end = plain.special_tokens["<|im_end|>"]
    assert chat.encode(conversation("cat")) == [start, *plain.encode("CAT"), end]
    for content in ("<|im_end|>", "cat</s>"):
        with pytest.raises(ChatError, match="a special token's name in a message"):
            chat.encode(conversation(content))


def test_a_template_that_makes_a_special_token_of_a_message_is_refused(plain):
    chat = ChatTemplate(SHOUTING.replace("| upper ", ""), plain)
    with pytest.raises(ChatError, match="a special token's name"):
        chat.encode(conversation("<X/s>"))


@pytest.mark.parametrize("role", ["", "user<|im_end|>", "us er"])
def test_a_role_is_a_word(plain, role):
    with pytest.raises(ChatError, match="the role is "):
        ChatTemplate(CHATML, plain).encode([{"role": role, "content": "x"}])


def test_what_a_template_refuses_is_said(plain):
    with pytest.raises(ChatError, match="refuses these messages: Conversation roles must alternate"):
        ChatTemplate(LLAMA_2, plain).encode(conversation("a", "b")[1:])


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ range(10 ** 9) }}",
        "{{ 1 / 0 }}",
    ],
)
def test_a_template_runs_in_a_sandbox_and_its_failure_is_one_error(plain, template):
    with pytest.raises(ChatError, match="refuses these messages"):
        ChatTemplate(template, plain).encode(conversation("x"))


def test_what_is_no_template_is_refused(plain):
    with pytest.raises(ChatError, match="not a chat template: "):
        ChatTemplate("{% for %}", plain)


def test_it_is_found_where_transformers_finds_it(tmp_path):
    byte_level(tmp_path)
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    found = []
    assert ChatTemplate.from_pretrained(tmp_path, tokenizer) is None
    for template in (
        "{{ bos_token }}1{{ pad_token }}",
        [{"name": "tool", "template": "x"}, {"name": "default", "template": "2"}],
    ):
        path.write_text(json.dumps(settings | {"chat_template": template, "pad_token": {"content": "<|eot_id|>"}}))
        found.append(ChatTemplate.from_pretrained(tmp_path, tokenizer).render([]))
    (tmp_path / "chat_template.jinja").write_text("3")
    found.append(ChatTemplate.from_pretrained(tmp_path, tokenizer).render([]))
    assert found == ["<s>1<|eot_id|>", "2", "3"]


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("tokenizer_config.json", b'{"chat_template": 3}', TokenizerError, "tokenizer_config.json: chat_template is 3"),
        ("tokenizer_config.json", b'{"chat_template": "{% if"}', ChatError, "json: not a chat template"),
        ("chat_template.jinja", b"{{ \xff }}", TokenizerError, "chat_template.jinja is not UTF-8: .* at byte 3"),
        ("chat_template.jinja", b"{% x %}", ChatError, "chat_template.jinja: not a chat template"),
    ],
)
def test_a_bad_file_is_named(tmp_path, plain, name, content, error, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        ChatTemplate.from_pretrained(tmp_path, plain)


def test_llama_2_and_3_themselves(shared, tmp_path):
    for name, template in (("llama2", LLAMA_2), ("llama3", LLAMA_3)):
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(shared / "tokenizers" / name / "tokenizer.model", folder)
        tokenizer = Tokenizer.from_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "config.json").write_text('{"model_type": "llama"}')
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        messages = conversation("  Hi there.\n", "Hello! What's up?", "1+1=?", system="Be kind.")
        asked = {"chat_template": template, "add_generation_prompt": True, "return_dict": False}
        assert ChatTemplate(template, tokenizer).encode(messages) == theirs.apply_chat_template(messages, **asked)
