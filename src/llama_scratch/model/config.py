"""LlamaConfig: every size and switch of a Llama, named as in Hugging Face's `config.json`.

THE LETTERS, in shapes, formulas and documentation throughout:

    B  batch                              D  hidden_size               H  head_dim
    T  positions in this call             N  num_attention_heads       F  intermediate_size
    S  positions attended to              G  num_key_value_heads       V  vocab_size
       (cached ones and this call's)      R  N / G, queries per group  L  num_hidden_layers
"""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from jaxtyping import Bool, Float, Int
from torch import Tensor

from llama_scratch.model import config_rules as rules

Tokens = Int[Tensor, "B T"]
Hidden = Float[Tensor, "B T D"]
Logits = Float[Tensor, "B T_or_1 V"]  # of every token, or of the last one only
Queries = Float[Tensor, "B N T H"]
Keys = Float[Tensor, "B G S H"]  # and values
Positions = Int[Tensor, "#B T"]  # a # axis may be 1, for all rows alike
Rotation = Float[Tensor, "2 #B T H"]  # cosine and sine of every angle
Mask = Bool[Tensor, "#B 1 T S"]  # True where a query may look
Padding = Int[Tensor, "B S"]  # 1 for a real token, 0 for padding


@dataclass
class LlamaConfig:
    """Fields and defaults of transformers' LlamaConfig (5.23). Raises ConfigError on a bad value.

    Once it is built, only fields outside the architecture can be assigned: rules.ASSIGNABLE.
    """

    model_type: ClassVar[str] = "llama"  # peft chooses by it which weights to adapt
    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = None  # type: ignore[assignment]  # None: num_attention_heads
    head_dim: int = None  # type: ignore[assignment]  # None: hidden_size // num_attention_heads
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    rope_parameters: dict[str, Any] = None  # type: ignore[assignment]  # None: theta 10000
    attention_bias: bool = False
    attention_dropout: float = 0.0
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    use_cache: bool = True  # kept for config.json; ignored here, pass a KVCache instead
    pretraining_tp: int | None = 1  # kept for config.json; ignored, as transformers does
    dtype: str | None = None

    def __post_init__(self) -> None:
        N, D = self.num_attention_heads, self.hidden_size
        rules.check_heads(N, self.num_key_value_heads, D)
        defaults: dict[str, Any] = {"num_key_value_heads": N, "head_dim": D // N}
        defaults |= {"attention_dropout": 0.0, "rope_parameters": {}}
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        rules.check_fields(vars(self))
        longest = self.max_position_embeddings
        rope = rules.rope_parameters(self.rope_parameters, self.head_dim, longest)
        object.__setattr__(self, "rope_parameters", rope)

    def __setattr__(self, name: str, value: Any) -> None:
        initialising = name in self.__dataclass_fields__ and name not in vars(self)
        if not initialising:
            rules.check_assignment(vars(self), name, value)
        object.__setattr__(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """Return every field and model_type, where other programs look for them."""
        return {"model_type": self.model_type} | asdict(self)
