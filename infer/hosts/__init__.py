"""Models behind the endless queue: the protocol that all of them satisfy (`host`), and adapters of published ones.

The adapters need the extra `hosts` (diffusers).
"""
