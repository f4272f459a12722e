"""From text to prediction: prompts, guidance and a network as one denoiser (x, t) -> v.

    v = v_null + sum over rows of weight * (v_row - v_null)

A row is one conditioning of the network. Classifier-free guidance has one row per text, with the guidance scale as its
weight, and a null row, which takes what is missing to 1: v_null + scale (v_text - v_null). Dual guidance has three. All
rows of all streams in the batch go through the network in one call; a scale of 1 needs no null row.

A text belongs to frames. Where a stream's frames follow several texts, the network runs once for each of them over the
whole window, and every frame takes the prediction made with its own text: one more row for each text beyond the first,
only while a transition lasts. A clip of a fixed length is the case of one text.

Rescaling pulls the standard deviation of the guided prediction, over the channels of each frame (never over time: an
endless stream has no whole), back to that of the first row.

Tensors: x, v (batch, channels, frames); t (batch, frames).

Sources: Ho & Salimans 2022, eq. 6; Lin et al. 2024, eq. 14 to 16 (rescale); Kynkäänniemi et al. 2024 (interval).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from infer.hosts.host import Host
from models.errors import UserError
from models.texts import Text, check_prompt
from models.timing import Position

MAX_SCALE = 100.0

Network = Callable[[Tensor, Tensor, Any], Tensor]
"""(latents (rows, channels, frames), t (rows, frames), conditioning of the rows) -> v, as `Host.network`."""


@dataclass(frozen=True, kw_only=True)
class GuidanceConfig:
    """How strongly the prompt acts."""

    scale: float = 6.0
    """Guidance scale: unconditional + scale * (conditional - unconditional); 1 switches guidance off, and is twice as
    fast."""
    rescale: float = 0.5
    """Share, 0 to 1, by which the growth of the prediction's standard deviation under guidance is undone."""
    interval: tuple[float, float] = (0.0, 1.0)
    """Noise times between which guidance acts; outside of it the conditional prediction is taken."""
    content: float = 7.0
    """Guidance scale of the words to say, for models that speak (VoiceLDM)."""
    negative_prompt: str | None = None
    """What the sound should not be: takes the place of the unconditional prediction."""

    def __post_init__(self):
        low, high = self.interval
        object.__setattr__(self, "interval", (float(low), float(high)))
        if not 0 <= self.scale <= MAX_SCALE:
            raise UserError(f"guidance scale must lie in [0, {MAX_SCALE:g}], got {self.scale}")
        if not 0 <= self.content <= MAX_SCALE:
            raise UserError(f"guidance content must lie in [0, {MAX_SCALE:g}], got {self.content}")
        if not 0 <= self.rescale <= 1:
            raise UserError(f"guidance rescale must lie in [0, 1], got {self.rescale}")
        if not 0 <= low < high <= 1:
            raise UserError(f"guidance interval must be two rising noise times in [0, 1], got {self.interval}")
        if self.negative_prompt:
            check_prompt(self.negative_prompt)


class PromptDenoiser:
    """A denoiser (x, t) -> v that follows what `tell` said last.

    Args:
        network: what runs in place of the host's own network, around which it may be wrapped.
    """

    def __init__(self, host: Host, guidance: GuidanceConfig, network: Network | None = None):
        self.host = host
        self.guidance = guidance
        self.network = network or host.network
        self._told: tuple[list[list[Text]], list[Position]] | None = None  # distinct texts, and place, of each stream
        self._conditioning: Any = None  # one entry per row: all streams' texts, then the null rows
        self._stream_of_row = torch.zeros(0)
        self._weights: tuple[float, ...] = ()  # of the rows of one text
        self._choice: Tensor | None = None  # (streams, rows of a text, frames): row that a frame takes; None: one text
        self._num_context = 0

    @property
    def is_guided(self) -> bool:
        """Whether there are null rows."""
        return self._weights != (1.0,)

    def tell(self, texts: Sequence[Sequence[Text]], positions: Sequence[Position], num_context: int = 0) -> None:
        """Say what each stream in the batch follows from now on.

        Args:
            texts: of each stream, the text of each frame; one text is that of all frames.
            positions: of each stream, seconds_start and seconds_total.
            num_context: frames in front of those that `texts` names; they follow the first of them.
        """
        told = [list(dict.fromkeys(frames)) for frames in texts], list(positions)
        if told != self._told:
            self._condition(*told)
            self._told = told
        self._num_context = num_context
        self._choice = None
        if any(len(distinct) > 1 for distinct in told[0]):
            self._choice = self._rows_of_frames(texts, told[0])

    @torch.no_grad()
    def _condition(self, texts: list[list[Text]], positions: list[Position]) -> None:
        rows: list[Any] = []
        streams: list[int] = []
        for stream, (distinct, position) in enumerate(zip(texts, positions, strict=True)):
            for text in distinct:
                weighted = self.host.rows(text, position, self.guidance.scale, self.guidance.content)
                self._weights = tuple(float(weight) for _, weight in weighted)
                rows += [row for row, _ in weighted]
                streams += [stream] * len(weighted)
        if self.is_guided:
            rows += [self.host.null_row(self.guidance.negative_prompt, position) for position in positions]
            streams += range(len(positions))
        joined = rows[0]
        for row in rows[1:]:
            joined = joined.cat(row)
        self._conditioning = joined
        self._stream_of_row = torch.tensor(streams, device=self.host.device)

    def _rows_of_frames(self, texts: Sequence[Sequence[Text]], distinct: list[list[Text]]) -> Tensor:
        rows_per_text = len(self._weights)
        num_frames = max(len(frames) for frames in texts)
        first_row, choice = 0, []
        for frames, known in zip(texts, distinct, strict=True):
            row_of = {text: first_row + rows_per_text * place for place, text in enumerate(known)}
            chosen = [row_of[text] for text in frames]
            chosen += chosen[-1:] * (num_frames - len(chosen))
            choice.append([[row + variant for row in chosen] for variant in range(rows_per_text)])
            first_row += rows_per_text * len(known)
        return torch.tensor(choice, device=self.host.device)

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        batch = len(x)
        v = self.network(x[self._stream_of_row], t[self._stream_of_row], self._conditioning)
        num_nulls = batch if self.is_guided else 0
        rows = self._choose(v[: len(v) - num_nulls], batch)  # (batch, rows of a text, channels, frames)
        if not self.is_guided:
            return rows[:, 0]
        weights = [self._weight(weight, t, outside=float(place == 0)) for place, weight in enumerate(self._weights)]
        return guide(list(rows.unbind(dim=1)), v[-num_nulls:], weights, self.guidance.rescale)

    def _choose(self, v: Tensor, batch: int) -> Tensor:
        """Take of predictions (rows, channels, frames) for each frame those made with its text."""
        if self._choice is None:
            return v.unflatten(0, (batch, -1))
        choice = F.pad(self._choice, (self._num_context, 0), mode="replicate")[..., : v.shape[-1]]
        index = choice.flatten(0, 1).unsqueeze(1).expand(-1, v.shape[1], -1)
        return v.gather(0, index).unflatten(0, (batch, -1))

    def _weight(self, weight: float, t: Tensor, outside: float) -> Tensor | float:
        """Weight of a row at each frame, (batch, frames), or one number where all are alike."""
        low, high = self.guidance.interval
        if (low, high) == (0.0, 1.0):
            return weight
        return torch.where((t >= low) & (t <= high), weight, outside)


def prompt_denoiser(
    host: Host, prompts: Sequence[str], guidance: GuidanceConfig, positions: Sequence[Position] | None = None
) -> PromptDenoiser:
    """Return the denoiser of a batch of prompts, one for each sample.

    Args:
        positions: seconds_start and seconds_total of each; None: not known.

    Raises:
        UserError: a prompt is empty, or seconds are outside of the model's range.
    """
    for prompt in prompts:
        check_prompt(prompt)
    denoiser = PromptDenoiser(host, guidance)
    denoiser.tell([[prompt] for prompt in prompts], positions or [(None, None)] * len(prompts))
    return denoiser


def guide(rows: Sequence[Tensor], null: Tensor, weights: Sequence[Tensor | float], rescale: float = 0.0) -> Tensor:
    """Combine predictions (batch, channels, frames): null + sum of weight * (row - null).

    Args:
        weights: of each row, a number, or one for each frame, (frames,) or (batch, frames).
        rescale: 0 leaves the guided prediction as it is, 1 gives each frame the standard deviation of the first row.
    """
    guided = null
    for row, weight in zip(rows, weights, strict=True):
        scale = weight.unsqueeze(-2) if isinstance(weight, Tensor) else weight  # (batch, 1, frames)
        guided = guided + scale * (row - null)
    if rescale:
        growth = rows[0].std(dim=1, keepdim=True) / guided.std(dim=1, keepdim=True).clamp(min=1e-8)
        guided = guided * (1 + rescale * (growth - 1))
    return guided
