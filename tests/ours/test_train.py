"""Training: it learns, transformers opens what it leaves, and bad input ends it before anything is written."""

import json
import math
import subprocess
import sys

import pytest
import torch
import transformers

from llama_scratch import Llama, Tokenizer, config_file, data, train
from llama_scratch.config_rules import ConfigError
from llama_scratch.tokenizer import TokenizerError
from llama_scratch.train import TrainConfig
from reference import oracle

SMALL = {"steps": 60, "batch_size": 4, "context": 32, "vocab_size": 300, "hidden_size": 48, "layers": 2, "heads": 4,
         "warmup": 10, "eval_every": 20}  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "verse.txt"
    path.write_text("The cat sat on the mat.\n  The dog did not.\n\n" * 300)
    return path


@pytest.fixture(scope="module")
def run(text, tmp_path_factory):
    config = TrainConfig(data=(text,), out=tmp_path_factory.mktemp("run") / "out", **SMALL)
    return config, train.train(config)


def test_it_learns(run):
    config, history = run
    validation = data.hold_out(data.read_documents(config.data), config.held_out)[1][0].encode()
    bits = [row["validation_bits_per_byte"] for row in history if "validation_bits_per_byte" in row]
    assert len(bits) == 3
    assert bits[0] > bits[1] > bits[2]
    assert bits[2] < data.unigram_bits_per_byte(validation)
    assert history[-1]["loss"] < history[0]["loss"] / 2


def test_the_history_is_the_log(run):
    config, history = run
    log = [json.loads(line) for line in (config.out / "log.jsonl").read_text().splitlines()]
    assert log == history
    assert [row["step"] for row in history] == [10, 20, 30, 40, 50, 60]


def test_it_leaves_a_checkpoint_and_a_plot_and_nothing_half_written(run):
    config, _ = run
    checkpoint = {"config.json", "generation_config.json", "model.safetensors"}
    names = checkpoint | {"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "log.jsonl", "loss.png"}
    assert {path.name for path in config.out.iterdir()} == names
    assert (config.out / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_transformers_opens_it_with_the_same_logits_and_ids(run):
    config, _ = run
    theirs = transformers.AutoModelForCausalLM.from_pretrained(config.out, attn_implementation="eager")
    tokenizer, ours = Tokenizer.from_pretrained(config.out), Llama.from_pretrained(config.out)
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(config.out)
    text = "The dog sat on\n  the mat </s>"
    ids = tokenizer.encode(text, bos=True)
    assert their_tokenizer.encode(text, split_special_tokens=True) == ids
    tokens = torch.tensor([ids])
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits
        assert torch.equal(ours(tokens), expected)


def test_the_same_seed_gives_the_same_bytes(run, tmp_path):
    config, _ = run
    again = TrainConfig(data=config.data, out=tmp_path, **SMALL)
    train.train(again)
    assert (tmp_path / "model.safetensors").read_bytes() == (config.out / "model.safetensors").read_bytes()


def test_bits_per_byte_is_the_sum_over_every_token_of_the_text(run):
    config, history = run
    documents = data.hold_out(data.read_documents(config.data), config.held_out)[1]
    model, tokenizer = Llama.from_pretrained(config.out), Tokenizer.from_pretrained(config.out)
    tokens = data.tokenize(documents, tokenizer)
    nats, stride = 0.0, config.context - 1
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, stride):
            window = tokens[start : start + config.context]
            nats -= model(window[None])[0, :-1].log_softmax(-1).gather(1, window[1:, None]).sum().item()
    expected = nats / math.log(2) / len("".join(documents).encode())
    assert history[-1]["validation_bits_per_byte"] == pytest.approx(expected, rel=torch.finfo(torch.float32).eps * 100)


def test_five_steps_are_transformers_five_steps(run):
    """The same batches, the same optimiser, a plain loop on transformers' model: the same parameters, bit for bit."""
    config, _ = run
    tokenizer = Tokenizer.from_pretrained(config.out)
    llama_config = train.model_config(config, tokenizer)
    ours = Llama(llama_config)
    state = {name: weight.clone() for name, weight in ours.state_dict().items()}
    theirs = oracle.build(config_file.to_dict(llama_config), state, torch.float32).train()
    optimizers = [train.make_optimizer(model, config) for model in (ours, theirs)]
    tokens = data.tokenize(data.read_documents(config.data), tokenizer)
    windows = torch.Generator().manual_seed(0)
    for step in range(5):
        batch = data.random_windows(tokens, 4, 32, windows)
        train.take_step(ours, optimizers[0], batch, train.learning_rate(step, config), config.clip)
        for group in optimizers[1].param_groups:
            group["lr"] = train.learning_rate(step, config)
        loss = theirs(batch, attention_mask=torch.ones_like(batch), labels=batch, use_cache=False).loss
        optimizers[1].zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), config.clip)
        optimizers[1].step()
    for (name, parameter), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert not torch.equal(parameter, state[name]), name
        assert torch.equal(parameter, other), name


def test_norms_and_biases_are_not_decayed_and_a_tied_tensor_is_updated_once(run):
    config, _ = run
    model = Llama.from_pretrained(config.out)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, plain = train.make_optimizer(model, config).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert all("norm" in names[id(p)] for p in plain["params"])
    assert not any("norm" in names[id(p)] for p in decayed["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(names)


def test_the_learning_rate_rises_then_falls_to_a_tenth():
    config = TrainConfig(steps=110, warmup=10, learning_rate=1.0)
    rates = [train.learning_rate(step, config) for step in range(110)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == 1.0
    assert rates[59] == pytest.approx(0.55)
    assert rates[109] == pytest.approx(0.1)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_an_interruption_saves_what_there_is(text, tmp_path, monkeypatch):
    take_step = train.take_step

    def interrupted(model, optimizer, batch, rate, clip):
        if interrupted.steps == 25:
            raise KeyboardInterrupt
        interrupted.steps += 1
        return take_step(model, optimizer, batch, rate, clip)

    interrupted.steps = 0
    monkeypatch.setattr(train, "take_step", interrupted)
    history = train.train(TrainConfig(data=(text,), out=tmp_path / "out", **SMALL))
    assert [row["step"] for row in history] == [10, 20]
    assert Llama.from_pretrained(tmp_path / "out").config.vocab_size == 300


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"steps": 0}, ConfigError, "--steps is 0, expected 1 or more"),
        ({"context": 1}, ConfigError, "--context is 1, expected 2 or more"),
        ({"held_out": 1.0}, ConfigError, "--held-out is 1.0, expected a share"),
        ({"learning_rate": 0.0}, ConfigError, "--learning-rate is 0.0"),
        ({"heads": 3}, ConfigError, "--heads is 3, expected an even number"),
        ({"hidden_size": 50}, ConfigError, "hidden_size is 50, expected a multiple of num_attention_heads = 4"),
        ({"vocab_size": 100_000}, TokenizerError, "cannot train 100000 pieces.*--vocab-size"),
        ({"context": 4000}, data.DataError, "tokens of training text are fewer than --context 4000"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(text, tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        train.train(TrainConfig(**{"data": (text,), "out": tmp_path / "out"} | SMALL | settings))
    assert not (tmp_path / "out").exists()


def command(*arguments: str, cwd) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "llama_scratch.train", *arguments]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_the_command_line_shows_progress_a_sample_and_a_summary(text, tmp_path):
    flags = [part for name, value in SMALL.items() for part in (train.flag(name), str(value))]
    done = command("--data", str(text), *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for word in ("step 60/60", "loss", "bits/byte", "tokens/s", "left"):
        assert word in done.stderr
    for word in ("validation", "entropy of its single bytes", "xz -9", "saved", "AutoModelForCausalLM"):
        assert word in done.stdout
    assert Llama.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "absent.txt"], "error: absent.txt cannot be read: No such file or directory"),
        (["--steps", "-1"], "--steps is -1, expected 1 or more"),
        (["--device", "abacus"], "--device is 'abacus', expected a device"),
        (["--stepps", "3"], "--stepps"),
    ],
)
def test_the_command_line_says_what_is_wrong(arguments, message, tmp_path):
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
