"""Sound without end from one object: the queue, what steers and guards it, and its decoding.

    stream = EndlessStream(model, "heavy rain")
    stream.cue(30.0, "thunderstorm")            # at 30 s of the output; also while another thread plays
    for piece in stream:                        # (2, samples) at 44,100 Hz, for ever
        ...

Every method of `infer.fifo.baselines` runs through the same object, so that they can be compared by changing one word.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from data.audio import SAMPLE_RATE
from infer.fifo.baselines import CLIP_METHODS, ClipDecoding, queue_of
from infer.fifo.cues import Cue, CueMode, CueSheet
from infer.fifo.guards import DriftGuard
from infer.fifo.partition import PartitionedNetwork
from infer.fifo.queue import Fifo
from infer.fifo.starts import ContinuedDecoding, Opening, open_with, repeat_first
from infer.fifo.steering import Steering
from infer.fifo.stream_config import StreamConfig
from infer.fifo.timing import Timeline
from infer.guidance import check_prompt
from infer.samplers import draw_noise, make_generators, sample
from infer.stream import Decoding, check_seconds, end_at, on_device
from models.errors import UserError
from models.text_to_audio import TextToAudio


@dataclass(frozen=True)
class CueEffect:
    """When a cue is heard, in seconds of the output."""

    begins_seconds: float
    """Before this nothing changes."""
    complete_seconds: float
    """What is heard from here on has known the new text alone."""


class EndlessStream(Iterator[Tensor]):
    """Pieces of audio (2, samples) at 44,100 Hz, made as they are asked for, in constant memory.

    Args:
        init_audio: a sound (2, samples) that is continued.
        init_in_output: whether it is the beginning of the output.

    Raises:
        UserError: the prompt is empty, or the configuration does not fit the model or itself.
    """

    def __init__(
        self,
        model: TextToAudio,
        prompt: str,
        config: StreamConfig | None = None,
        *,
        init_audio: Tensor | None = None,
        init_in_output: bool = True,
    ):
        check_prompt(prompt)
        self.model = model
        self.config = config = config or StreamConfig()
        lookahead_frames = config.partition_frames // 2 if config.lookahead else 0
        self.queue_config = queue_of(config.method, config.fifo, model.config.window_frames, lookahead_frames)
        hop, chunk = model.vae.hop_length, self.queue_config.chunk
        overlap = round(config.crossfade_seconds * SAMPLE_RATE) if config.method == "crossfade" else 0
        if not 0 <= 2 * overlap <= chunk * hop:
            raise UserError(f"crossfade_seconds must be at most half a clip, got {config.crossfade_seconds:g}")
        self._chunk_samples = chunk * hop - overlap
        self.frames_per_second = chunk * SAMPLE_RATE / self._chunk_samples
        self._num_wanted = None if config.seconds is None else _num_samples(config.seconds)
        self.num_samples = 0
        """Samples given out."""
        self.on_latents: Callable[[Tensor], object] | None = None
        """Called with every chunk of latents (1, channels, frames) before it is decoded."""
        self._offset = 0  # frames of the output before the queue's first one
        self._cues = CueSheet(prompt, chunk, self.queue_config.queue_frames)
        self._timeline = Timeline.of(config.timing, model, self.queue_config.window, config.seconds)
        self._steering = self._make_steering()
        guards = config.guards
        if guards.pull is None:
            guards = replace(guards, pull=float(config.method == "fifo" and config.timing.mode != "true"))
        self._guard = DriftGuard(self._steering, guards, self.frames_per_second)
        self._fifo = Fifo(
            self._guard,
            self.queue_config,
            channels=model.unet.config.latent_channels,
            generators=make_generators(config.seed, 1),
            device=model.device,
            on_shift=self._on_shift,
        )
        self._decoding: Decoding | ClipDecoding | ContinuedDecoding = Decoding(model.vae)
        if config.method in CLIP_METHODS:
            self._decoding = ClipDecoding(model.vae, overlap)
        self._num_dropped = 0  # chunks at the beginning that are not heard
        self._pending: Tensor | None = None  # audio that is ready
        self._is_finished = self._is_busy = False
        self._begin(init_audio, init_in_output)

    def _make_steering(self) -> Steering:
        config, model = self.config, self.model
        network = model.unet
        if config.partition_frames:
            network = PartitionedNetwork(network, config.partition_frames, lookahead=config.lookahead)
        elif config.lookahead:
            raise UserError("lookahead needs partition_frames, the length of the pieces that overlap")
        timing = self._timeline.at
        if config.method in CLIP_METHODS:
            clip_seconds = self.queue_config.chunk * model.vae.hop_length / SAMPLE_RATE
            timing = lambda _: (0.0, clip_seconds)  # noqa: E731 - every clip is a piece of its own
        return Steering(
            model,
            network,
            self._cues,
            timing,
            config.guidance,
            negative_prompt=config.negative_prompt,
            clean_scale=config.clean_scale,
            frames_per_second=self.frames_per_second,
        )

    def _begin(self, init_audio: Tensor | None, init_in_output: bool) -> None:
        """Put a sound or a clip where the queue begins, and settle where it ends."""
        config, queue = self.config, self.queue_config
        if init_audio is not None:
            if config.start == "clip" or not queue.num_context:
                raise UserError("to continue a sound the stream must start from noise and have a context")
            self._continue(open_with(self.model.vae, init_audio, queue.num_context), init_in_output)
        elif config.start == "clip":
            num_frames = min(self.model.config.window_frames, queue.queue_frames) // queue.chunk * queue.chunk
            self._num_dropped = (queue.queue_frames - num_frames) // queue.chunk
            self._offset = -self._num_dropped * queue.chunk
        if self._num_wanted is not None and config.timing.needs_length and config.method not in CLIP_METHODS:
            num_samples = self._num_wanted - self._offset * self.model.vae.hop_length
            self._fifo.end_after(-(-num_samples // self._chunk_samples))

    def _continue(self, opening: Opening, is_heard: bool) -> None:
        self._fifo.continue_from(opening.latents)
        self._decoding = ContinuedDecoding(self.model.vae, opening, is_heard)
        num_samples = opening.audio.shape[1] if is_heard else 0
        if self._num_wanted is not None and self._num_wanted <= num_samples:
            raise UserError(
                f"the sound to continue is {num_samples / SAMPLE_RATE:.1f} s long: ask for more than "
                f"{self.config.seconds:g} s"
            )
        self._offset = num_samples // self.model.vae.hop_length

    @property
    def seconds(self) -> float:
        """Length of the output so far (s)."""
        return self.num_samples / SAMPLE_RATE

    @property
    def lead_seconds(self) -> float:
        """Time (s) from a frame's entry into the queue to its sound: the longest that a change takes."""
        return self.queue_config.queue_frames / self.frames_per_second

    def cue(self, seconds: float | None, prompt: str, mode: CueMode = "bind", glide_seconds: float = 5.0) -> CueEffect:
        """Change the prompt at a time in the output; see `infer.fifo.cues` for the modes.

        Args:
            seconds: of the output; None, or a time that has passed: as soon as possible.
            glide_seconds: how long a glide takes.

        Returns:
            When the change begins and when it is complete.
        """
        check_prompt(prompt)
        front = self._fifo.position + self._offset
        frame = front if seconds is None else max(front, round(seconds * self.frames_per_second))
        glide_frames = max(1, round(glide_seconds * self.frames_per_second)) if mode == "glide" else 0
        self.model.text_encoder.encode([prompt])  # while there is time
        begin, complete = self._cues.add(
            Cue(frame, prompt, mode, glide_frames), front, self._fifo.entered + self._offset
        )
        return CueEffect(begin / self.frames_per_second, complete / self.frames_per_second)

    def _on_shift(self, fifo: Fifo) -> None:
        text = self._steering.front_text
        if self._steering.move_to(fifo.position + self._offset, fifo.num_context):
            fifo.forget_history()
        if self._steering.front_text != text:
            self._guard.forget(self.lead_seconds)
        if self._timeline.is_ending(self._steering.start_seconds):
            self._guard.hold()

    def next_latents(self) -> Tensor:
        """Make the next chunk (1, channels, frames) and leave the sound out; StopIteration where the piece ends."""
        if self.config.start == "clip" and not self._fifo.entered:
            self._fifo.start_from(self._clip())
        chunk = next(self._fifo)
        if self._guard.observe(chunk):
            self._fifo.renoise(self.config.guards.renoise_t)
        if self._fifo.num_emitted <= self._num_dropped:
            return chunk[..., :0]
        if self.on_latents is not None:
            self.on_latents(chunk)
        return chunk

    @torch.no_grad()
    def _clip(self) -> Tensor:
        """Sample a clip the ordinary way, and lengthen it to the queue's frames."""
        queue, fifo = self.queue_config, self._fifo
        num_frames = queue.queue_frames - self._num_dropped * queue.chunk
        self._steering.move_to(self._offset, 0)
        noise = draw_noise(fifo.generators, self.model.unet.config.latent_channels, num_frames, self.model.device)
        clip = sample(self._steering, noise, queue.grid(), queue.sampler, queue.eta, fifo.generators)
        return repeat_first(clip, queue.queue_frames)

    def __next__(self) -> Tensor:
        self._is_busy = True
        piece, self._pending = self._pending, None
        while piece is None or not piece.shape[1]:
            if self._is_finished or self.num_samples == self._num_wanted:
                self._is_busy = False
                raise StopIteration
            piece = self._make_piece()
        if self._num_wanted is not None:
            piece = end_at(self._num_wanted, self.num_samples, piece)
        self.num_samples += piece.shape[1]
        self._is_busy = False
        return piece

    def _make_piece(self) -> Tensor:
        """Make and decode a chunk; the audio that is ready now, (2, samples >= 0)."""
        try:
            latents = self.next_latents()
        except StopIteration:
            self._is_finished = True
            return self._decoding.finish()
        return self._decoding.push(latents) if latents.shape[-1] else torch.zeros(2, 0)

    def take(self, num_samples: int) -> Iterator[Tensor]:
        """Give out pieces of so many samples altogether; what is left of the last one comes with the next call."""
        while num_samples > 0:
            piece = next(self, None)
            if piece is None:
                return
            rest = piece[:, num_samples:]
            if rest.shape[1]:
                self.num_samples -= rest.shape[1]
                self._pending = rest
            num_samples -= piece.shape[1] - rest.shape[1]
            yield piece[:, : piece.shape[1] - rest.shape[1]]

    def read(self, seconds: float) -> Tensor:
        """Return the next seconds as one piece (2, samples); shorter only where the piece ends."""
        return torch.cat((torch.zeros(2, 0), *self.take(_num_samples(seconds))), dim=-1)

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
            "cues": self._cues.state_dict(),
            "guard": self._guard.state_dict(),
            "decoding": self._decoding.state_dict(),
            "place": [self.num_samples, self._offset, self._num_dropped, self._is_finished],
            "pending": self._pending,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, from a stream of the same model and configuration.

        Raises:
            UserError: the state is of another configuration or model.
        """
        if state["config"] != asdict(self.config):
            raise UserError(f"the state is of another configuration: {state['config']}")
        if state["is_continued"]:
            self._decoding = ContinuedDecoding(self.model.vae)
        self._fifo.load_state_dict(state["fifo"])
        self._cues.load_state_dict(state["cues"])
        self._guard.load_state_dict(on_device(state["guard"], self.model.device))
        self._decoding.load_state_dict(state["decoding"])
        self.num_samples, self._offset, self._num_dropped, self._is_finished = state["place"]
        self._pending = state["pending"]


def _num_samples(seconds: float) -> int:
    check_seconds(seconds)
    return max(1, round(seconds * SAMPLE_RATE))
