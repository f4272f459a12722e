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

from models.errors import UserError
from models.texts import Blend, Text, plain_text, text_from_plain

CueMode = Literal["switch", "bind", "glide"]
MAX_GLIDE_SECONDS = 86_400.0


@dataclass(frozen=True, kw_only=True)
class CueConfig:
    """How a text gives way to the next."""

    mode: CueMode = "bind"
    """A frame follows the text of its own time (bind), the whole queue changes at once (switch), or it moves from one
    text to the next over glide_seconds (glide)."""
    glide_seconds: float = 5.0
    """How long a glide takes (s)."""

    def __post_init__(self):
        if not 0 < self.glide_seconds <= MAX_GLIDE_SECONDS:
            raise UserError(
                f"glide_seconds must lie above 0 and at most at {MAX_GLIDE_SECONDS:g}, got {self.glide_seconds:g}"
            )


@dataclass(frozen=True)
class Cue:
    """A change of text."""

    frame: int
    """When it is wanted."""
    text: Text
    mode: CueMode
    glide_frames: int = 0
    """How long a glide takes."""

    def is_active(self, frame: int, front: int, chunk: int) -> bool:
        """Whether a frame follows this cue while the queue's front is at `front`."""
        return self.frame <= frame if self.mode == "bind" else self.frame < front + chunk

    def text_after(self, before: Text, front: int) -> Text:
        """What a frame that follows this cue follows, given what it followed before."""
        if self.mode != "glide" or front >= self.frame + self.glide_frames:
            return self.text
        return Blend(before, self.text, max(0, front - self.frame) / self.glide_frames)

    def is_over(self, front: int, chunk: int) -> bool:
        """Whether nothing before this cue matters any more."""
        return self.is_active(front, front, chunk) and front >= self.frame + self.glide_frames


@dataclass(frozen=True)
class Change:
    """What a move of the queue brought."""

    is_under_way: bool
    """A frame that was in the queue before follows another prompt now."""
    is_at_front: bool
    """The next frame to leave follows another text than the one before it."""


class CueSheet:
    """The texts of one stream: all cues that still matter, in the order of their frames, and what the queue follows.

    Args:
        text: what the stream starts with.
        chunk: frames that leave together.
        queue_frames: frames of the queue.
    """

    def __init__(self, text: Text, chunk: int, queue_frames: int):
        self.chunk = chunk
        self.queue_frames = queue_frames
        self.frame_texts: list[Text] = []
        """What each frame of the queue follows since the last move."""
        self._text = text
        self._front = 0
        self._cues: tuple[Cue, ...] = ()
        self._lock = threading.Lock()

    @property
    def num_cues(self) -> int:
        """Cues that still matter."""
        return len(self._cues)

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

    def move_to(self, front: int) -> Change:
        """Take the queue's place, and settle what each of its frames follows."""
        self._drop_what_is_over(front)
        now = [self.text_at(frame, front) for frame in range(front, front + self.queue_frames)]
        before = self.frame_texts[front - self._front :]
        is_under_way = any(
            isinstance(old, str) and isinstance(new, str) and old != new for old, new in zip(before, now, strict=False)
        )
        last = self.frame_texts[0] if self.frame_texts else self._text
        self._front, self.frame_texts = front, now
        return Change(is_under_way, now[0] != last)

    def _drop_what_is_over(self, front: int) -> None:
        """Forget what no frame from `front` on follows."""
        with self._lock:
            over = [index for index, cue in enumerate(self._cues) if cue.is_over(front, self.chunk)]
            if over:
                self._text = self._cues[over[-1]].text
                self._cues = self._cues[over[-1] + 1 :]

    def text_at(self, frame: int, front: int) -> Text:
        """Return what a frame of the queue follows while its front is at `front`."""
        text = self._text
        for cue in self._cues:
            if cue.is_active(frame, front, self.chunk):
                text = cue.text_after(text, front)
        return text

    def state_dict(self) -> dict[str, Any]:
        """Return texts and cues as plain values."""
        return {
            "text": plain_text(self._text),
            "cues": [
                {"frame": cue.frame, "text": plain_text(cue.text), "mode": cue.mode, "glide_frames": cue.glide_frames}
                for cue in self._cues
            ],
            "front": self._front,
            "frame_texts": [plain_text(text) for text in self.frame_texts],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._text = text_from_plain(state["text"])
        self._cues = tuple(Cue(**cue | {"text": text_from_plain(cue["text"])}) for cue in state["cues"])
        self._front = state["front"]
        self.frame_texts = [text_from_plain(text) for text in state["frame_texts"]]
