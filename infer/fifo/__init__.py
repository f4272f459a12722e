"""Endless generation: the queue (`Fifo`), sound from it (`EndlessStream`), and the command `python -m infer.fifo`."""

from infer.fifo.config import QueueOptions, StreamConfig
from infer.fifo.queue import Fifo
from infer.fifo.stream import EndlessStream

__all__ = ["EndlessStream", "Fifo", "QueueOptions", "StreamConfig"]
