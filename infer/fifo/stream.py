"""Sound without end from one object: the queue, its texts, its guard and its decoding, for one prompt or many.

    stream = EndlessStream(model, "heavy rain")
    stream.cue(30.0, "thunderstorm")            # at 30 s of the output; also while another thread plays
    for piece in stream:                        # (batch, 2, samples), here (1, 2, samples), for ever
        ...

    EndlessStream(model, ["heavy rain", "a slow clock"], seeds=[0, 7])      # two streams in one batch

A batch of streams shares the model, the configuration and the phase of the queue; each has its own prompt, cues, guard
and noise, and sounds as it would alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from infer.decoding import FADE_SECONDS, AudioDecoding, end_at, on_device
from infer.fifo.config import StreamConfig, check_queue
from infer.fifo.continuation import ContinuedDecoding, Opening, open_with
from infer.fifo.cues import Cue, CueConfig, CueMode, CueSheet
from infer.fifo.guard import DriftGuard, GuardedDenoiser
from infer.fifo.methods import Plan, plan_of
from infer.fifo.queue import Fifo
from infer.fifo.timing import Timeline
from infer.guidance import PromptDenoiser
from infer.hosts.host import Host
from infer.outputs import check_seconds, check_seed
from infer.samplers import make_generators
from models.errors import UserError
from models.texts import Blend, Spoken, Text, check_prompt, weighted_blend

Prompt = Text | Mapping[str, float]
"""A prompt, or several with weights, which are blended."""


@dataclass(frozen=True)
class CueEffect:
    """When a cue is heard, in seconds of the output."""

    begins_seconds: float
    """Before this nothing changes."""
    complete_seconds: float
    """What is heard from here on has known the new text alone."""


class EndlessStream(Iterator[Tensor]):
    """Pieces of audio (batch, 2, samples) at the model's sample rate, made as they are asked for, in constant memory.

    Args:
        prompts: one prompt, or one for each stream of the batch.
        seeds: of each stream; one number seeds them by seed, seed + 1, ...
        init_audio: a sound (2, samples), or (batch, 2, samples), that is continued.
        init_in_output: whether it is the beginning of the output.
        plan: how the queue runs, in place of what `config.method` says.

    Raises:
        UserError: a prompt is empty, or the configuration does not fit the model or itself.
    """

    def __init__(
        self,
        model: Host,
        prompts: Prompt | Sequence[Prompt],
        config: StreamConfig | None = None,
        *,
        seeds: int | Sequence[int] = 0,
        init_audio: Tensor | None = None,
        init_in_output: bool = True,
        plan: Plan | None = None,
    ):
        texts = [_text(p) for p in ([prompts] if isinstance(prompts, str | Blend | Spoken | Mapping) else prompts)]
        seeds = [seeds + k for k in range(len(texts))] if isinstance(seeds, int) else list(seeds)
        if not texts or len(seeds) != len(texts):
            raise ValueError(f"needs a seed for each of at least one prompt, got {len(texts)} and {len(seeds)}")
        for seed in seeds:
            check_seed(seed)
        self.model = model
        self.config = config = config or StreamConfig()
        queue = config.queue.of(model.queues[0])
        check_queue(queue, model)
        self.plan = plan or plan_of(config.method, queue, config.sampling)
        self.queue = queue = self.plan.queue
        self.batch = len(texts)
        self.chunk_samples = queue.chunk_frames * model.hop_length - self.plan.overlap_samples
        """Samples of audio between two joins of chunks."""
        self.frames_per_second = queue.chunk_frames * model.sample_rate / self.chunk_samples
        self.num_samples = 0
        """Samples given out."""
        self.on_latents: Callable[[Tensor], object] | None = None
        """Called with every chunk of latents (batch, channels, frames) before it is decoded."""
        self._num_wanted = None if config.seconds is None else self._samples(config.seconds)
        self._num_made = 0  # samples given out or pending
        self._offset = 0  # frames of the output before the queue's first one
        self._sheets = [CueSheet(text, queue.chunk_frames, queue.queue_frames) for text in texts]
        self._timeline = Timeline.of(config.timing, model, queue.window_frames, config.seconds)
        self._guards = [DriftGuard(config.guard, self.frames_per_second) for _ in texts]
        self._denoiser = PromptDenoiser(model, config.guidance, self.plan.wrap(model.network))
        is_guarded = self.plan.is_guarded and config.timing.mode != "true"
        self._fifo = Fifo(
            GuardedDenoiser(self._denoiser, self._guards) if is_guarded else self._denoiser,
            queue,
            model.noise_time(self.plan.grid),
            sampler=self.plan.sampler,
            eta=self.plan.eta,
            channels=model.latent_channels,
            generators=[make_generators(seed, 1)[0] for seed in seeds],
            device=model.device,
            on_shift=self._on_shift,
        )
        self._decoding: AudioDecoding = self.plan.decoding(model, self.batch)
        self._pending: Tensor | None = None  # audio that is ready
        self._is_finished = self._is_busy = False
        if init_audio is not None:
            if not queue.context_frames:
                raise UserError("to continue a sound the queue must have a context, got queue.context_frames 0")
            sound = init_audio.expand(self.batch, -1, -1)
            self._continue(open_with(model, sound, queue.context_frames), init_in_output)
        if self._num_wanted is not None and config.timing.needs_length and self.plan.position is None:
            num_samples = self._num_wanted - self._offset * model.hop_length
            self._fifo.end_after(-(-num_samples // self.chunk_samples))

    def _continue(self, opening: Opening, is_heard: bool) -> None:
        self._fifo.continue_from(opening.latents)
        self._decoding = ContinuedDecoding(self.model, self.batch, opening, is_heard)
        num_samples = opening.audio.shape[-1] if is_heard else 0
        if self._num_wanted is not None and self._num_wanted <= num_samples:
            raise UserError(
                f"the sound to continue is {num_samples / self.model.sample_rate:.1f} s long: ask for more than "
                f"{self.config.seconds:g} s"
            )
        self._offset = num_samples // self.model.hop_length

    def _samples(self, seconds: float) -> int:
        check_seconds(seconds)
        return max(1, round(seconds * self.model.sample_rate))

    @property
    def seconds(self) -> float:
        """Length of the output so far (s)."""
        return self.num_samples / self.model.sample_rate

    @property
    def lead_seconds(self) -> float:
        """Time (s) from a frame's entry into the queue to its sound: the longest that a change takes."""
        return self.queue.queue_frames / self.frames_per_second

    def cue(
        self,
        seconds: float | None,
        prompt: Prompt,
        mode: CueMode = "bind",
        glide_seconds: float = 5.0,
        *,
        stream: int | None = None,
    ) -> CueEffect:
        """Change the prompt at a time in the output; see `infer.fifo.cues` for the modes.

        Args:
            seconds: of the output; None, or a time that has passed: as soon as possible.
            prompt: the new prompt, or several with weights.
            glide_seconds: how long a glide takes.
            stream: which of the batch; None: all.

        Returns:
            When the change begins and when it is complete.
        """
        CueConfig(mode=mode, glide_seconds=glide_seconds)  # checks them
        text = _text(prompt)
        front = self._fifo.position + self._offset
        frame = front if seconds is None else max(front, round(seconds * self.frames_per_second))
        glide_frames = max(1, round(glide_seconds * self.frames_per_second)) if mode == "glide" else 0
        self.model.rows(text, self._timeline.at(self.seconds), self.config.guidance.scale, 1.0)  # while there is time
        begin = complete = 0
        for sheet in self._sheets if stream is None else [self._sheets[stream]]:
            begin, complete = sheet.add(Cue(frame, text, mode, glide_frames), front, self._fifo.entered + self._offset)
        return CueEffect(begin / self.frames_per_second, complete / self.frames_per_second)

    def _on_shift(self, fifo: Fifo) -> None:
        """Tell denoiser and guards where the queue stands now."""
        front = fifo.position + self._offset
        start_seconds = max(0, front - fifo.num_context) / self.frames_per_second
        for index, (sheet, guard) in enumerate(zip(self._sheets, self._guards, strict=True)):
            change = sheet.move_to(front)
            if change.is_under_way:
                fifo.forget_history(index)
            if change.is_at_front:
                guard.forget(self.lead_seconds)
            if self._timeline.is_ending(start_seconds):
                guard.hold()
        position = self.plan.position or self._timeline.at(start_seconds)
        self._denoiser.tell([sheet.frame_texts for sheet in self._sheets], [position] * self.batch, fifo.num_context)

    def next_latents(self) -> Tensor:
        """Make the next chunk (batch, channels, frames) and leave the sound out; StopIteration at the piece's end."""
        chunk = next(self._fifo)
        for guard, own in zip(self._guards, chunk.split(1), strict=True):
            guard.observe(own)
        if self.on_latents is not None:
            self.on_latents(chunk)
        return chunk

    def __next__(self) -> Tensor:
        self._is_busy = True
        piece, self._pending = self._pending, None
        while piece is None or not piece.shape[-1]:
            if self._is_finished or self._num_made == self._num_wanted:
                self._is_busy = False
                raise StopIteration
            piece = self._make_piece()
        self.num_samples += piece.shape[-1]
        self._is_busy = False
        return piece

    def _make_piece(self) -> Tensor:
        """Make and decode a chunk; the audio that is ready now, (batch, 2, samples >= 0)."""
        try:
            piece = self._decoding.push(self.next_latents())
        except StopIteration:
            self._is_finished = True
            piece = self._decoding.finish()
        if self._num_wanted is not None:
            piece = end_at(self._num_wanted, self._num_made, piece, round(FADE_SECONDS * self.model.sample_rate))
        self._num_made += piece.shape[-1]
        return piece

    def end_in(self, seconds: float) -> None:
        """Let the output end so many seconds from what was given out, with a short fade; never later than it would."""
        wanted = self.num_samples + self._samples(seconds)
        if self._num_wanted is not None and self._num_wanted <= wanted:
            return
        if wanted < self._num_made:
            raise ValueError(f"{self._num_made - wanted} samples behind that end are made already: read them first")
        self._num_wanted = wanted

    def take(self, num_samples: int) -> Iterator[Tensor]:
        """Give out pieces of so many samples altogether; what is left of the last one comes with the next call."""
        while num_samples > 0:
            piece = next(self, None)
            if piece is None:
                return
            rest = piece[..., num_samples:]
            if rest.shape[-1]:
                self.num_samples -= rest.shape[-1]
                self._pending = rest
            num_samples -= piece.shape[-1] - rest.shape[-1]
            yield piece[..., : piece.shape[-1] - rest.shape[-1]]

    def read(self, seconds: float) -> Tensor:
        """Return the next seconds as one piece (batch, 2, samples); shorter only where the piece ends."""
        return torch.cat((torch.zeros(self.batch, 2, 0), *self.take(self._samples(seconds))), dim=-1)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that what follows depends on besides the model, as plain values and tensors.

        Raises:
            UserError: a chunk was broken off half way.
        """
        if self._is_busy:
            raise UserError("the stream was broken off in the middle of a chunk: there is no state to save")
        return {
            "config": asdict(self.config),
            "is_continued": isinstance(self._decoding, ContinuedDecoding),
            "fifo": self._fifo.state_dict(),
            "cues": [sheet.state_dict() for sheet in self._sheets],
            "guards": [guard.state_dict() for guard in self._guards],
            "decoding": self._decoding.state_dict(),
            "num_samples": self.num_samples,
            "num_made": self._num_made,
            "num_wanted": self._num_wanted,
            "offset": self._offset,
            "is_finished": self._is_finished,
            "pending": self._pending,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, from a stream of the same model, configuration and batch.

        Raises:
            UserError: the state is of another configuration or model.
        """
        if state["config"] != asdict(self.config):
            raise UserError(f"the state is of another configuration: {state['config']}")
        if state["is_continued"]:
            self._decoding = ContinuedDecoding(self.model, self.batch)
        self._fifo.load_state_dict(state["fifo"])
        for sheet, sheet_state in zip(self._sheets, state["cues"], strict=True):
            sheet.load_state_dict(sheet_state)
        for guard, guard_state in zip(self._guards, state["guards"], strict=True):
            guard.load_state_dict(on_device(guard_state, self.model.device))
        self._decoding.load_state_dict(state["decoding"])
        self.num_samples, self._num_made = state["num_samples"], state["num_made"]
        self._num_wanted, self._offset = state["num_wanted"], state["offset"]
        self._is_finished, self._pending = state["is_finished"], state["pending"]


def _text(prompt: Prompt) -> Text:
    if isinstance(prompt, str):
        check_prompt(prompt)
    return weighted_blend(prompt) if isinstance(prompt, Mapping) else prompt
