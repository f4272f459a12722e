"""Models that can be played: the protocol that the queue, the commands and the evaluation know of them."""

from infer.hosts.host import Host

__all__ = ["Host"]
