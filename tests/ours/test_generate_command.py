"""python -m llama_scratch.generate: what it prints where, conversations, and one line for what is wrong."""

import io
import json
import logging
import re
import subprocess
import sys

import pytest
import torch

from llama_scratch import Llama, LlamaConfig, Tokenizer, generate
from llama_scratch.generate import ChatTemplate, command, stream
from llama_scratch.generate.command import GenerateConfig, Session, interact, main

CONTEXT = 96
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
FEW = ("--max-new-tokens", "12", "--temperature", "0")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    tokenizer = Tokenizer.train(["The cat sat on the mat.\n  The dog did not.\n\n" * 30], 290)
    torch.manual_seed(0)
    config = LlamaConfig(290, 48, 64, 2, 4, initializer_range=0.3, max_position_embeddings=CONTEXT)
    Llama(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def chatting(directory, tmp_path):
    for path in directory.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    return tmp_path


@pytest.fixture
def call(monkeypatch, capsys):
    """The command line: exit status, stdout, stderr."""

    def called(*arguments, stdin=""):
        monkeypatch.setattr(sys, "argv", ["generate", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        if isinstance(ended.value.code, str):  # what Python prints, and exits with 1
            return 1, printed.out, printed.err + ended.value.code
        return ended.value.code, printed.out, printed.err

    return called


def written(directory, prompt, new, **how):
    """What the library writes: new ids, text."""
    model = Llama.from_pretrained(directory)
    tokenizer = Tokenizer.from_pretrained(directory)
    ids = tokenizer.encode(prompt, bos=True)
    whole = generate(model, torch.tensor([ids]), new, **how)[0].tolist()
    return whole[len(ids) :], tokenizer.decode(whole).removeprefix(prompt)


def test_text_goes_to_stdout_and_a_line_about_it_to_stderr(directory, call):
    status, out, err = call(directory, "--prompt", "The cat", *FEW)
    assert status == 0
    assert out == written(directory, "The cat", 12)[1] + "\n"
    numbers = r"12 tokens, \d+ tokens/s, the first after \d+\.\d+ s"
    assert re.fullmatch(rf"\[{numbers}; ended by --max-new-tokens; torch {re.escape(torch.__version__)}\]\n", err)


def test_text_comes_piece_by_piece(directory, monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "argv", ["generate", str(directory), "--prompt", "The cat", *FEW])
    monkeypatch.setattr("builtins.print", lambda *a, **how: seen.append((*a, how)))
    with pytest.raises(SystemExit):
        main()
    assert len(seen) > 6
    assert all(how.get("flush") for *_, how in seen)


def test_json_is_one_object_and_all_there_is(directory, call):
    status, out, err = call(directory, "--prompt", "The cat", *FEW, "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    ids, text = written(directory, "The cat", 12)
    assert (found["ids"], found["text"], found["finish_reason"]) == (ids, text, "max_new_tokens")
    model = Llama.from_pretrained(directory)
    tokenizer = Tokenizer.from_pretrained(directory)
    prompt = tokenizer.encode("The cat", bos=True)
    steps = stream(model, torch.tensor([prompt]), 12)
    assert found["log_probabilities"] == [step.log_probabilities.item() for step in steps]
    assert found["seconds_to_first_token"] > 0
    assert found["tokens_per_second"] > 0
    assert found["torch"] == torch.__version__


@pytest.mark.parametrize("knob", [{}, {"temperature": 1.9}, {"top_k": 3}, {"top_p": 0.4}, {"min_p": 0.3},
                                  {"repetition_penalty": 3.0}, {"seed": 4}], ids=str)  # fmt: skip
def test_every_knob_is_the_librarys(directory, call, knob):
    knobs = {"temperature": 1.0, "seed": 7} | knob
    flags = [part for name, value in knobs.items() for part in ("--" + name.replace("_", "-"), value)]
    _, out, _ = call(directory, "--prompt", "The", "--max-new-tokens", 20, "--json", *flags)
    dice = torch.Generator().manual_seed(knobs.pop("seed"))
    found = json.loads(out)["ids"]
    assert found == written(directory, "The", 20, generator=dice, **knobs)[0]
    if knob:
        plain = {"temperature": 1.0, "generator": torch.Generator().manual_seed(7)}
        assert found != written(directory, "The", 20, **plain)[0]


def test_weights_are_in_the_dtype_asked_for(directory):
    assert Session(GenerateConfig(directory, "x", dtype="bfloat16")).model.lm_head.weight.dtype == torch.bfloat16
    assert Session(GenerateConfig(directory, "x")).model.lm_head.weight.dtype == torch.float32


def test_the_prompt_may_come_from_stdin_without_its_last_newline(directory, call):
    asked = [directory, *FEW, "--prompt"]
    assert call(*asked, "-", stdin="The cat\n\n")[1] == call(*asked, "The cat\n")[1] != call(*asked, "The cat")[1]


def test_it_stops_before_each_stop_string(directory, call):
    text = written(directory, "The cat", 40)[1]
    first, second = text[14:16], text[8:10]
    _, out, err = call(
        directory, "--prompt", "The cat", *FEW, "--max-new-tokens", 40, "--stop", first, "--stop", second
    )
    assert out.removesuffix("\n") == text[: min(text.index(first), text.index(second))]
    assert "before a --stop string" in err


def test_it_says_that_the_context_is_full(directory, call):
    _, out, err = call(directory, "--prompt", "The cat", "--temperature", 0, "--max-new-tokens", 1000)
    assert "the model's context is full" in err
    assert f"[{CONTEXT - len(Tokenizer.from_pretrained(directory).encode('The cat', bos=True))} tokens" in err
    assert out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--prompt", "x"], "error: nowhere is not a directory"),
        ([".", "--prompt", "x"], "error: config.json is missing"),
        (["HERE"], "there is no prompt: give --prompt TEXT"),
        (["HERE", "--prompt", "x", "--chat"], "error: --chat needs a chat template: "),
        (["HERE", "--prompt", "The cat " * 99], "expected fewer than the model's context of 96"),
        (["HERE", "--prompt", "x", "--top-p", "1.5"], "--top-p is 1.5, expected"),
        (["HERE", "--prompt", "x", "--temperature", "-1"], "--temperature is -1.0, expected"),
        (["HERE", "--prompt", "x", "--max-new-tokens", "0"], "--max-new-tokens is 0, expected 1 or more"),
        (["HERE", "--prompt", "x", "--stop", ""], "--stop is ('',), expected"),
        (["HERE", "--prompt", "x", "--device", "abacus"], "--device is 'abacus', expected a device"),
        (["HERE", "--interactive", "--json"], "--interactive and --json are given"),
        (["HERE", "--interactive", "--prompt", "-"], "--interactive and --prompt - are given"),
    ],
    ids=str,
)
def test_what_is_wrong_is_one_message(directory, call, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = call(*(directory if part == "HERE" else part for part in arguments))
    assert status in (1, 2)
    assert out == ""
    assert message in re.sub(r"\s*│\n│\s*", " ", err)


def test_a_checkpoint_without_a_tokenizer_says_so(directory, call, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(directory / name)
    status, _, err = call(tmp_path, "--prompt", "x")
    assert status == 1
    assert err == f"error: {tmp_path} has neither tokenizer.json nor tokenizer.model: cannot tokenize text"


def test_without_a_template_each_line_is_a_prompt(directory, call):
    status, out, err = call(directory, "--interactive", *FEW, stdin="The cat\nThe dog\n\nThe mat\n")
    assert status == 0
    assert out == "".join(written(directory, prompt, 12)[1] + "\n" for prompt in ("The cat", "The dog"))
    assert err.count("[12 tokens, ") == 2


def test_with_a_template_it_is_a_conversation(chatting, monkeypatch):
    asked, encode = [], ChatTemplate.encode
    monkeypatch.setattr(ChatTemplate, "encode", lambda self, m: asked.append([*m]) or encode(self, m))
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi\nYou?\n"))
    session = Session(GenerateConfig(chatting, interactive=True, max_new_tokens=5))
    interact(session)
    first = {"role": "user", "content": "Hi"}
    assert asked[0] == [first]
    assert asked[1][0] == first
    assert [m["role"] for m in asked[1]] == ["user", "assistant", "user"]
    assert asked[1][2]["content"] == "You?"
    assert session.messages[1] == asked[1][1]
    assert session.messages[3]["content"]


def test_a_single_prompt_may_be_a_message(chatting, call):
    _, out, _ = call(chatting, "--prompt", "Hi", "--chat", *FEW)
    assert out == written(chatting, "user: Hi\n", 12)[1] + "\n"
    _, out, _ = call(chatting, "--prompt", "Hi", *FEW)
    assert out == written(chatting, "Hi", 12)[1] + "\n"


def test_a_conversation_that_has_become_too_long_starts_anew(chatting, call):
    status, out, err = call(
        chatting, "--interactive", "--max-new-tokens", 60, stdin="The cat\nThe dog\n" + "x" * 99 + "\nHi\n"
    )
    assert status == 0
    assert out.count("\n") >= 3
    assert f"longer than the context of {CONTEXT} tokens: it starts anew" in err
    assert f"expected fewer than the model's context of {CONTEXT}" in err
    assert err.count("; torch ") == 3


def test_a_message_that_cannot_be_answered_is_no_part_of_the_conversation(chatting):
    session = Session(GenerateConfig(chatting, interactive=True))
    with pytest.raises(ValueError, match="context of 96"):
        session.answer("x" * 99)
    assert session.messages == []


def test_ctrl_c_ends_the_answer_and_not_the_conversation(chatting, monkeypatch, capsys):
    session = Session(GenerateConfig(chatting, interactive=True, max_new_tokens=8))
    forward, calls = session.model.forward, []

    def interrupted(*given, **options):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return forward(*given, **options)

    monkeypatch.setattr(session.model, "forward", interrupted)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hi\nYou?\n"))
    interact(session)
    err = capsys.readouterr().err.splitlines()
    assert "3 tokens" in err[0]
    assert "interrupted" in err[0]
    assert "8 tokens" in err[1]
    assert len(session.messages) == 4


def test_ctrl_c_on_one_text_keeps_what_there_is_and_exits_with_130(directory, call, monkeypatch):
    monkeypatch.setattr(command.TextStream, "__iter__", lambda _self: (_ for _ in ()).throw(KeyboardInterrupt))
    status, out, err = call(directory, "--prompt", "x")
    assert (status, out) == (130, "\n")
    assert "interrupted" in err


@pytest.mark.processes
def test_a_reader_that_has_gone_is_no_error(directory):
    line = [sys.executable, "-m", "llama_scratch.generate", str(directory), "--prompt", "The", "--max-new-tokens", "90"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        told = process.stderr.read().splitlines()
        assert all(line.startswith(b"[decoding") for line in told), told
        assert process.wait(60) == 1


def overflowing(directory, tmp_path):
    """The checkpoint with weights whose products float16 cannot hold, and bfloat16 can."""
    model = Llama.from_pretrained(directory)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(3e4)
    model.save_pretrained(tmp_path)
    Tokenizer.from_pretrained(directory).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("how", [["--temperature", 0], ["--temperature", 1], ["--json"], ["--interactive"],
                                 ["--top-k", 3], ["--repetition-penalty", 2]], ids=str)  # fmt: skip
def test_logits_that_are_not_finite_are_one_line_whatever_the_way(directory, call, tmp_path, how):
    here = overflowing(directory, tmp_path)
    prompt = [] if how == ["--interactive"] else ["--prompt", "The cat"]
    status, out, err = call(here, *prompt, "--dtype", "float16", *how, stdin="The cat\nThe dog\n")
    assert (status, out) == (1, "")
    lines = [line for line in err.splitlines() if not line.startswith("[")]
    assert lines == ["error: the logits of new token 1 are NaN, expected finite numbers: probably an overflow in "
                     "float16, which ends at 65,504; try --dtype bfloat16 or float32"]  # fmt: skip
    assert call(here, "--prompt", "The cat", "--dtype", "bfloat16")[0] == 0


def test_logits_that_stop_being_finite_end_the_text_there(directory, call, monkeypatch):
    forward, calls = Llama.forward, []

    def breaking(self, *given, **options):
        calls.append(1)
        return forward(self, *given, **options) + (float("inf") if len(calls) == 9 else 0)

    expected = written(directory, "The cat", 8)[1]
    calls.clear()
    monkeypatch.setattr(Llama, "forward", breaking)
    status, out, err = call(directory, "--prompt", "The cat", *FEW, "--no-fast")
    assert status == 1
    assert expected.startswith(out.removesuffix("\n"))
    assert out.endswith("\n")
    assert err.splitlines()[-1].startswith("error: the logits of new token 9 are infinite, expected finite numbers: ")


def test_what_is_said_of_compiling_is_said_once_and_not_where_it_cannot_pay(directory, call, monkeypatch):
    from llama_scratch.fast import llama

    monkeypatch.setattr(llama, "has_cpp_compiler", lambda: True)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in a program of its own
    lines = "The cat\nThe dog\n"
    _, _, err = call(directory, "--interactive", "--max-new-tokens", 3, stdin=lines)
    assert "compiling" not in err, "it would pay from more tokens on than the context has"
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(llama, "break_even_tokens", lambda *_: CONTEXT - 1)
    _, _, err = call(directory, "--interactive", "--max-new-tokens", 3, stdin=lines)
    assert err.count("[3 tokens, ") == 2
    assert err.count("would pay from 95 new tokens on") == 1
