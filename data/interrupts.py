"""Ctrl-C and SIGTERM, held back while something must not be left half done."""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_TERMINATED = 128 + signal.SIGTERM


class Interrupts:
    """While entered, SIGINT raises KeyboardInterrupt and SIGTERM SystemExit(143), so that files are closed.

    Within `held` the first signal waits for its end; the second is raised at once. Signals that were ignored (a job in
    the background) stay so, and outside of the main thread, where Python takes no signals, nothing is changed.

    Args:
        notice: logged when one is held back.
    """

    def __init__(self, notice: str = "") -> None:
        self.notice = notice
        self._is_held = False
        self._waiting: int | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the first signal back until the end of the block."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        self.pass_on()

    @property
    def is_waiting(self) -> bool:
        """Whether a signal is held back."""
        return self._waiting is not None

    def pass_on(self) -> None:
        """Raise what was held back so far."""
        number, self._waiting = self._waiting, None
        if number is not None:
            _raise(number)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._is_held and self._waiting is None:
            self._waiting = number
            if self.notice:
                logger.info(self.notice)
        else:
            _raise(number)


def _raise(number: int) -> None:
    if number == signal.SIGTERM:
        raise SystemExit(EXIT_TERMINATED)
    raise KeyboardInterrupt
