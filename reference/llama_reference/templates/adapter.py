"""Fill in what your Llama has, delete what it lacks, and run

    llama-reference check path/to/your_adapter.py

What is deleted is reported "not offered". A function may also raise NotImplementedError for what your model cannot do
(a rope_type, a padding mask); the whole question that asked for it is then "not offered", so refuse as late as you can.
`handle` is whatever build returns, `cache` whatever new_cache returns; the suite never looks inside. Ask the model's
own submodules, so that the eps, theta and head_dim are judged that it was really built with. Shapes and letters:
llama_reference/implementation.py.

Where your Llama has other names or layouts of its weights, keeps its cache inside its modules, or takes one position
for all rows, llama_reference.conventions translates; then functions below can be imported from there as they stand.

Most questions use the hard model of llama_reference/standard/cases.py: biases everywhere, head_dim unlike hidden_size
/ heads, the llama3 rope_type, rows padded on the left, positions that start anywhere and go past
max_position_embeddings (to 4095).
"""

# True claims transformers' bits; without the claim answers are judged by budget: at most twice as far from the float64
# formula as transformers is, plus two units in the last place.
BITWISE = False

# What is known to be wrong: part of a test's name -> why. It must fail; when it passes, the run says so.
KNOWN_FAILURES: dict[str, str] = {}


def build(config, state, dtype):
    """Your model, in eval mode, from the fields of a config.json and tensors under their Hugging Face names.

    config has the names of transformers 5: rope_parameters holds rope_type, rope_theta and the rest; head_dim and
    num_key_value_heads are always there. With tie_word_embeddings the state has no lm_head.weight.
    """
    raise NotImplementedError


def parameters(handle):
    """Your parameters under their Hugging Face names, for gradients; a tied weight is model.embed_tokens.weight.

    Where you fuse weights (q, k, v in one), delete this, or split them by torch.nn.utils.parametrize.
    """
    raise NotImplementedError


def rms_norm(handle, where, x):
    """The norm stored as `where`.weight, for instance model.layers.0.input_layernorm."""
    raise NotImplementedError


def rotary(handle, q, k, positions):
    """Turned q (B, N, T, H) and k (B, G, T, H); positions (B, T)."""
    raise NotImplementedError


def attention(handle, layer, x, positions, mask, cache=None):
    """Self-attention alone, (B, T, D) -> (B, T, D); mask None or (B, S), 1 for real tokens; the cache moves on by T."""
    raise NotImplementedError


def swiglu(handle, layer, x):
    """The feed-forward alone, (B, T, D) -> (B, T, D)."""
    raise NotImplementedError


def block(handle, layer, x, positions, mask, cache=None):
    """A whole layer, (B, T, D) -> (B, T, D)."""
    raise NotImplementedError


def llama(handle, tokens, positions, mask, cache=None):
    """Logits (B, T, V) of tokens (B, T)."""
    raise NotImplementedError


def new_cache(handle, batch, length):
    """An empty cache for `batch` rows of `length` positions; the calls that get it change it in place."""
    raise NotImplementedError


def crop(handle, cache, length):
    """The cache with only its first `length` positions kept; 0 empties it."""
    raise NotImplementedError


def reorder(handle, cache, rows):
    """The cache with row rows[i] as row i; there may be more rows than before, or fewer."""
    raise NotImplementedError


def loss(logits, labels):
    """Mean cross entropy of predicting labels (B, T) one token ahead from logits (B, T, V); -100 is ignored."""
    raise NotImplementedError


def sampling(logits, tokens, temperature, top_k, top_p, min_p, repetition_penalty):
    """The next token's probabilities (B, V)."""
    raise NotImplementedError


def generate(handle, tokens, mask, new, use_cache, stop=()):
    """(B, T + new): greedy. A row is done with the first stop id that it adds, and the result ends with the last row;
    leave `stop` out if yours never stops.
    """
    raise NotImplementedError
