"""VoiceLDM's durator: encoded characters of a text, stretched to the frames that they take in speech.

    d_k = max(1, exp(min(3.5, durations(h)_k)))                                    frames of character k
    S_tk = t - sum_{j<k} d_j,    E_tk = sum_{j<=k} d_j - t                         place of frame t in character k
    W = softmax_k MLP([S, E, conv(h)])  (frames, characters, heads),    C = MLP([S, E, conv(h)])  (..., context)
    o_t = A (sum_k W_tk h_k) + B (sum_k W_tk C_tk)

Tensors: hidden (batch, characters, width), mask (batch, characters) bool, True = keep; output (batch, frames, width).
Frames behind the end of a shorter text hold the last projection's bias, as in training: rows that are compared under
guidance must be encoded in one batch.

Sources: Lee et al. 2024 (VoiceLDM, 2309.13664), section 3.2; Tan et al. 2022 (NaturalSpeech, 2205.04421), section 3.3
(differentiable durator); Ren et al. 2019 (FastSpeech) for the predictor of durations.
"""

import torch
from torch import Tensor, nn

MAX_LOG_DURATION = 3.5
MAX_FRAMES = 1_000

_PUBLISHED_NAMES = {
    "dp.": "durations.",
    "learnable_upsampler.": "",
    "conv_layer.0.": "conv.",
    "conv_layer.1.": "batch_norm.",
    "swish_w.layer.": "attention.",
    "swish_c.layer.": "context.",
    "conv_w.": "attention_features.",
    "conv_c.": "context_features.",
    "linear_w.": "from_hidden.",
    "linear_einsum.": "from_context.",
    "proj_o.": "output.",
    ".gamma": ".weight",
    ".beta": ".bias",
}
"""Parts of the published names, and what they are called here."""


class Durator(nn.Module):
    """Predict durations and stretch a text by them.

    Args:
        width: of the encoded characters and of the output.
        num_features: channels of the characters' features that the attention sees.
        num_heads, context_width: of the attention W and of the context C.
    """

    def __init__(self, width: int = 768, num_features: int = 8, num_heads: int = 4, context_width: int = 2):
        super().__init__()
        self.durations = DurationPredictor(width)
        self.attention_features = CharacterFeatures(width, num_features)
        self.attention = _mlp(num_features + 2, num_heads)
        self.context_features = CharacterFeatures(width, num_features)
        self.context = _mlp(num_features + 2, context_width)
        self.from_hidden = nn.Linear(num_heads * width, width)
        self.from_context = nn.Linear(num_heads * context_width, width)
        self.layer_norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, width)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        log_durations = self.durations(hidden, mask)
        durations = log_durations.clamp(max=MAX_LOG_DURATION).exp().clamp(min=1) * mask  # (batch, characters)
        num_frames = durations.sum(dim=1).round().long().clamp(max=MAX_FRAMES)  # (batch,)
        frame = torch.arange(int(num_frames.max()), device=hidden.device)
        is_speech = frame < num_frames[:, None]  # (batch, frames)
        end = durations.cumsum(dim=1)
        since = (frame[:, None] + 1) - (end - durations)[:, None]  # (batch, frames, characters)
        until = end[:, None] - (frame[:, None] + 1)
        place = torch.stack((since, until), dim=-1) * (is_speech[..., None] & mask[:, None])[..., None]
        weights = self.attention(self._with_features(place, self.attention_features(hidden)))
        weights = weights.masked_fill(~mask[:, None, :, None], -torch.inf).softmax(dim=2)
        weights = weights * is_speech[..., None, None]
        context = self.context(self._with_features(place, self.context_features(hidden)))
        stretched = self.from_hidden(torch.einsum("btkq,bkw->btqw", weights, hidden).flatten(2))
        stretched = stretched + self.from_context(torch.einsum("btkq,btkp->btqp", weights, context).flatten(2))
        return self.output(self.layer_norm(stretched) * is_speech[..., None])

    @staticmethod
    def _with_features(place: Tensor, features: Tensor) -> Tensor:
        """Join places (batch, frames, characters, 2) with features (batch, characters, channels)."""
        return torch.cat((place, features[:, None].expand(-1, place.shape[1], -1, -1)), dim=-1)


class DurationPredictor(nn.Module):
    """Logarithm of the frames of every character: (batch, characters, width) -> (batch, characters)."""

    def __init__(self, width: int):
        super().__init__()
        self.conv_1 = nn.Conv1d(width, width, 3, padding=1)
        self.norm_1 = nn.LayerNorm(width)
        self.conv_2 = nn.Conv1d(width, width, 3, padding=1)
        self.norm_2 = nn.LayerNorm(width)
        self.proj = nn.Conv1d(width, 1, 1)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        keep = mask[:, None].to(hidden.dtype)
        x = hidden.transpose(1, 2)
        for conv, norm in ((self.conv_1, self.norm_1), (self.conv_2, self.norm_2)):
            x = norm(conv(x * keep).relu().transpose(1, 2)).transpose(1, 2)
        return (self.proj(x * keep) * keep)[:, 0]


class CharacterFeatures(nn.Module):
    """What the attention sees of each character and its neighbours: (batch, characters, width) -> (..., channels)."""

    def __init__(self, width: int, channels: int):
        super().__init__()
        self.conv = nn.Conv1d(width, channels, 3, padding=1)
        self.batch_norm = nn.BatchNorm1d(channels)
        self.layer_norm = nn.LayerNorm(channels)

    def forward(self, hidden: Tensor) -> Tensor:
        x = nn.functional.silu(self.batch_norm(self.conv(hidden.transpose(1, 2))))
        return self.layer_norm(x.transpose(1, 2))


def _mlp(width: int, out_width: int) -> nn.Sequential:
    layers = [nn.Linear(width, out_width), nn.SiLU(), nn.Linear(out_width, out_width), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(out_width, out_width))


def own_names(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the published weights, given without the prefix `durator.`, to those of `Durator`."""
    weights = {}
    for published_name, weight in published.items():
        name = published_name
        for part, own in _PUBLISHED_NAMES.items():
            name = name.replace(part, own)
        weights[name] = weight
    return weights
