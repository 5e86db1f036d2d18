"""Training: it learns, transformers opens what it leaves, and bad input ends it before anything is written."""

import ast
import inspect
import json
import math
import os
import shutil
import subprocess
import sys
import textwrap
import types

import pytest
import torch
import transformers
from safetensors.torch import load_file

from llama_scratch import Llama, Tokenizer, data, train
from llama_scratch.command_line import flag
from llama_scratch.data import __main__ as data_command
from llama_scratch.data import baselines
from llama_scratch.generate import ChatTemplate
from llama_scratch.model.config_rules import ConfigError
from llama_scratch.tokenizer import TokenizerError
from llama_scratch.train import TrainConfig, TrainingError
from llama_scratch.training import checkpoints, evaluation, metrics, objective, optimizer, presets, setup, speed
from tests.profiles import is_thorough

SMALL = {"steps": 60, "batch_size": 4, "seq_len": 32, "vocab_size": 300, "hidden_size": 48, "layers": 2, "heads": 4,
         "warmup": 10, "eval_every": 20, "save_every": 30}  # fmt: skip
VERSE = "The cat sat on the mat.\n  The dog did not.\n\n"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "verse.txt"
    path.write_text(VERSE * 300)
    return path


@pytest.fixture(scope="module")
def run(text, tmp_path_factory):
    config = TrainConfig(data=(text,), out=tmp_path_factory.mktemp("run") / "out", **SMALL)
    return config, train.train(config)


def weights(directory) -> bytes:
    return (directory / "model.safetensors").read_bytes()


def flags(settings) -> list[str]:
    return [part for name, value in settings.items() for part in (flag(name), str(value))]


def command(*arguments: str, cwd, **options) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "llama_scratch.train", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=120, env=environment, **options)


class TestARun:
    def test_it_learns(self, run):
        _, history = run
        bits = [row.validation_bits_per_byte for row in history if row.validation_bits_per_byte is not None]
        assert len(bits) == 3
        assert bits[0] > bits[1] > bits[2]
        assert bits[2] < baselines.unigram_bits_per_byte((VERSE * 30).encode())
        assert history[-1].loss < history[0].loss / 2

    def test_the_history_is_the_log(self, run):
        config, history = run
        log = [json.loads(line) for line in (config.out / "log.jsonl").read_text().splitlines()]
        assert log == [row.to_json() for row in history]
        assert [row.step for row in history] == [10, 20, 30, 40, 50, 60]
        assert all(row.gradient_norm > 0 and 0 < row.share_of_peak < 2 for row in history)
        assert [bool(row.sample) for row in history] == [False, True] * 3

    def test_training_bits_per_byte_are_the_loss_by_the_bytes_of_a_token(self, run):
        config, history = run
        tokenizer = Tokenizer.from_pretrained(config.out)
        held_out = (VERSE * 300)[-len(VERSE) * 30 :]
        share = (len(tokenizer.encode(held_out)) + 2) / len(held_out)
        for row in history:
            assert row.bits_per_byte == pytest.approx(row.loss / math.log(2) * share)

    def test_it_leaves_a_checkpoint_and_a_plot_and_nothing_half_written(self, run):
        config, _ = run
        checkpoint = {"config.json", "generation_config.json", "model.safetensors"}
        tokenizer = {"tokenizer.json", "tokenizer.model", "tokenizer_config.json"}
        others = {"log.jsonl", "loss.png", "run.json", "tokens", "checkpoints"}
        assert {path.name for path in config.out.iterdir()} == checkpoint | tokenizer | others
        assert (config.out / "loss.png").read_bytes().startswith(b"\x89PNG")

    def test_transformers_opens_it_with_the_same_logits_and_ids(self, run):
        config, _ = run
        theirs = transformers.AutoModelForCausalLM.from_pretrained(config.out, attn_implementation="eager")
        tokenizer = Tokenizer.from_pretrained(config.out)
        ours = Llama.from_pretrained(config.out)
        their_tokenizer = transformers.AutoTokenizer.from_pretrained(config.out)
        text = "The dog sat on\n  the mat </s>"
        ids = tokenizer.encode(text, bos=True)
        assert their_tokenizer.encode(text, split_special_tokens=True) == ids
        tokens = torch.tensor([ids])
        with torch.no_grad():
            expected = theirs(tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits
            assert torch.equal(ours(tokens), expected)

    def test_the_same_seed_gives_the_same_bytes_and_another_one_others(self, run, tmp_path):
        config, _ = run
        for seed in (0, 1):
            train.train(TrainConfig(data=config.data, out=tmp_path / str(seed), seed=seed, **SMALL))
        assert weights(tmp_path / "0") == weights(config.out)
        assert weights(tmp_path / "1") != weights(config.out)

    def test_bits_per_byte_is_the_sum_over_every_token_of_the_text(self, run):
        config, history = run
        held_out = (VERSE * 300)[-len(VERSE) * 30 :]
        model = Llama.from_pretrained(config.out)
        tokenizer = Tokenizer.from_pretrained(config.out)
        tokens = torch.tensor(tokenizer.encode(held_out, bos=True, eos=True))
        nats, stride = 0.0, config.seq_len - 1
        with torch.no_grad():
            for start in range(0, len(tokens) - 1, stride):
                window = tokens[start : start + config.seq_len]
                nats -= model(window[None])[0, :-1].log_softmax(-1).gather(1, window[1:, None]).sum().item()
        expected = nats / math.log(2) / len(held_out.encode())
        assert history[-1].validation_bits_per_byte == pytest.approx(expected, rel=torch.finfo(torch.float32).eps * 100)

    def test_evaluating_is_without_dropout_and_leaves_the_model_as_it_was(self, run):
        config, _ = run
        model = Llama.from_pretrained(config.out).train()
        for layer in model.model.layers:
            layer.self_attn.dropout = 0.5
        tokens = torch.randint(300, (2, 16))
        with evaluation.evaluating(model):
            assert torch.equal(model(tokens), model(tokens))
            assert not model(tokens).requires_grad
        assert all(module.training for module in model.modules())
        assert not torch.equal(model(tokens), model(tokens))

    def test_evaluating_does_not_change_what_is_trained(self, run, tmp_path):
        config, _ = run
        train.train(TrainConfig(**{"data": config.data, "out": tmp_path} | SMALL | {"eval_every": 7}))
        assert weights(tmp_path) == weights(config.out)

    @pytest.mark.parametrize("change", [{"activation_checkpointing": True}, {"save_every": 7, "keep_checkpoints": 1}])
    def test_what_only_saves_memory_or_time_changes_no_bit(self, run, tmp_path, change):
        config, _ = run
        train.train(TrainConfig(**{"data": config.data, "out": tmp_path} | SMALL | change))
        assert weights(tmp_path) == weights(config.out)

    def test_bfloat16_learns_and_leaves_float32(self, run, tmp_path):
        config, history = run
        rows = train.train(TrainConfig(data=config.data, out=tmp_path, dtype="bfloat16", **SMALL))
        assert rows[-1].validation_bits_per_byte != history[-1].validation_bits_per_byte
        assert rows[-1].validation_bits_per_byte < 1.1 * history[-1].validation_bits_per_byte
        assert {w.dtype for w in load_file(tmp_path / "model.safetensors").values()} == {torch.float32}

    def test_fine_tuning_starts_from_the_checkpoint_and_its_tokenizer(self, run, tmp_path):
        config, history = run
        again = SMALL | {"steps": 5, "warmup": 1, "learning_rate": 1e-5}
        rows = train.train(TrainConfig(data=config.data, out=tmp_path / "out", init_from=config.out, **again))
        assert rows[-1].validation_bits_per_byte == pytest.approx(
            history[-1].validation_bits_per_byte, rel=torch.finfo(torch.bfloat16).eps * 2
        )
        assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (config.out / "tokenizer.json").read_bytes()
        assert Llama.from_pretrained(tmp_path / "out").config == Llama.from_pretrained(config.out).config


@pytest.mark.parametrize("form", ["jinja", "text", "list"])
def test_fine_tuning_keeps_what_came_with_the_tokenizer(run, tmp_path, form):
    """The chat template above all, in a corpus that was there already too; then --chat works on what is left."""
    template = "{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}"
    start, out = tmp_path / "start", tmp_path / "out"
    shutil.copytree(run[0].out, start, ignore=shutil.ignore_patterns("tokens", "checkpoints"))
    settings = {"steps": 1, "warmup": 1} | {k: v for k, v in SMALL.items() if k not in ("steps", "warmup")}
    given = {"data": run[0].data, "tokens_dir": tmp_path / "tokens", "init_from": start} | settings
    train.train(TrainConfig(out=tmp_path / "without", **given))
    (start / "special_tokens_map.json").write_text('{"eos_token": "</s>"}')
    if form == "jinja":
        (start / "chat_template.jinja").write_text(template)
        (start / "additional_chat_templates").mkdir()
        (start / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    else:
        path = start / "tokenizer_config.json"
        named = template if form == "text" else [{"name": "default", "template": template}]
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": named}))
    theirs = transformers.AutoTokenizer.from_pretrained(start)
    train.train(TrainConfig(out=out, **given))
    for left in (out, *(out / "checkpoints").iterdir()):
        assert transformers.AutoTokenizer.from_pretrained(left).chat_template == theirs.chat_template
        assert (left / "special_tokens_map.json").read_bytes() == (start / "special_tokens_map.json").read_bytes()
        chat = ChatTemplate.from_pretrained(left, Tokenizer.from_pretrained(left))
        assert chat.render([{"role": "user", "content": "x"}]) == "<s>x</s>"


def test_what_is_compiled_computes_short_sequences_by_the_formula(run, monkeypatch):
    model = Llama.from_pretrained(run[0].out)
    attentions = [layer.self_attn for layer in model.model.layers]
    compiled = objective.Objective(model, compiled=True, short=8)
    monkeypatch.setattr(compiled, "_compiled", lambda *_: [attention.sdpa for attention in attentions])
    for attention in attentions:
        attention.sdpa = True
    assert [compiled(torch.zeros(1, T, dtype=torch.long), T) for T in (8, 9)] == [[False, False], [True, True]]
    assert [attention.sdpa for attention in attentions] == [True, True], "evaluation finds the model as it was"


KEPT = """
import resource, torch
from llama_scratch.training.memory import keep_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
anew = min(faults() for _ in range(6))
keep_memory()
print(anew, min(faults() for _ in range(6)))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_memory_that_a_step_frees_is_kept_for_the_next():
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True)
    anew, kept = map(int, done.stdout.split())
    assert anew > 1000 > kept, done.stdout


@pytest.mark.skipif(not speed.can_compile("cpu"), reason="needs a C++ compiler, and there is none")
@pytest.mark.skipif(not is_thorough(), reason="compiles for 15 s: make test-thorough")
def test_compiled_it_learns_the_same(run, tmp_path):
    """In a process of its own: a compiler cannot see through the checks of shapes that tests run with."""
    config, history = run
    settings = SMALL | {"data": config.data[0], "compile": "on"}
    done = command(*flags(settings), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ", compiled;" in done.stdout
    rows = metrics.read_log(tmp_path / "out" / "log.jsonl", SMALL["steps"])
    assert weights(tmp_path / "out") != weights(config.out)
    assert rows[0].loss == pytest.approx(history[0].loss, rel=torch.finfo(torch.float16).eps)
    assert rows[-1].validation_bits_per_byte < 1.1 * history[-1].validation_bits_per_byte


class TestParts:
    def test_norms_and_biases_are_not_decayed_and_a_tied_tensor_is_updated_once(self, run):
        config, _ = run
        model = Llama.from_pretrained(config.out)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        (adamw,) = optimizer.make_optimizers(model, "adamw", 0.1)
        decayed, plain = adamw.param_groups
        assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
        assert all("norm" in names[id(p)] for p in plain["params"])
        assert not any("norm" in names[id(p)] for p in decayed["params"])
        assert len(decayed["params"]) + len(plain["params"]) == len(names)

    def test_muon_moves_the_matrices_of_the_layers_and_adamw_all_the_rest(self, run):
        config, _ = run
        model = Llama.from_pretrained(config.out)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        found = [
            [names[id(p)] for group in each.param_groups for p in group["params"]]
            for each in optimizer.make_optimizers(model, "muon", 0.1)
        ]
        muon, adamw = found
        assert sorted(muon + adamw) == sorted(names.values())
        assert {name.split(".")[-2] for name in muon} == {f"{part}_proj" for part in "q k v o gate up down".split()}
        assert [name for name in adamw if "norm" not in name] == ["model.embed_tokens.weight"]

    def test_the_learning_rate_rises_then_falls_to_a_tenth(self):
        rates = [optimizer.learning_rate(step, 1.0, warmup=10, steps=110) for step in range(110)]
        assert rates[0] == pytest.approx(0.1)
        assert rates[9] == 1.0
        assert rates[59] == pytest.approx(0.55)
        assert rates[109] == pytest.approx(0.1)
        assert rates[:10] == sorted(rates[:10])
        assert rates[10:] == sorted(rates[10:], reverse=True)

    def test_the_default_is_the_tiny_preset(self):
        assert TrainConfig() == TrainConfig(**presets.settings("tiny"))

    @pytest.mark.parametrize(("preset", "millions"), [("tiny", (0.5, 1)), ("small", (8, 12)), ("base", (90, 120))])
    def test_a_preset_is_as_large_as_it_says(self, preset, millions):
        config = TrainConfig(**presets.settings(preset))
        tokenizer = type("Sizes", (), {"vocab_size": config.vocab_size, "bos_id": 1, "eos_id": 2})
        with torch.device("meta"):
            model = Llama(setup.model_config(config, tokenizer))
        assert millions[0] < sum(p.numel() for p in model.parameters()) / 1e6 < millions[1]

    def test_a_flag_overrides_the_preset(self):
        config = train.read_command_line(["--preset", "small", "--layers", "3", "--activation-checkpointing"])
        assert config == TrainConfig(**presets.settings("small") | {"layers": 3, "activation_checkpointing": True})

    def test_operations_are_counted_as_torch_counts_them(self, run):
        """All products of a forward and backward pass; attention in full, of which a causal mask needs half."""
        from torch.utils.flop_counter import FlopCounterMode

        config, _ = run
        model, context = Llama.from_pretrained(config.out), 16
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, context, dtype=torch.long)).sum().backward()
        attention = 3 * 2 * model.config.num_hidden_layers * context * config.hidden_size
        assert counter.get_total_flops() / context == speed.flops_per_token(model, context) + attention

    def test_tensorboard_gets_the_numbers_of_every_row_where_it_is_installed(self, run, tmp_path, monkeypatch):
        found = []

        class SummaryWriter:
            def __init__(self, directory, purge_step):
                assert (directory, purge_step) == (str(tmp_path / "tensorboard"), None)

            def add_scalar(self, name, value, step):
                found.append((name, value, step))

            def close(self):
                found.append("closed")

        fake = types.SimpleNamespace(SummaryWriter=SummaryWriter)
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
        monkeypatch.setattr(metrics, "is_installed", lambda name: name == "tensorboard")
        config, _ = run
        history = train.train(TrainConfig(data=config.data, out=tmp_path, **SMALL))
        numbers = [(n, v, row.step) for row in history for n, v in row.to_json().items() if not isinstance(v, str)]
        assert found == [*numbers, "closed"]

    def test_a_log_that_was_cut_short_is_read_up_to_there(self, tmp_path):
        rows = [metrics.Metrics(step, 2.0, 3.0, 0.1, 1.0, 1000, 0.5, step / 10) for step in (10, 20, 30)]
        lines = "\n".join(json.dumps(row.to_json()) for row in rows)
        (tmp_path / "log.jsonl").write_text(lines + '\n{"st')
        assert metrics.read_log(tmp_path / "log.jsonl", 20) == rows[:2]


class TestBadInput:
    @pytest.mark.parametrize(
        ("settings", "error", "message"),
        [
            ({"steps": 0}, ConfigError, "--steps is 0, expected 1 or more"),
            ({"keep_checkpoints": 0}, ConfigError, "--keep-checkpoints is 0, expected 1 or more"),
            ({"seed": -1}, ConfigError, "--seed is -1, expected 0 or more"),
            ({"seq_len": 1}, ConfigError, "--seq-len is 1, expected 2 or more"),
            ({"val_fraction": 1.0}, ConfigError, "--val-fraction is 1.0, expected a fraction"),
            ({"learning_rate": 0.0}, ConfigError, "--learning-rate is 0.0"),
            ({"heads": 3}, ConfigError, "--heads is 3, expected an even number"),
            (
                {"grad_accum_steps": 3},
                ConfigError,
                "--batch-size is 4, expected a multiple of 3: processes × --grad-accum-steps",
            ),
            ({"resume": True}, ConfigError, "--resume: no run was started in"),
            ({"vocab_size": 100_000}, TokenizerError, "--vocab-size is 100000, expected at most"),
            ({"seq_len": 4000}, data.DataError, "tokens of training text are fewer than --seq-len 4000"),
        ],
    )
    def test_what_cannot_be_is_refused_before_anything_is_written(self, text, tmp_path, settings, error, message):
        with pytest.raises(error, match=message):
            train.train(TrainConfig(**{"data": (text,), "out": tmp_path / "out"} | SMALL | settings))
        assert not (tmp_path / "out").exists()

    def test_sizes_that_make_no_llama_are_refused(self, text, tmp_path):
        with pytest.raises(ConfigError, match="hidden_size is 50, expected a multiple of num_attention_heads = 4"):
            train.train(TrainConfig(**{"data": (text,), "out": tmp_path / "out"} | SMALL | {"hidden_size": 50}))

    def test_a_longer_context_than_the_checkpoint_has_is_refused(self, run, tmp_path):
        config, _ = run
        settings = {"data": config.data, "out": tmp_path, "init_from": config.out} | SMALL | {"seq_len": 64}
        with pytest.raises(ConfigError, match="--seq-len is 64, expected at most the 32 tokens of"):
            train.train(TrainConfig(**settings))

    def test_a_loss_that_is_no_number_ends_the_run_and_its_batch_is_kept(self, text, tmp_path, monkeypatch):
        draw = train.random_sequences
        seen = []

        def poisoned(*arguments):
            seen.append(draw(*arguments))
            return seen[-1]

        loss = objective.next_token_loss
        monkeypatch.setattr(train, "random_sequences", poisoned)
        monkeypatch.setattr(objective, "next_token_loss", lambda *a: loss(*a) * (math.nan if len(seen) == 28 else 1))
        with pytest.raises(TrainingError, match=r"step 28 has loss nan .*batch-28.safetensors.*--learning-rate"):
            train.train(TrainConfig(data=(text,), out=tmp_path, **(SMALL | {"save_every": 27})))
        assert torch.equal(load_file(tmp_path / "batch-28.safetensors")["tokens"], seen[-1])
        assert list(checkpoints.saved_steps(tmp_path)) == [27]


@pytest.mark.processes
class TestTheCommandLine:
    def test_it_shows_progress_a_sample_and_a_summary(self, text, tmp_path):
        done = command("--data", str(text), *flags(SMALL), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        for word in ("step 60/60", "loss", "bits/byte", "tokens/s", "of peak", "left"):
            assert word in done.stderr
        for word in (
            "preset tiny",
            "GFLOP/s",
            "validation",
            "frequencies of single bytes",
            "xz -9",
            "the fastest product of two square matrices",
            "% of peak",
            "saved",
            "AutoModel",
        ):
            assert word in done.stdout
        told = next(row for row in done.stdout.splitlines() if row.startswith("try it")).removeprefix("try it")
        line = ["bash", "-c", f"{told} --max-new-tokens 3"]  # as printed, in the folder of the run
        assert subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=120).returncode == 0
        numbers = json.loads(done.stdout.splitlines()[-1])
        assert numbers["step"] == 60
        assert numbers["validation_bits_per_byte"] < 3
        assert Llama.from_pretrained(tmp_path / "out")

    @pytest.mark.parametrize("wanted", [False, True])
    def test_at_a_terminal_the_result_is_for_a_person_and_json_only_where_it_is_asked_for(self, text, tmp_path, wanted):
        settings = SMALL | {"steps": 2, "warmup": 1}
        line = [sys.executable, "-m", "llama_scratch.train", "--data", str(text), *flags(settings)]
        terminal, end = os.openpty()
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with subprocess.Popen(line + ["--json"] * wanted, cwd=tmp_path, stdout=end, stderr=subprocess.DEVNULL,
                              env=environment) as process:  # fmt: skip
            os.close(end)
            shown = b""
            while True:
                try:
                    shown += os.read(terminal, 1 << 16)
                except OSError:  # nobody writes to it any more
                    break
        os.close(terminal)
        assert process.returncode == 0
        lines = shown.decode().splitlines()
        assert any(line.startswith("validation") for line in lines)
        found = [json.loads(line) for line in lines if line.startswith("{")]
        assert [row["step"] for row in found] == [2] * wanted

    @pytest.mark.parametrize("options", [TrainConfig, data.CorpusConfig, data_command.Options])
    def test_every_flag_is_explained_by_a_sentence(self, options):
        """What --help prints is the text below a field."""
        body = ast.parse(textwrap.dedent(inspect.getsource(options))).body[0].body
        fields = [(i, node.target.id) for i, node in enumerate(body) if isinstance(node, ast.AnnAssign)]
        assert fields
        for i, name in fields:
            below = body[i + 1]
            assert isinstance(below, ast.Expr), name
            sentence = below.value.value
            assert sentence[0].isupper() or sentence.startswith("muon: "), name
            assert len(sentence.split()) >= 2, name
            assert not sentence.startswith(("Of ", "That ", "What ", "None:")), name

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--data", "absent.txt"], "error: absent.txt cannot be read: No such file or directory"),
            (["--steps", "-1"], "--steps is -1, expected 1 or more"),
            (["--device", "abacus"], "--device is 'abacus', expected a device"),
            (["--stepps", "3"], "--stepps"),
            (["--preset", "huge"], "--preset"),
            (["--resume"], "error: --resume: no run was started in out"),
        ],
    )
    def test_it_says_what_is_wrong(self, arguments, message, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["train", *arguments])
        with pytest.raises(SystemExit) as ended:
            train.main()
        assert ended.value.code not in (0, None)
        assert message in f"{ended.value.code}" + capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    def test_an_error_is_one_line(self, tmp_path):
        done = command("--data", "absent.txt", cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr == "error: absent.txt cannot be read: No such file or directory\n"
