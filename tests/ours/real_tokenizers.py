"""The tokenizer files of Llama 2, TinyLlama, Yi, SmolLM2 and Llama 3, with the metadata of the published ones and a
vocabulary of a few hundred pieces. What each file says was read off the models' pages on the hub.
"""

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = [
    "The quick brown fox jumps over the lazy dog, and the dog did not mind; it was 1984 or 2024.",
    "You are a helpful assistant. What is the capital of France? The capital of France is Paris.",
    "def add(a, b):\n    return a + b\n\nprint(add(1, 22))  # user, system, assistant",
    "Wer reitet so spät durch Nacht und Wind? Es ist der Vater mit seinem Kind.",
] * 20
FLAGS = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
LARGE = 1000000000000000019884624838656  # what transformers writes for "no limit"

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SMOL = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
YI = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + "
    "eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n"
    "{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
LLAMA_3 = """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {{- message.content | tojson if message.content is mapping else message.content }}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
# with trl's marks around what an assistant says, for a loss on that alone
TRAINING = """{%- for message in messages %}
    {%- if loop.first %}{{- bos_token }}{%- endif %}
    {%- if message['role'] == 'assistant' %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
        {%- generation %}
        {{- message['content'] | trim + '<|eot_id|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

SMOL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>", "<filename>",
               "<gh_stars>", "<issue_start>", "<issue_comment>", "<issue_closed>", "<jupyter_start>", "<jupyter_text>",
               "<jupyter_code>", "<jupyter_output>", "<jupyter_script>", "<empty_output>"]  # fmt: skip
LLAMA_3_TOKENS = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>",
                  "<|reserved_special_token_1|>", "<|finetune_right_pad_id|>", "<|reserved_special_token_2|>",
                  "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"]  # fmt: skip
LLAMA_3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def added(token: str, special: bool = True) -> dict[str, Any]:
    """An entry of added_tokens_decoder."""
    return {"content": token, **FLAGS, "special": special}


def named(**tokens: str) -> dict[str, Any]:
    """The entries of a special_tokens_map.json that transformers has written."""
    return {key: {"content": token, **FLAGS} for key, token in tokens.items()}


def sentencepiece_model(vocab_size: int = 340, **how: Any) -> bytes:
    """As Meta trained Llama's: BPE over characters, digits apart, bytes for the rest, nothing normalised."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_writer=out, vocab_size=vocab_size, model_type="bpe", byte_fallback=True,
        character_coverage=0.99995, split_digits=True, allow_whitespace_only_pieces=True,
        remove_extra_whitespaces=False, normalization_rule_name="identity", hard_vocab_limit=False, minloglevel=2,
        **({"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1} | how),
    )  # fmt: skip
    return out.getvalue()


def pieces(model: bytes) -> list[tuple[str, float, int]]:
    """Text, score and type of every piece."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    return [(piece.piece, piece.score, piece.type) for piece in proto.pieces]


def sentencepiece_json(model: bytes, special: list[str], bos: str | None = None) -> tokenizers.Tokenizer:
    """The tokenizer.json that transformers 4 made of such a model: ▁ in front of everything, bos by post-processor."""
    scored = pieces(model)
    ids = {text: i for i, (text, _, _) in enumerate(scored)}
    merges = []
    for text, score, kind in scored:
        if kind == 1:
            cuts = [(text[:i], text[i:]) for i in range(1, len(text)) if text[:i] in ids and text[i:] in ids]
            merges += [(-score, pair) for pair in sorted(cuts, key=lambda pair: (ids[pair[0]], ids[pair[1]]))]
    merges.sort(key=lambda merge: merge[0])
    library = tokenizers.Tokenizer(
        models.BPE(ids, [pair for _, pair in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    library.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    if bos is not None:
        library.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, ids[bos])]
        )
    library.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    return library


def smol_library() -> tokenizers.Tokenizer:
    """SmolLM2's: digits one by one, and no post-processor, so that nothing stands in front of a text."""
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=SMOL_TOKENS, initial_alphabet=alphabet, show_progress=False
    )
    library.train_from_iterator(TEXT, trainer)
    return library


def llama3_library() -> tokenizers.Tokenizer:
    """Llama 3's: its pattern, whole words before merges, special tokens behind all others, BOS by post-processor."""
    library = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(tokenizers.Regex(LLAMA_3_PATTERN), "isolated")
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=350, initial_alphabet=alphabet, show_progress=False)
    )
    library.add_special_tokens([AddedToken(token, normalized=False) for token in LLAMA_3_TOKENS])
    bos = "<|begin_of_text|>"
    template = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, library.token_to_id(bos))]
    )
    library.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), template])
    return library


def llama2_with_added_tokens(path: Path) -> int:
    """A ChatML fine-tuning of Llama 2, saved by transformers 4.36: no tokenizer.json, the turns' ends only beside
    tokenizer.model. Returns how many ids there are.
    """
    model = sentencepiece_model()
    size = len(pieces(model))
    (path / "tokenizer.model").write_bytes(model)
    write_json(path / "added_tokens.json", {"<|im_end|>": size, "<|im_start|>": size + 1})
    tokens = ["<unk>", "<s>", "</s>"]
    decoder = {str(i): added(token) for i, token in enumerate(tokens)}
    decoder |= {str(size): added("<|im_end|>"), str(size + 1): added("<|im_start|>", special=False)}
    write_json(path / "tokenizer_config.json", {
        "add_bos_token": True, "add_eos_token": False, "added_tokens_decoder": decoder, "bos_token": "<s>",
        "chat_template": CHATML, "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "legacy": False,
        "model_max_length": LARGE, "pad_token": "</s>", "padding_side": "right", "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer", "trust_remote_code": False, "unk_token": "<unk>",
        "use_default_system_prompt": False, "use_fast": True,
    })  # fmt: skip
    special = named(bos_token="<s>", eos_token="<|im_end|>", unk_token="<unk>")
    write_json(path / "special_tokens_map.json", special | {"pad_token": "</s>"})
    return size + 2


def tinyllama(path: Path) -> int:
    """TinyLlama-Chat's: tokenizer.json beside tokenizer.model, a template of lines, </s> behind every turn."""
    model = sentencepiece_model()
    tokens = ["<unk>", "<s>", "</s>"]
    (path / "tokenizer.model").write_bytes(model)
    sentencepiece_json(model, tokens, bos="<s>").save(str(path / "tokenizer.json"))
    write_json(path / "tokenizer_config.json", {
        "added_tokens_decoder": {str(i): added(token) for i, token in enumerate(tokens)}, "bos_token": "<s>",
        "chat_template": ZEPHYR, "clean_up_tokenization_spaces": False, "eos_token": "</s>", "legacy": False,
        "model_max_length": 2048, "pad_token": "</s>", "padding_side": "right", "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer", "unk_token": "<unk>", "use_default_system_prompt": False,
    })  # fmt: skip
    special = named(bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<unk>")
    write_json(path / "special_tokens_map.json", special)
    return len(pieces(model))


def yi(path: Path) -> int:
    """Yi-Chat's: no BOS, no space in front in tokenizer.model, its control symbols at ids 3 to 8."""
    symbols = ["<|Human|>", "<|Assistant|>", "<|System|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>"]
    ends = {"bos_piece": "<|startoftext|>", "eos_piece": "<|endoftext|>"}
    model = sentencepiece_model(346, control_symbols=symbols, add_dummy_prefix=False, **ends)
    (path / "tokenizer.model").write_bytes(model)
    known = {0: "<unk>", 1: "<|startoftext|>", 2: "<|endoftext|>", 6: "<|im_start|>", 7: "<|im_end|>", 8: "<|im_sep|>"}
    sentencepiece_json(model, list(known.values())).save(str(path / "tokenizer.json"))
    normalized = {i: added(token) | {"normalized": i < 3} for i, token in known.items()}
    write_json(path / "tokenizer_config.json", {
        "add_bos_token": False, "add_eos_token": False,
        "added_tokens_decoder": {str(i): token for i, token in normalized.items()},
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|im_sep|>"], "bos_token": "<|startoftext|>",
        "chat_template": YI, "clean_up_tokenization_spaces": False, "eos_token": "<|endoftext|>", "legacy": True,
        "model_max_length": 4096, "pad_token": "<unk>", "padding_side": "right", "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer", "unk_token": "<unk>", "use_default_system_prompt": False,
    })  # fmt: skip
    special = named(bos_token="<|startoftext|>", eos_token="<|endoftext|>", pad_token="<unk>", unk_token="<unk>")
    special = {key: token | {"normalized": True} for key, token in special.items()}
    more = {"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|im_sep|>"]}
    write_json(path / "special_tokens_map.json", more | special)
    return len(pieces(model))


def smollm2(path: Path) -> int:
    """SmolLM2-Instruct's: BOS is the beginning of a turn, and is put in front of nothing."""
    library = smol_library()
    library.save(str(path / "tokenizer.json"))
    library.model.save(str(path))  # vocab.json and merges.txt
    write_json(path / "tokenizer_config.json", {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(i): added(token) for i, token in enumerate(SMOL_TOKENS)},
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "bos_token": "<|im_start|>", "chat_template": SMOL,
        "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "model_max_length": 8192,
        "pad_token": "<|im_end|>", "tokenizer_class": "GPT2Tokenizer", "unk_token": "<|endoftext|>",
        "vocab_size": library.get_vocab_size(),
    })  # fmt: skip
    special = named(bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>", unk_token="<|endoftext|>")
    more = {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    write_json(path / "special_tokens_map.json", more | special)
    return library.get_vocab_size()


def llama3(path: Path, template: str = LLAMA_3, saved_by: str = "hub") -> int:
    """Llama 3.x Instruct's, as on the hub (template in tokenizer_config.json), or as transformers 4.57 or 5 save it
    (template in a file; 5 writes less, and another class).
    """
    library = llama3_library()
    library.save(str(path / "tokenizer.json"))
    ids = {str(library.token_to_id(token)): added(token) for token in LLAMA_3_TOKENS}
    config = {
        "added_tokens_decoder": ids, "bos_token": "<|begin_of_text|>", "chat_template": template,
        "clean_up_tokenization_spaces": True, "eos_token": "<|eot_id|>",
        "model_input_names": ["input_ids", "attention_mask"], "model_max_length": 131072,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }  # fmt: skip
    if saved_by != "hub":
        del config["chat_template"]
        (path / "chat_template.jinja").write_text(template)
        config |= {"extra_special_tokens": {}, "pad_token": "<|finetune_right_pad_id|>"}
    if saved_by == "5":
        del config["added_tokens_decoder"], config["extra_special_tokens"]
        config |= {"backend": "tokenizers", "is_local": False, "tokenizer_class": "TokenizersBackend"}
    else:
        special = named(bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")
        more = {} if saved_by == "hub" else named(pad_token="<|finetune_right_pad_id|>")
        write_json(path / "special_tokens_map.json", special | more)
    write_json(path / "tokenizer_config.json", config)
    return library.get_vocab_size()
