"""Cues: which text each frame of the queue follows, as prompts change while the stream plays.

    switch   the whole queue takes the new text when the cue's frame is next to leave: the change begins there and is
             complete a queue's length (the lead time) later, with the first frames that have known no other text
    bind     every frame from the cue's on follows the new text, every frame before it the old one: the change is at the
             cue's frame, if the cue was known before that frame entered the queue
    glide    the whole queue moves from the old text's embedding to the new one's over a stated time

Frames are counted from the start of the stream. The queue's first frame is its front.
"""

import threading
from dataclasses import dataclass
from typing import Any, Literal

CueMode = Literal["switch", "bind", "glide"]


@dataclass(frozen=True)
class Blend:
    """A text on the way from one to another."""

    start: "Text"
    end: str
    weight: float
    """0 at the start to 1 at the end."""


Text = str | Blend


@dataclass(frozen=True)
class Cue:
    """A change of prompt."""

    frame: int
    """When it is wanted."""
    prompt: str
    mode: CueMode
    glide_frames: int = 0
    """How long a glide takes."""

    def is_active(self, frame: int, front: int, chunk: int) -> bool:
        """Whether a frame follows this cue while the queue's front is at `front`."""
        return self.frame <= frame if self.mode == "bind" else self.frame < front + chunk

    def text(self, before: Text, front: int) -> Text:
        """What a frame that follows this cue follows, given what it followed before."""
        if self.mode != "glide" or front >= self.frame + self.glide_frames:
            return self.prompt
        return Blend(before, self.prompt, max(0, front - self.frame) / self.glide_frames)

    def is_over(self, front: int, chunk: int) -> bool:
        """Whether nothing before this cue matters any more."""
        return self.is_active(front, front, chunk) and front >= self.frame + self.glide_frames


class CueSheet:
    """All cues of a stream that still matter, in the order of their frames.

    Args:
        prompt: what the stream starts with.
        chunk: frames that leave together.
        queue_frames: frames of the queue.
    """

    def __init__(self, prompt: str, chunk: int, queue_frames: int):
        self.prompt = prompt
        self.chunk = chunk
        self.queue_frames = queue_frames
        self._cues: tuple[Cue, ...] = ()
        self._lock = threading.Lock()

    def add(self, cue: Cue, front: int, end: int) -> tuple[int, int]:
        """Take a cue; safe while another thread plays.

        Args:
            front: first frame of the queue now.
            end: first frame that has not entered yet.

        Returns:
            The frames at which the change begins, and from which on it is complete.
        """
        with self._lock:
            self._cues = tuple(sorted((*self._cues, cue), key=lambda cue: cue.frame))
        begin = max(cue.frame, front)
        if cue.mode == "bind":
            return begin, max(begin, end)
        at_front = front + (begin - front) // self.chunk * self.chunk
        return at_front, at_front + cue.glide_frames + self.queue_frames

    def advance(self, front: int) -> None:
        """Forget what no frame from `front` on follows."""
        with self._lock:
            over = [index for index, cue in enumerate(self._cues) if cue.is_over(front, self.chunk)]
            if over:
                self.prompt = self._cues[over[-1]].prompt
                self._cues = self._cues[over[-1] + 1 :]

    def text_at(self, frame: int, front: int) -> Text:
        """Return what a frame of the queue follows while its front is at `front`."""
        text: Text = self.prompt
        for cue in self._cues:
            if cue.is_active(frame, front, self.chunk):
                text = cue.text(text, front)
        return text

    def state_dict(self) -> dict[str, Any]:
        """Return prompt and cues as plain values."""
        cues = [[cue.frame, cue.prompt, cue.mode, cue.glide_frames] for cue in self._cues]
        return {"prompt": self.prompt, "cues": cues}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.prompt = state["prompt"]
        self._cues = tuple(Cue(*values) for values in state["cues"])
