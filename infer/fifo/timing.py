"""What the model is told about the place of its window in the piece: seconds_start and seconds_total.

An endless stream has no total. It takes always the same place in a long piece (steady): a third of the way through,
or the middle where the window would reach the end. Or it takes the null entries: these were trained by windows from
anywhere inside a piece, some of which fade, so that a stream may fade as well. True values say where the window stands,
in a piece of a known length: as it nears the end, the model plays the ending. They may also come at the end alone
(`ending`), after steady or null.
"""

from dataclasses import dataclass
from typing import Literal

from infer.hosts.host import Host
from models.errors import UserError
from models.timing import Position

TimingMode = Literal["steady", "null", "true"]


@dataclass(frozen=True, kw_only=True)
class StreamTiming:
    """How the place in the piece is told."""

    mode: TimingMode = "steady"
    """always the same middle (steady), nothing (null), or where it is (true, for which the length must be known)."""
    ending: bool = False
    """Whether the last window and the one before are told the truth, so that the model ends the piece itself."""
    piece_seconds: float | None = None
    """Longest piece (s) to tell the model of; None: as long as training knew them well (`TextToAudioConfig`)."""

    @property
    def needs_length(self) -> bool:
        """Whether the length of the piece must be known."""
        return self.ending or self.mode == "true"


class Timeline:
    """Seconds of the window, and of the piece, for every place in a stream.

    Args:
        max_seconds: largest second that the model can be told of; None: it is told nothing.
        known_seconds: longest piece the model knows well; None, not known, is taken as three quarters of max_seconds.
        window_seconds: length of a full window of the queue.
        total_seconds: length of the piece, None if it has no end.

    Raises:
        UserError: the length is needed and not known, the longest piece does not fit, or a model that is told nothing
            should be told something.
    """

    def __init__(
        self,
        timing: StreamTiming,
        *,
        max_seconds: float | None,
        known_seconds: float | None,
        window_seconds: float,
        total_seconds: float | None,
    ) -> None:
        if max_seconds is None and timing != StreamTiming():
            raise UserError("this model cannot be told the place in a piece: leave out --timing")
        if timing.needs_length and total_seconds is None:
            raise UserError("true timing and an ending need the length of the piece, got none: give it in seconds")
        self.timing = timing
        self.is_told = max_seconds is not None
        self.window_seconds = window_seconds
        self.total_seconds = total_seconds
        table = max_seconds or 0.0
        known = table * 3 / 4 if known_seconds is None else known_seconds
        self.longest = known if timing.piece_seconds is None else timing.piece_seconds
        if self.is_told and not 0 < self.longest <= table:
            raise UserError(f"timing.piece_seconds must lie between 0 and {table:g} s, got {self.longest:g}")
        self._steady = (min(self.longest / 3, max(0.0, (self.longest - window_seconds) / 2)), self.longest)

    @classmethod
    def of(cls, timing: StreamTiming, host: Host, window_frames: int, total_seconds: float | None = None) -> "Timeline":
        """What `host` is told of windows of `window_frames` latent frames; errors as above."""
        return cls(
            timing,
            max_seconds=host.max_seconds,
            known_seconds=host.known_seconds,
            window_seconds=window_frames * host.hop_length / host.sample_rate,
            total_seconds=total_seconds,
        )

    def at(self, start_seconds: float) -> Position:
        """Return what to tell a window that begins `start_seconds` after the start of the stream."""
        if not self.is_told:
            return None, None
        if self.total_seconds is not None and (self.timing.mode == "true" or self.is_ending(start_seconds)):
            return self._true(start_seconds, self.total_seconds)
        return (None, None) if self.timing.mode == "null" else self._steady

    def is_ending(self, start_seconds: float) -> bool:
        """Whether a window that begins there is told of the end because it is near."""
        if self.total_seconds is None or not self.timing.ending:
            return False
        return self.total_seconds - start_seconds <= 2 * self.window_seconds

    def _true(self, start: float, total: float) -> Position:
        """The truth; a piece longer than any the model knows stays in its middle until the end is near."""
        told_total = min(total, self.longest)
        told_start = max(min(start, told_total / 2), told_total - (total - start))
        return max(told_start, 0.0), told_total
