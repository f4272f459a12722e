"""The encoder of T5: a pre-norm transformer with relative positions, RMS norms and no biases.

Paper: Raffel et al. 2020 (1910.10683), section 2.1; gated feed-forward layers: Shazeer 2020 (2002.05202).

token_ids (batch, tokens) int64; mask (batch, tokens) bool, True = keep; hidden states (batch, tokens, width).
"""

import dataclasses
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.clap_text import ACTIVATIONS
from models.errors import UserError, check_bounds


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5EncoderConfig:
    """Shape of the encoder; the defaults are t5-base, 110 M parameters."""

    vocab_size: int = 32128
    """Number of token ids."""
    width: int = 768
    """Width of the hidden states."""
    num_layers: int = 12
    """Number of transformer layers."""
    num_heads: int = 12
    """Number of attention heads."""
    head_width: int = 64
    """Width of one attention head; heads times head width need not be the model's width."""
    feed_forward_width: int = 3072
    """Inner width of the feed-forward layers."""
    num_buckets: int = 32
    """Buckets of relative positions, half of them for each direction."""
    max_distance: int = 128
    """Distance in tokens from which all positions share the last bucket."""
    pad_id: int = 0
    """Token id of padding."""
    activation: str = "relu"
    """Activation of the feed-forward layers."""
    gated: bool = False
    """Whether the activation is multiplied with a second, linear projection (T5 1.1 and Flan-T5)."""
    norm_eps: float = 1e-6
    """Epsilon of the RMS norms."""
    dropout: float = 0.1
    """Dropout in training."""

    def __post_init__(self) -> None:
        check_bounds("num_layers", self.num_layers, 1, 1000)
        check_bounds("num_heads", self.num_heads, 1, 10_000)
        if self.activation not in ACTIVATIONS:
            raise UserError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")
        if self.num_buckets < 4 or self.num_buckets % 2:
            raise UserError(f"num_buckets must be even and at least 4, got {self.num_buckets}")


def relative_position_buckets(num_tokens: int, num_buckets: int, max_distance: int, device: torch.device) -> Tensor:
    """Bucket (query, key) int64 of every pair of positions.

    Half of the buckets are for keys after the query. Of each half, half count single steps, and the others widen
    logarithmically up to `max_distance`. Source: Raffel et al. 2020, section 2.1.
    """
    position = torch.arange(num_tokens, device=device)
    offset = position[None, :] - position[:, None]  # (query, key)
    per_side = num_buckets // 2
    num_exact = per_side // 2
    distance = offset.abs()
    octaves = torch.log(distance.clamp_min(1).float() / num_exact) / math.log(max_distance / num_exact)
    widening = num_exact + (octaves * (per_side - num_exact)).long()
    bucket = torch.where(distance < num_exact, distance, widening.clamp_max(per_side - 1))
    return bucket + per_side * (offset > 0)


class SelfAttention(nn.Module):
    """Unscaled multi-head self-attention with an additive bias."""

    def __init__(self, config: T5EncoderConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.dropout = config.dropout
        inner_width = config.num_heads * config.head_width
        self.query_key_value = nn.Linear(config.width, 3 * inner_width, bias=False)
        self.output = nn.Linear(inner_width, config.width, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        qkv = rearrange(self.query_key_value(x), "b t (k h d) -> k b h t d", k=3, h=self.num_heads)
        query, key, value = qkv.unbind(0)  # each (batch, heads, tokens, head width)
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, scale=1.0)
        return self.output(rearrange(x, "b h t d -> b t (h d)"))


class FeedForward(nn.Module):
    """activation(in(x)), or activation(gate(x)) * in(x), and out."""

    def __init__(self, config: T5EncoderConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]()
        self.gate = nn.Linear(config.width, config.feed_forward_width, bias=False) if config.gated else None
        self.input = nn.Linear(config.width, config.feed_forward_width, bias=False)
        self.output = nn.Linear(config.feed_forward_width, config.width, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.activation(self.input(x)) if self.gate is None else self.activation(self.gate(x)) * self.input(x)
        return self.output(self.dropout(inner))


class TransformerLayer(nn.Module):
    """Pre-norm layer: x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: T5EncoderConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.attention = SelfAttention(config)
        self.feed_forward_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), bias))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class T5Encoder(nn.Module):
    """T5 encoder; every hidden state is returned, the last one normalised."""

    def __init__(self, config: T5EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.position_bias = nn.Embedding(config.num_buckets, config.num_heads)
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.num_layers))
        self.output_norm = nn.RMSNorm(config.width, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, token_ids: Tensor, mask: Tensor) -> list[Tensor]:
        """Return num_layers + 1 hidden states (batch, tokens, width), the embedding's first."""
        bias = self._attention_bias(mask)
        x = self.dropout(self.tokens(token_ids))
        hidden_states = [x]
        for layer in self.layers:
            x = layer(x, bias)
            hidden_states.append(x)
        hidden_states[-1] = self.dropout(self.output_norm(x))
        return hidden_states

    def _attention_bias(self, mask: Tensor) -> Tensor:
        """Position bias (batch, heads, tokens, tokens), minus infinity where a key is masked."""
        num_tokens = mask.shape[1]
        buckets = relative_position_buckets(num_tokens, self.config.num_buckets, self.config.max_distance, mask.device)
        bias = rearrange(self.position_bias(buckets), "q k h -> 1 h q k")
        return bias.masked_fill(~mask[:, None, None, :], -torch.inf)


def t5_config_from_huggingface(config: Mapping) -> T5EncoderConfig:
    """Translate the config.json of a T5Model, T5ForConditionalGeneration or T5EncoderModel."""
    projection = config.get("feed_forward_proj", "relu")
    gated, activation = projection.startswith("gated-"), projection.removeprefix("gated-")
    return T5EncoderConfig(
        vocab_size=config["vocab_size"],
        width=config["d_model"],
        num_layers=config["num_layers"],
        num_heads=config["num_heads"],
        head_width=config["d_kv"],
        feed_forward_width=config["d_ff"],
        num_buckets=config["relative_attention_num_buckets"],
        max_distance=config.get("relative_attention_max_distance", 128),
        pad_id=config.get("pad_token_id", 0),
        # T5 1.1's "gated-gelu" has always meant the tanh approximation.
        activation="gelu_new" if projection == "gated-gelu" else activation,
        gated=gated,
        norm_eps=config["layer_norm_epsilon"],
        dropout=config["dropout_rate"],
    )


def t5_state_from_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate the state dict of any T5 model; decoder weights are left out."""
    tokens = "shared.weight" if "shared.weight" in state else "encoder.embed_tokens.weight"
    ours = {
        "tokens.weight": state[tokens],
        "position_bias.weight": state["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"],
        "output_norm.weight": state["encoder.final_layer_norm.weight"],
    }
    num_layers = 0
    while f"encoder.block.{num_layers}.layer.0.SelfAttention.q.weight" in state:
        num_layers += 1
    for index in range(num_layers):
        attention, feed_forward = f"encoder.block.{index}.layer.0.", f"encoder.block.{index}.layer.1."
        layer = f"layers.{index}."
        qkv = [state[f"{attention}SelfAttention.{name}.weight"] for name in "qkv"]
        ours[f"{layer}attention.query_key_value.weight"] = torch.cat(qkv)
        ours[f"{layer}attention.output.weight"] = state[f"{attention}SelfAttention.o.weight"]
        ours[f"{layer}attention_norm.weight"] = state[f"{attention}layer_norm.weight"]
        ours[f"{layer}feed_forward_norm.weight"] = state[f"{feed_forward}layer_norm.weight"]
        dense = f"{feed_forward}DenseReluDense."
        if f"{dense}wi_0.weight" in state:
            ours[f"{layer}feed_forward.gate.weight"] = state[f"{dense}wi_0.weight"]
            ours[f"{layer}feed_forward.input.weight"] = state[f"{dense}wi_1.weight"]
        else:
            ours[f"{layer}feed_forward.input.weight"] = state[f"{dense}wi.weight"]
        ours[f"{layer}feed_forward.output.weight"] = state[f"{dense}wo.weight"]
    return ours
