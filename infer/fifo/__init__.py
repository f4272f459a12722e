"""Endless generation: the queue (`infer.fifo.queue`) and its command, `python -m infer.fifo`."""

from infer.fifo.config import FifoConfig
from infer.fifo.queue import Fifo

__all__ = ["Fifo", "FifoConfig"]
