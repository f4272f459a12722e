"""Endless generation: the queue (`Fifo`), sound from it (`EndlessStream`), and the command `python -m infer.fifo`."""

from infer.fifo.config import FifoConfig
from infer.fifo.queue import Fifo
from infer.fifo.stream import EndlessStream
from infer.fifo.stream_config import StreamConfig

__all__ = ["EndlessStream", "Fifo", "FifoConfig", "StreamConfig"]
