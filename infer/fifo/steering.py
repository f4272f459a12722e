"""The denoiser of a stream whose text, timing and guidance differ from frame to frame and change while it plays.

The U-Net attends to one text per clip. Where the queue holds frames of several texts, the network runs once for each of
them over the whole window, in one batch, and every frame takes the prediction made with its own; the unconditional one
is shared. That costs one more evaluation per text beyond the first, and only while a transition lasts.

Tensors: x, v (batch, channels, frames), t (batch, frames).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from infer.fifo.cues import Blend, CueSheet, Text
from infer.fifo.partition import Network
from infer.fifo.timing import Position
from infer.guidance import GuidanceConfig, guide
from models.text_to_audio import Conditioning, TextToAudio


class Steering:
    """A denoiser (x, t) -> v that follows a cue sheet and the time; `move_to` tells it where the queue stands.

    Args:
        network: runs the U-Net; `model.unet` or a `PartitionedNetwork` of it.
        timing: seconds_start and seconds_total for a window that begins at the given second, as `Timeline.at`.
        clean_scale: guidance scale at t = 0, from which it rises or falls linearly to the configuration's at t = 1;
            None: the same for every slot.
        frames_per_second: of the latents.
    """

    def __init__(
        self,
        model: TextToAudio,
        network: Network,
        cues: CueSheet,
        timing: Callable[[float], Position],
        guidance: GuidanceConfig,
        *,
        negative_prompt: str | None = None,
        clean_scale: float | None = None,
        frames_per_second: float,
    ):
        self.model = model
        self.network = network
        self.cues = cues
        self.timing = timing
        self.guidance = guidance
        self.negative_prompt = negative_prompt
        self.clean_scale = guidance.scale if clean_scale is None else clean_scale
        self.frames_per_second = frames_per_second
        self.is_guided = guidance.scale != 1 or self.clean_scale != 1
        self._front = 0
        self._num_context = 0
        self._frame_texts: list[Text] = []  # of the queue's frames
        self._texts: list[Text] = []  # those that differ
        self._choice: Tensor | None = None  # (queue frames,): which of them each frame follows; None if there is one
        self._position: Position | None = None
        self._conditioning: Conditioning | None = None

    @property
    def front_text(self) -> Text:
        """What the next frame to leave follows."""
        return self._frame_texts[0] if self._frame_texts else self.cues.prompt

    @property
    def start_seconds(self) -> float:
        """Where in the stream (s) the window begins."""
        return max(0, self._front - self._num_context) / self.frames_per_second

    def move_to(self, front: int, num_context: int) -> bool:
        """Take the queue's place: its first frame, and the number of context frames before it.

        Returns:
            Whether a frame that was in the queue before follows another prompt now.
        """
        self.cues.advance(front)
        now = [self.cues.text_at(frame, front) for frame in range(front, front + self.cues.queue_frames)]
        before = self._frame_texts[front - self._front :]
        changed = any(
            isinstance(old, str) and isinstance(new, str) and old != new for old, new in zip(before, now, strict=False)
        )
        texts = list(dict.fromkeys(now))
        self._front, self._num_context = front, num_context
        position = self.timing(self.start_seconds)
        if texts != self._texts or position != self._position:
            self._conditioning = self._condition(texts, position)
        self._choice = None
        if len(texts) > 1:
            self._choice = torch.tensor([texts.index(text) for text in now], device=self.model.device)
        self._frame_texts, self._texts, self._position = now, texts, position
        return changed

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        if self._conditioning is None:
            self.move_to(0, 0)
        assert self._conditioning is not None
        batch, num_texts = len(x), len(self._texts)
        rows = num_texts + self.is_guided
        context = self._conditioning.context.repeat_interleave(batch, dim=0)  # (rows * batch, tokens, width)
        mask = self._conditioning.context_mask.repeat_interleave(batch, dim=0)
        v = self.network(x.repeat(rows, 1, 1), t.repeat(rows, 1), context, mask).unflatten(0, (rows, batch))
        conditional = self._choose(v[:num_texts])
        return guide(conditional, v[-1], self._scale(t), self.guidance.rescale) if self.is_guided else conditional

    def _choose(self, v: Tensor) -> Tensor:
        """Take of predictions (texts, batch, channels, frames) for each frame the one with its text."""
        if self._choice is None:
            return v[0]
        choice = F.pad(self._choice, (self._num_context, 0))[: v.shape[-1]]
        return v.gather(0, choice.expand(1, *v.shape[1:]))[0]

    def _scale(self, t: Tensor) -> Tensor | float:
        """Guidance scale of each frame, (batch, frames), or one number where all are alike."""
        scale: Tensor | float = self.guidance.scale
        if self.clean_scale != self.guidance.scale:
            scale = self.clean_scale + (self.guidance.scale - self.clean_scale) * t
        low, high = self.guidance.interval
        if (low, high) == (0.0, 1.0):
            return scale
        return torch.where((t >= low) & (t <= high), scale, 1.0)

    @torch.no_grad()
    def _condition(self, texts: list[Text], position: Position) -> Conditioning:
        """One row for each text, then, if guided, the unconditional one."""
        rows = [self._embed(text, position) for text in texts]
        if self.is_guided:
            negative = self.negative_prompt
            rows.append(self._embed(negative, position) if negative else self.model.null_condition())
        joined = rows[0]
        for row in rows[1:]:
            joined = joined.cat(row)
        return joined

    def _embed(self, text: Text, position: Position) -> Conditioning:
        tokens = self._tokens(text)  # (1, tokens, width)
        start, total = (
            torch.tensor([math.nan if seconds is None else seconds], device=tokens.device) for seconds in position
        )
        return self.model.embed(tokens, torch.ones_like(tokens[..., 0], dtype=torch.bool), start, total)

    def _tokens(self, text: Text) -> Tensor:
        if isinstance(text, Blend):
            return blend_tokens(self._tokens(text.start), self._tokens(text.end), text.weight)
        embeddings, mask = self.model.text_encoder.encode([text])
        return embeddings[:, mask[0]]


def blend_tokens(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """Interpolate two embedded texts (1, tokens, width), token by token, on the sphere; lengths change linearly.

    The shorter text is brought to the length of the longer by repeating tokens: attention to a sequence in which every
    token is there twice is attention to the sequence. A weight of 0 or 1 gives one of the texts as it is.
    """
    if weight in (0, 1):
        return end if weight else start
    length = max(start.shape[1], end.shape[1])
    first, second = (
        tokens[:, (torch.arange(length, device=tokens.device) * tokens.shape[1]) // length] for tokens in (start, end)
    )
    norms = first.norm(dim=-1, keepdim=True), second.norm(dim=-1, keepdim=True)
    directions = first / norms[0].clamp(min=1e-8), second / norms[1].clamp(min=1e-8)
    cosine = (directions[0] * directions[1]).sum(dim=-1, keepdim=True).clamp(-1 + 1e-6, 1 - 1e-6)
    angle = cosine.acos()
    mixed = ((1 - weight) * angle).sin() * directions[0] + (weight * angle).sin() * directions[1]
    return mixed / angle.sin() * torch.lerp(norms[0], norms[1], weight)
