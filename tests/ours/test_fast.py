"""fast/ computes what the textbook model computes: within budget of the formula, and the same text."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.decoders import ends_in_a_tie
from llama_reference.standard import budget
from llama_reference.standard.cases import Case
from llama_scratch import Llama, Tokenizer, fast, generate
from llama_scratch.checkpoint import config_file
from llama_scratch.fast import FastLlama, compiled, llama
from llama_scratch.fast.compiled import StepKey
from llama_scratch.fast.pages import use_large_pages
from tests.profiles import is_thorough

pytestmark = pytest.mark.skipif(not fast.has_cpp_compiler(), reason="needs g++ or clang++")
# A compilation takes half a minute. One step, of float32 and one text, is compiled in every run of pytest.
another_compilation = pytest.mark.processes

PROMPT, STEPS = 5, 12


@pytest.fixture(autouse=True)
def keys(monkeypatch, request) -> set[StepKey]:
    """What the test decodes with. Compiled steps are kept from run to run beside pytest's own notes."""
    used = set()

    def noted(key: StepKey):
        used.add(key)
        return compiled.load(key)

    monkeypatch.setenv(compiled.CACHE_DIR_VARIABLE, str(request.config.cache.mkdir("steps")))
    monkeypatch.setattr(llama, "load", noted)
    return used


def textbook(dtype: torch.dtype, **fields) -> Llama:
    """The hard model: biases, R = 3, head_dim of its own, llama3 frequencies, loud weights."""
    case = Case()
    model = Llama(dataclasses.replace(config_file.from_dict(case.config), **fields))
    model.load_state_dict(case.state)
    return model.to(dtype).eval().requires_grad_(False)


def step_by_step(model: FastLlama, tokens: torch.Tensor, room: int, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Logits of every position: the first PROMPT at once, then one by one."""
    cache, parts = model.new_cache(len(tokens), room), []
    for start, end in [(0, PROMPT), *((t, t + 1) for t in range(PROMPT, tokens.shape[1]))]:
        parts.append(model(tokens[:, start:end], cache, None if mask is None else mask[:, :end]))
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=another_compilation)], ids=str)
def test_logits_are_within_budget_of_the_formula(dtype, keys):
    tokens = Case().tokens[:1, : PROMPT + STEPS]
    model = textbook(dtype)
    found = step_by_step(FastLlama(model), tokens, 24)
    assert len(keys) == 1, "one compilation, however the text grows"
    with torch.no_grad():
        theirs = model(tokens)
        exact = textbook(dtype).double()(tokens)
    single = slice(PROMPT, None)
    verdict = budget.judge("fast", found[:, single], theirs[:, single], exact[:, single], dtype)
    assert verdict.within, verdict
    assert not verdict.bitwise, "the compiled step was not used"


def test_a_cache_of_another_length_needs_no_other_compilation(keys):
    model = FastLlama(textbook(torch.float32))
    tokens = Case().tokens[:1, : PROMPT + 3]
    assert torch.equal(step_by_step(model, tokens, 200), step_by_step(model, tokens, 24))
    assert len(keys) == 1


def padded(tokens: torch.Tensor) -> torch.Tensor:
    """An attention_mask with one padding token more in every row than in the one before."""
    B, T = tokens.shape
    return (torch.arange(T) >= torch.arange(B)[:, None]).long()


@torch.no_grad()
def exactly(dtype: torch.dtype, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Logits in float64 with the weights of the dtype, each row without its padding."""
    model, rows = textbook(dtype).double(), []
    for row, real in zip(tokens, mask.sum(-1).tolist(), strict=True):
        logits = model(row[None, -real:])[0]
        rows.append(torch.cat((logits.new_zeros(len(row) - real, logits.shape[1]), logits)))
    return torch.stack(rows)


@another_compilation
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_batches_of_any_size_and_padding_are_within_budget(dtype, keys):
    tokens = Case().tokens[:, : PROMPT + STEPS].repeat(2, 1)  # rows that differ by their padding alone
    model, mask = textbook(dtype), padded(tokens)
    theirs = model(tokens, None, mask).detach()
    exact = exactly(dtype, tokens, mask)
    compared = (mask == 1) & (torch.arange(tokens.shape[1]) >= PROMPT)  # real, and asked one by one
    for rows in (slice(None), slice(1, 3)):
        found = step_by_step(FastLlama(model), tokens[rows], 24, mask[rows])[compared[rows]]
        verdict = budget.judge("fast", found, theirs[rows][compared[rows]], exact[rows][compared[rows]], dtype)
        assert verdict.within, verdict
        assert not verdict.bitwise, "the compiled step was not used"
    assert len(keys) == 1, "another batch, compiled again"


def test_a_prompt_in_chunks_is_the_whole_prompt():
    model = FastLlama(textbook(torch.float32), chunk=3)
    tokens = Case().tokens[:, : PROMPT + 3]
    for mask in (torch.ones_like(tokens), padded(tokens)):
        given, real = None if mask.all() else mask, mask == 1
        theirs = model.model(tokens, None, mask).detach()
        exact = exactly(torch.float32, tokens, mask)
        found = model(tokens, model.new_cache(len(tokens), 9), given)
        assert budget.judge("chunks", found[real], theirs[real], exact[real], torch.float32).within
        last = model(tokens, model.new_cache(len(tokens), 9), given, last_only=True)
        assert budget.judge("last", last, theirs[:, -1:], exact[:, -1:], torch.float32).within
    assert not any(layer.self_attn.sdpa for layer in model.model.model.layers), "the model itself is as it was"


@another_compilation
def test_rows_that_change_places_are_decoded_on():
    model = FastLlama(textbook(torch.float32))
    tokens = Case().tokens[:, : PROMPT + 2]
    mask = torch.ones_like(tokens).repeat(2, 1)  # a step without padding would be compiled once more
    rows = torch.arange(len(tokens)).flip(0).repeat(2)  # and each of them twice

    def go_on(tokens: torch.Tensor, turned: bool) -> torch.Tensor:
        cache = model.new_cache(len(tokens), 9)
        model(tokens[:, :PROMPT], cache)
        if turned:
            cache.reorder(rows)
            tokens = tokens[rows]
        steps = (PROMPT, PROMPT + 1)
        return torch.cat([model(tokens[:, t : t + 1], cache, mask[: len(tokens), : t + 1]) for t in steps], 1)

    exact = exactly(torch.float32, tokens, torch.ones_like(tokens))[rows, PROMPT:]
    found = [go_on(tokens, turned) for turned in (True, False)]
    assert budget.judge("reordered", found[0], found[1][rows], exact, torch.float32).within


@pytest.mark.parametrize("new", [1, 3])
def test_a_mask_of_another_shape_is_refused(new):
    model = FastLlama(textbook(torch.float32))
    tokens = Case().tokens[:1, : PROMPT + new]
    cache = model.new_cache(1, 24)
    model(tokens[:, :PROMPT], cache)
    with pytest.raises(ValueError, match="attention_mask is \\(1, 4\\), expected \\(1, "):
        model(tokens[:, PROMPT:], cache, torch.ones(1, 4, dtype=torch.long), last_only=True)


def test_no_graph_is_made_of_a_model_that_may_be_trained():
    model = FastLlama(textbook(torch.float32).requires_grad_(True))
    tokens = Case().tokens[:1, : PROMPT + 1]
    cache = model.new_cache(1, 9)
    answers = model(tokens[:, :PROMPT], cache), model(tokens[:, PROMPT:], cache), model(tokens)
    assert not any(logits.requires_grad for logits in answers)


def test_one_token_may_be_the_whole_prompt():
    model = textbook(torch.float32)
    tokens = Case().tokens[:1, :1]
    assert torch.equal(generate(model, tokens, 4, stop_ids=[], fast=True), generate(model, tokens, 4, stop_ids=[]))


def test_it_compiles_where_that_is_expected_to_pay(monkeypatch, tmp_path):
    model = textbook(torch.float32)
    with monkeypatch.context() as nothing_kept:
        nothing_kept.setenv(compiled.CACHE_DIR_VARIABLE, str(tmp_path))
        nothing_kept.setattr(llama, "load", lambda key: key)
        needed = llama.break_even_tokens(model)
        assert needed > 1000, "a tiny model is decoded sooner than compiled"
        choice = [type(fast.choose_decoder(model, None, n, 1, padded=False)) for n in (needed - 1, needed)]
        assert choice == [Llama, FastLlama]
    FastLlama(model).compiled(several=False, padded=False)
    assert llama.break_even_tokens(model) == 1, "what is compiled already costs nothing"
    assert type(fast.choose_decoder(model, False, 9999, 1, padded=False)) is Llama


def test_what_is_compiled_is_kept_for_later_processes(monkeypatch):
    model = textbook(torch.float32)
    tokens = Case().tokens[:1, :PROMPT]
    first = generate(model, tokens, 3, stop_ids=[], fast=True)
    compiled.load.cache_clear()  # as a new process
    monkeypatch.setattr(compiled, "_make", None)
    assert torch.equal(generate(model, tokens, 3, stop_ids=[], fast=True), first)


def test_what_is_kept_is_for_this_torch_and_this_number_of_threads(monkeypatch):
    config = textbook(torch.float32).config

    def path():
        return compiled.step_key(config, torch.float32, several=False, padded=False).path

    here = path()
    with monkeypatch.context() as other:
        other.setattr(torch, "__version__", "2.99")
        assert path() != here
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    assert path() != here


@pytest.mark.parametrize("trouble", ["the compiler fails", "nothing can be kept"])
def test_where_compiling_fails_it_says_so_and_goes_on(trouble, monkeypatch, caplog, tmp_path):
    model = textbook(torch.float32)
    tokens = Case().tokens[:1, :PROMPT]
    compiled.load.cache_clear()
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho 'no header, no kernel' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(compiler))
    home = tmp_path / "steps" if trouble == "the compiler fails" else compiler / "below a file"
    monkeypatch.setenv(compiled.CACHE_DIR_VARIABLE, str(home))
    assert torch.equal(generate(model, tokens, 4, fast=True), generate(model, tokens, 4, fast=False))
    expected = "no header, no kernel" if trouble == "the compiler fails" else str(compiler)
    assert expected in next(r.getMessage() for r in caplog.records if r.levelname == "WARNING")
    assert not home.exists() or not [*home.iterdir()], "nothing half made"


def test_a_kept_file_that_is_no_step_is_named_and_decoding_goes_on(monkeypatch, caplog, tmp_path):
    model = textbook(torch.float32)
    tokens = Case().tokens[:1, :PROMPT]
    compiled.load.cache_clear()
    monkeypatch.setenv(compiled.CACHE_DIR_VARIABLE, str(tmp_path))
    broken = compiled.step_key(model.config, torch.float32, several=False, padded=False).path
    broken.write_bytes(b"")
    assert torch.equal(generate(model, tokens, 4, fast=True), generate(model, tokens, 4, fast=False))
    assert f"{broken} is not a valid compiled step; delete it" in caplog.records[-1].getMessage()


ANOTHER_PROCESS = """
from tests.ours.test_fast import *
generate(textbook(torch.float32), Case().tokens[:1, :PROMPT], 3, stop_ids=[], fast=True)
import sys
assert "torch._inductor" not in sys.modules, "the compiler is in memory"
"""


@pytest.mark.processes
def test_a_process_that_decodes_leaves_no_files(request, tmp_path):
    FastLlama(textbook(torch.float32)).compiled(several=False, padded=False)
    surroundings = {"TMPDIR": str(tmp_path), compiled.CACHE_DIR_VARIABLE: str(request.config.cache.mkdir("steps"))}
    surroundings["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # or the key is another
    subprocess.run([sys.executable, "-c", ANOTHER_PROCESS], env=os.environ | surroundings, check=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")


def in_large_pages() -> int:
    """Bytes of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("AnonHugePages")) * 1024


@pytest.mark.skipif(not LARGE_PAGES.exists(), reason="needs Linux with transparent huge pages")
def test_weights_side_by_side_move_into_large_pages_and_stay_what_they_are():
    memory = torch.arange(2**23, dtype=torch.int32)  # 32 MB, of which each row is no page of 2 MB
    address, before = memory.data_ptr(), in_large_pages()
    use_large_pages(memory.view(64, -1))
    assert in_large_pages() - before >= 2**24
    assert memory.data_ptr() == address
    assert torch.equal(memory, torch.arange(2**23, dtype=torch.int32))


def test_a_full_cache_is_refused():
    model = FastLlama(textbook(torch.float32))
    tokens = Case().tokens[:1, : PROMPT + 1]
    with pytest.raises(ValueError, match="5 cached \\+ 1 new positions exceed the cache's max_length 5"):
        step_by_step(model, tokens, PROMPT)


def test_without_a_compiler_it_says_so_and_goes_on(monkeypatch, caplog):
    monkeypatch.setattr(compiled.shutil, "which", lambda _name: None)
    model = textbook(torch.float32)
    tokens = Case().tokens[:1, :PROMPT]
    assert torch.equal(generate(model, tokens, 4, fast=True), generate(model, tokens, 4, fast=False))
    assert [r.getMessage() for r in caplog.records] == ["decoding without compiling: there is no g++ or clang++"]


@pytest.mark.parametrize("other", [torch.float64, "meta"], ids=str)
def test_elsewhere_the_textbook_decodes_and_says_so(other, caplog):
    model = textbook(torch.float32).to(other)
    assert fast.choose_decoder(model, True, 9999, 1, padded=False) is model
    assert caplog.records[-1].getMessage().startswith("decoding without compiling: torch.float")


@another_compilation
def test_a_trained_model_tells_the_same_stories(shared):
    """200 of them, as a batch; in the thorough profile, which compiles once more, as one text each, too. Where they
    part, the two tokens were as good as tied.
    """
    model = Llama.from_pretrained(shared / "stories260K").requires_grad_(False)
    tokenizer = Tokenizer.from_pretrained(shared / "stories260K")
    lines = [line for line in (shared / "tinyshakespeare.txt").read_text().splitlines() if len(line) > 20][:200]
    prompts = torch.tensor([tokenizer.encode(line, bos=True)[:8] for line in lines])
    slow = generate(model, prompts, 40, stop_ids=[], fast=False)
    quick = [generate(model, prompts, 40, stop_ids=[], fast=True)]
    if is_thorough():
        quick.append(torch.cat([generate(model, prompt[None], 40, stop_ids=[], fast=True) for prompt in prompts]))
    for found in quick:
        ties = sum(ends_in_a_tie(model, *rows, "fast") for rows in zip(slow, found, strict=True))
        assert ties <= 2, f"{ties} of {len(found)} texts end in a tie"
