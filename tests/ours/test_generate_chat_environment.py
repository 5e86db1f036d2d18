"""What chat templates may use, and what they are given: rendered as transformers' apply_chat_template does."""

import datetime
import json
from pathlib import Path

import jinja2
import pytest
import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

from llama_scratch import Tokenizer, data
from llama_scratch.generate import ChatError, ChatTemplate, chat_environment

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TRIMMING = CHATML.replace("m['content']", "m['content'] | trim")
# as trl's, which marks what is trained on
TRL = """{% for m in messages %}
    {%- if m.role == 'assistant' %}{% generation %}
{% set inner = 'seen' %}{{ m.content }}<|im_end|>
    {% endgeneration %}{% else %}
{{ m.role }}: {{ m.content }}{{ inner }}
    {%- endif %}
{% endfor %}{{ inner }}"""
PARTS = """{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.content is string %}{{ m.content }}{% elif m.content is defined %}{% for part in m.content %}
{% if part.type == 'text' %}{{ part.text }}{% else %}[{{ part.type }}]{% endif %}{% endfor %}{% endif %}
{% for call in m.tool_calls or [] %}{{ call | tojson }}{% endfor %}<|im_end|>
{% endfor %}"""
TOOLS = """{{ bos_token }}{% if tools %}{% for tool in tools %}{{ tool | tojson(indent=2) }}
{% endfor %}{% endif %}{% for d in documents or [] %}{{ d.title }}: {{ d.text }}
{% endfor %}{% for m in messages %}{{ m.role }}{{ m.reasoning_content }}{{ m.thinking }}: {{ m.content }}
{% endfor %}{{ mood }}{{ add_generation_prompt }}{{ tools is none }}{{ documents is none }}{{ unknown }}"""
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {}}}}}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    path = tmp_path_factory.mktemp("chat")
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=SPECIAL)
    library.train_from_iterator(data.python_documents()[:20], trainer)
    library.save(str(path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return transformers.AutoTokenizer.from_pretrained(path)


@pytest.fixture(scope="module")
def tokenizer(theirs):
    return Tokenizer.from_pretrained(theirs.name_or_path)


def says(content, role="user", **more):
    return {"role": role, "content": content} | more


def same(tokenizer, theirs, template, messages, **given):
    chat = ChatTemplate(template, tokenizer)
    asked = {"add_generation_prompt": not given.get("continue_final_message")} | given | {"chat_template": template}
    assert chat.render(messages, **given) == theirs.apply_chat_template(messages, tokenize=False, **asked)
    assert chat.encode(messages, **given) == theirs.apply_chat_template(messages, return_dict=False, **asked)


CONVERSATION = [says("Hi there"), says("Hello!", "assistant"), says(" 1 + 1?\n")]
# a template, and what it shows
ENVIRONMENT = {
    "generation": TRL,
    "generation with other spaces": "{%- generation -%} a {%- endgeneration +%} b",
    "break": "{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "continue": "{% for i in range(5) %}{% if i == 3 %}{% continue %}{% endif %}{{ i }}{% endfor %}",
    "tojson": "{{ messages | tojson }}{{ '<é&>' | tojson }}{{ {'b': 1, 'a': [2]} | tojson(indent=1, sort_keys=True) }}"
    "{{ 'é' | tojson(ensure_ascii=True) }}{{ [1, 2] | tojson(separators=(',', ':')) }}",
    "strftime_now": "{{ strftime_now('%d %b %Y') }}",
    "dict": "{{ dict(a=1) }}{{ dict.fromkeys([1, 2], 3) }}",
    "namespace": "{% set ns = namespace(n=0, self=1) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}"
    "{{ ns.n }}{{ ns.self }}",
    "trim": "  {% if true %}\n  a\n  {% endif %}\nb\n",
    "names": "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ unk_token is defined }}",
    "plain": TOOLS,
}


@pytest.mark.parametrize("template", ENVIRONMENT.values(), ids=ENVIRONMENT)
def test_the_environment_is_transformers(template, tokenizer, theirs):
    same(tokenizer, theirs, template, CONVERSATION)


REFUSED = {
    "raise_exception": "{{ raise_exception('roles must alternate') }}",
    "a hidden name": "{% set ns = namespace(_x=0) %}",
    "a hidden name set": "{% set ns = namespace() %}{% set ns._x = 1 %}",
    "attributes of dict": "{{ dict.__mro__[0] }}",
    "attributes of a format": "{{ strftime_now.__globals__['json'] }}",
    "text and a list": "{{ 'x' + messages }}",
}


@pytest.mark.parametrize("template", REFUSED.values(), ids=REFUSED)
def test_what_transformers_refuses_is_refused(template, tokenizer, theirs):
    with pytest.raises((jinja2.TemplateError, TypeError)):
        theirs.apply_chat_template(CONVERSATION, chat_template=template, tokenize=False)
    with pytest.raises(ChatError, match="refuses these messages"):
        ChatTemplate(template, tokenizer).encode(CONVERSATION)


def test_the_time_is_now(tokenizer, monkeypatch):
    class Clock(datetime.datetime):
        @classmethod
        def now(cls):
            return cls(2024, 7, 26)

    monkeypatch.setattr(chat_environment, "datetime", Clock)
    assert ChatTemplate("{{ strftime_now('%d %b %Y') }}", tokenizer).render(CONVERSATION) == "26 Jul 2024"


GIVEN = {
    "tools": {"tools": [TOOL]},
    "no tools": {"tools": []},
    "documents": {"documents": [{"title": "T", "text": "é\nü"}]},
    "no prompt": {"add_generation_prompt": False},
    "a prompt": {"add_generation_prompt": True},
    "variables": {"mood": "kind", "unknown": None},
    "another BOS": {"bos_token": "x"},
    "everything": {"tools": [TOOL, TOOL], "documents": [{"title": "a", "text": "b"}], "mood": ("a", 1.5, True)},
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_a_template_is_given_what_transformers_gives_it(given, tokenizer, theirs):
    thinking = [*CONVERSATION, says("2", "assistant", reasoning="1 + 1 is 2"), says("x", thinking="a", tool_calls=None)]
    same(tokenizer, theirs, TOOLS, thinking, **given)


@pytest.mark.parametrize("template", [CHATML, TRIMMING, TRL, PARTS], ids=["ChatML", "trimming", "trl", "parts"])
@pytest.mark.parametrize("end", ["The answer is", "The answer is ", " x\n\n"])
def test_an_answer_is_continued_as_transformers_does(template, end, tokenizer, theirs):
    messages = [says("1 + 1?"), says(end, "assistant")]
    same(tokenizer, theirs, template, messages, continue_final_message=True)
    if template == PARTS:
        parts = [{"type": "text", "text": "a"}, {"type": "text", "text": end}, {"type": "image"}]
        same(tokenizer, theirs, template, [says("x"), says(parts, "assistant")], continue_final_message=True)


def test_thoughts_are_continued_too(tokenizer, theirs):
    template = (
        "{% for m in messages %}{{ m.role }}: <think>{{ m.reasoning_content }}</think>{{ m.content }}{% endfor %}"
    )
    messages = [says("", "assistant", reasoning_content="Let me")]
    same(tokenizer, theirs, template, messages, continue_final_message="reasoning_content")


@pytest.mark.parametrize(
    ("messages", "template", "given", "message"),
    [
        ([says("x")], CHATML, {"add_generation_prompt": True, "continue_final_message": True}, "expected one of them"),
        ([], CHATML, {"continue_final_message": True}, "there is no message"),
        ([says(None)], CHATML, {"continue_final_message": True}, "message 1 has no 'content'"),
        ([says("x", y="z")], CHATML, {"continue_final_message": "y"}, "the chat template has no 'y'"),
        (
            [says([{"type": "image"}])],
            CHATML,
            {"continue_final_message": True},
            "message 1 has no text in its 'content'",
        ),
        ([says("x")], "{{ messages[0]['content'][:0] }}", {"continue_final_message": True}, "cannot be continued"),
        ([says("x")], TOOLS, {"tools": [len]}, "tool 1 is builtin_function_or_method, expected a JSON schema"),
    ],
)
def test_what_cannot_be_continued_or_used_is_said(messages, template, given, message, tokenizer):
    with pytest.raises(ChatError, match=message):
        ChatTemplate(template, tokenizer).render(messages, **given)


CONTENTS = {
    "missing": {"role": "assistant"},
    "None": says(None, "assistant"),
    "None and a call": says(None, "assistant", tool_calls=[{"name": "add", "arguments": {"a": 1}}]),
    "empty": says(""),
    "parts": says([{"type": "text", "text": "Look: "}, {"type": "image"}, {"type": "text", "text": " nice"}]),
    "no parts": says([]),
    "a tuple": says(({"type": "text", "text": "x"},)),
    "a number": says(3),
}


@pytest.mark.parametrize("message", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("template", [PARTS, CHATML, TRIMMING], ids=["parts", "ChatML", "trimming"])
def test_any_content_renders_as_in_transformers_or_the_message_is_named(message, template, tokenizer, theirs):
    messages = [says("Hi"), message, says("Bye")]
    chat = ChatTemplate(template, tokenizer)
    try:
        expected = theirs.apply_chat_template(messages, chat_template=template, return_dict=False)
    except Exception:  # whatever the template raises
        with pytest.raises(ChatError, match=rf"message 2 \({message['role']}\) has (no )?content"):
            chat.encode(messages, add_generation_prompt=False)
        return
    assert chat.encode(messages, add_generation_prompt=False) == expected


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"content": "x"}, "message 2: there is no role"),
        (says("x", None), "message 2: there is no role"),
        (says("x", 3), "message 2: the role is '3'"),
        ("x", "message 2 is 'x', expected an object"),
    ],
)
def test_a_message_without_a_role_is_named(message, error, tokenizer):
    with pytest.raises(ChatError, match=error):
        ChatTemplate(CHATML, tokenizer).encode([says("Hi"), message])


def test_no_messages_are_refused(tokenizer):
    with pytest.raises(ChatError, match="there is no message"):
        ChatTemplate(CHATML, tokenizer).encode([])


def test_a_part_cannot_become_a_special_token(tokenizer):
    end = tokenizer.special_tokens["<|im_end|>"]
    parts = [{"type": "text", "text": "a<|im_end|>"}, {"type": "text", "text": "<|im_end|>b"}]
    ids = ChatTemplate(PARTS, tokenizer).encode([says(parts)])
    assert ids.count(end) == 1
    assert tokenizer.decode(ids).count("<|im_end|>") == 2


@pytest.mark.parametrize(
    ("message", "given", "place"),
    [
        (says("x", tool_calls=[{"name": "</s>"}]), {}, "message 1"),
        (says([{"type": "</s>", "text": "x"}]), {}, "message 1"),
        (says("x"), {"tools": [{"a</s>": 1}]}, "tools"),
        (says("x"), {"documents": [{"title": "t", "text": "</s>"}]}, "documents"),
        (says("x"), {"mood": "</s>"}, "mood"),
    ],
)
def test_nothing_else_can_become_a_special_token_either(message, given, place, tokenizer):
    with pytest.raises(ChatError, match=f"{place} has the special token's name '</s>'"):
        ChatTemplate(TOOLS, tokenizer).encode([message], **given)


@pytest.mark.parametrize("form", ["files", "list", "object"])
def test_a_template_for_tools_is_used_where_there_are_tools(form, tokenizer, theirs, tmp_path):
    templates = {"default": "plain {{ messages[0].content }}", "tool_use": "tools {{ tools | length }}"}
    for path in Path(theirs.name_or_path).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    if form == "files":
        (tmp_path / "additional_chat_templates").mkdir()
        (tmp_path / "chat_template.jinja").write_text(templates["default"])
        (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text(templates["tool_use"])
    else:
        listed = [{"name": name, "template": text} for name, text in templates.items()]
        settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
        settings["chat_template"] = listed if form == "list" else templates
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    chat = ChatTemplate.from_pretrained(tmp_path, tokenizer)
    found = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for tools in (None, [], [TOOL]):
        expected = found.apply_chat_template([says("x")], tools=tools, return_dict=False)
        assert chat.encode([says("x")], tools=tools) == expected


def test_templates_of_which_none_is_the_default_are_refused(tokenizer, tmp_path):
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("x")
    with pytest.raises(ChatError, match="the chat templates are called rag, expected one that is called 'default'"):
        ChatTemplate.from_pretrained(tmp_path, tokenizer)


@pytest.mark.parametrize("bos", ["{{ bos_token }}", "<s>", ""])
def test_a_chat_has_the_bos_that_its_template_writes_and_no_other(bos, theirs, tmp_path):
    for path in Path(theirs.name_or_path).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    library.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    library.save(str(tmp_path / "tokenizer.json"))
    ours = Tokenizer.from_pretrained(tmp_path)
    found = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert ours.starts == [0]
    same(ours, found, bos + CHATML, CONVERSATION)
    assert ChatTemplate(bos + CHATML, ours).encode(CONVERSATION).count(0) == bool(bos)


@pytest.mark.parametrize("side", ["lstrip", "rstrip"])
def test_special_tokens_swallow_the_spaces_that_they_do_in_transformers(side, theirs, tmp_path):
    for path in Path(theirs.name_or_path).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    raw = json.loads((tmp_path / "tokenizer.json").read_text())
    for token in raw["added_tokens"][2:]:
        token[side] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(raw))
    ours = Tokenizer.from_pretrained(tmp_path)
    found = transformers.AutoTokenizer.from_pretrained(tmp_path)
    same(ours, found, " a \n" + CHATML + "  <|im_end|> \n<|im_end|>  ", [says("  x \n"), says("\u00a0")])
