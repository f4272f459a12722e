"""CLAP's text tower: RoBERTa, a post-norm transformer encoder over tokens.

Paper: Liu et al. 2019, RoBERTa (1907.11692); as used by CLAP, Wu et al. 2022 (2211.06687).

token_ids (batch, tokens) int64; mask (batch, tokens) bool, True = keep; hidden states (batch, tokens, width).
"""

import dataclasses
from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.errors import UserError, check_bounds

ACTIVATIONS = {
    "gelu": nn.GELU,
    "gelu_new": partial(nn.GELU, approximate="tanh"),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}
"""Feed-forward activations by the names Hugging Face configurations use."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClapTextConfig:
    """Shape of the text tower; the defaults are RoBERTa base, 125 M parameters with its vocabulary of 50,265."""

    vocab_size: int = 50265
    """Number of token ids."""
    width: int = 768
    """Width of the hidden states."""
    num_layers: int = 12
    """Number of transformer layers."""
    num_heads: int = 12
    """Number of attention heads; must divide the width."""
    feed_forward_width: int = 3072
    """Inner width of the feed-forward layers."""
    num_positions: int = 514
    """Rows of the position table; positions start at pad_id + 1, so num_positions - pad_id - 1 tokens fit."""
    pad_id: int = 1
    """Token id of padding."""
    activation: str = "gelu"
    """Activation of the feed-forward layers."""
    norm_eps: float = 1e-12
    """Epsilon of the layer norms."""
    dropout: float = 0.1
    """Dropout of embeddings, attention and layer outputs in training."""

    def __post_init__(self) -> None:
        check_bounds("num_layers", self.num_layers, 1, 1000)
        check_bounds("num_heads", self.num_heads, 1, 10_000)
        if self.width % self.num_heads:
            raise UserError(f"num_heads must divide width, got width {self.width} and num_heads {self.num_heads}")
        if self.activation not in ACTIVATIONS:
            raise UserError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")
        if self.num_layers < 2:
            raise UserError(f"num_layers must be at least 2 (next-to-last layer is used), got {self.num_layers}")

    @property
    def max_tokens(self) -> int:
        """Longest sequence the position table holds, start and end tokens included."""
        return self.num_positions - self.pad_id - 1


class SelfAttention(nn.Module):
    """Multi-head self-attention in which masked tokens are never attended to."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        qkv = rearrange(self.query_key_value(x), "b t (k h d) -> k b h t d", k=3, h=self.num_heads)
        query, key, value = qkv.unbind(0)  # each (batch, heads, tokens, head width)
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :], dropout_p=dropout)
        return self.output(rearrange(x, "b h t d -> b t (h d)"))


class TransformerLayer(nn.Module):
    """Post-norm layer: x = norm(x + attention(x)), x = norm(x + feed_forward(x))."""

    def __init__(self, config: ClapTextConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config.width, config.num_heads, config.dropout)
        self.attention_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.feed_forward = nn.Sequential(
            nn.Linear(config.width, config.feed_forward_width),
            ACTIVATIONS[config.activation](),
            nn.Linear(config.feed_forward_width, config.width),
        )
        self.feed_forward_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention_norm(x + self.dropout(self.attention(x, mask)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))


class ClapTextTower(nn.Module):
    """RoBERTa encoder; every hidden state is returned, the contrastive embedding pools the first token."""

    def __init__(self, config: ClapTextConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Embedding(config.num_positions, config.width)
        self.embedding_norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_layers))
        self.pooler = nn.Linear(config.width, config.width)
        self.apply(_initialise)

    def forward(self, token_ids: Tensor, mask: Tensor) -> list[Tensor]:
        """Return num_layers + 1 hidden states (batch, tokens, width), the embedding's first.

        Positions count the tokens that are not padding, so left and right padding give the same embeddings.
        Raises: ValueError when there are more tokens than positions.
        """
        if token_ids.shape[1] > self.config.max_tokens:
            raise ValueError(f"got {token_ids.shape[1]} tokens, the text tower holds {self.config.max_tokens}")
        is_token = token_ids != self.config.pad_id  # (batch, tokens)
        positions = is_token.cumsum(dim=1) * is_token + self.config.pad_id
        x = self.dropout(self.embedding_norm(self.tokens(token_ids) + self.positions(positions)))
        hidden_states = [x]
        for layer in self.layers:
            x = layer(x, mask)
            hidden_states.append(x)
        return hidden_states

    def pool(self, last_hidden_state: Tensor) -> Tensor:
        """Sentence vector (batch, width) from the first token of the last layer, which must not be padding."""
        return torch.tanh(self.pooler(last_hidden_state[:, 0]))


def _initialise(module: nn.Module) -> None:
    """Normal weights of std 0.02, zero biases (BERT's initialisation)."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def text_config_from_huggingface(config: Mapping) -> ClapTextConfig:
    """Translate the config.json of a ClapTextModel or RobertaModel."""
    return ClapTextConfig(
        vocab_size=config["vocab_size"],
        width=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        feed_forward_width=config["intermediate_size"],
        num_positions=config["max_position_embeddings"],
        pad_id=config["pad_token_id"],
        activation=config["hidden_act"],
        norm_eps=config["layer_norm_eps"],
        dropout=config["hidden_dropout_prob"],
    )


_LAYER_NAMES = {
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "feed_forward.0": "intermediate.dense",
    "feed_forward.2": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}


def text_state_from_huggingface(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Translate a ClapTextModel's state dict; with prefix "text_model." that of a ClapModel.

    The one token-type vector, which every token receives, is added to the token table.
    """
    embeddings = f"{prefix}embeddings."
    ours = {
        "tokens.weight": state[embeddings + "word_embeddings.weight"]
        + state[embeddings + "token_type_embeddings.weight"][0],
        "positions.weight": state[embeddings + "position_embeddings.weight"],
    }
    for kind in ("weight", "bias"):
        ours[f"embedding_norm.{kind}"] = state[f"{embeddings}LayerNorm.{kind}"]
        ours[f"pooler.{kind}"] = state[f"{prefix}pooler.dense.{kind}"]
    num_layers = 0
    while f"{prefix}encoder.layer.{num_layers}.output.dense.weight" in state:
        num_layers += 1
    for index in range(num_layers):
        theirs = f"{prefix}encoder.layer.{index}."
        for kind in ("weight", "bias"):
            parts = [state[f"{theirs}attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
            ours[f"layers.{index}.attention.query_key_value.{kind}"] = torch.cat(parts)
            for name, source in _LAYER_NAMES.items():
                ours[f"layers.{index}.{name}.{kind}"] = state[f"{theirs}{source}.{kind}"]
    return ours
