"""Learned embeddings of where a clip starts in its piece and of how long the piece is.

One table per value, one row per second 0 ... max_seconds, and a last row for "not known", which stands for NaN. Between
two seconds the rows are interpolated, so that the row for 7 s stands for 7 s. (With the paper's rounding it stands for
all pieces of 6 to 7 s, and what is asked for 7 s ends early.) Both become one token each, appended to the text tokens:
(batch, 2, width).

Source: Evans et al. 2024 (2402.04825), section 3.3.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.errors import UserError

NUM_TIMING_TOKENS = 2
"""Tokens that tell the place in a piece."""

Position = tuple[float | None, float | None]
"""seconds_start and seconds_total, None where not known."""


@dataclass(frozen=True, kw_only=True)
class TimingConfig:
    """Size of the timing tables."""

    width: int = 768
    """Width of a token; equals the text encoder's."""
    max_seconds: int = 512
    """Largest second that has an entry."""

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2:
            raise UserError(f"width must be even and at least 2, got {self.width}")
        if self.max_seconds < 1:
            raise UserError(f"max_seconds must be at least 1, got {self.max_seconds}")


class TimingEmbedder(nn.Module):
    """Turn seconds into two tokens."""

    def __init__(self, config: TimingConfig) -> None:
        super().__init__()
        self.config = config
        num_rows = config.max_seconds + 2  # 0 ... max_seconds, then the null row
        self.seconds_start = nn.Embedding(num_rows, config.width)
        self.seconds_total = nn.Embedding(num_rows, config.width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start each table with sinusoids of the second plus an offset of its own, at unit variance.

        Neighbouring seconds start out alike, so what is learned at one second holds at the next from the first step.
        """
        if self.seconds_start.weight.is_meta:
            return  # a checkpoint will fill it
        seconds = torch.arange(self.config.max_seconds + 1, dtype=torch.float32)
        features = _sinusoids(seconds, self.config.width, longest_seconds=4.0 * self.config.max_seconds)
        for table in (self.seconds_start, self.seconds_total):
            with torch.no_grad():
                offset = torch.randn(self.config.width) * math.sqrt(0.5)
                table.weight[:-1] = features + offset
                table.weight[-1] = torch.randn(self.config.width)

    def forward(self, seconds_start: Tensor, seconds_total: Tensor) -> Tensor:
        """Embed both values, each (batch,) in seconds, NaN where not known; returns (batch, 2, width)."""
        start = self._embed("seconds_start", self.seconds_start, seconds_start)
        total = self._embed("seconds_total", self.seconds_total, seconds_total)
        return torch.stack([start, total], dim=1)

    def _embed(self, name: str, table: nn.Embedding, seconds: Tensor) -> Tensor:
        """Embed seconds (batch,) between the rows on either side; NaN takes the null row."""
        seconds = seconds.to(table.weight.device)
        longest = self.config.max_seconds
        outside = (seconds < 0) | (seconds > longest)  # NaN is neither
        if outside.any():
            got = float(seconds[outside][0])
            raise UserError(f"{name} must be 0 to {longest} seconds, got {got:g}; leave it out if unknown")
        seconds = seconds.nan_to_num(nan=float(longest + 1))
        before, after = seconds.floor(), seconds.ceil()
        share = (seconds - before).to(table.weight.dtype).unsqueeze(-1)
        return torch.lerp(table(before.long()), table(after.long()), share)


def _sinusoids(seconds: Tensor, width: int, longest_seconds: float) -> Tensor:
    """Sine and cosine pairs with periods from 4 s to longest_seconds, variance 1/2; returns (seconds, width)."""
    periods = torch.logspace(math.log10(4.0), math.log10(longest_seconds), width // 2)
    phase = 2 * math.pi * seconds[:, None] / periods
    return torch.cat([phase.sin(), phase.cos()], dim=1)
