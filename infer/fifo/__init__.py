"""Endless generation: the queue (`infer.fifo.queue`) and its command, `python -m infer.fifo`."""

from infer.fifo.queue import Fifo, FifoConfig

__all__ = ["Fifo", "FifoConfig"]
