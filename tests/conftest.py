"""Settings of the whole test session."""

import os
import signal

import torch

# Tests are tiny, and share two cores with each other: more threads would only wait for one another.
torch.set_num_threads(1)
# A test that tries to reach a model hub is wrong: let it fail at once instead of waiting for the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A shell's background jobs ignore Ctrl-C, and tests of interruption would wait for ever there.
signal.signal(signal.SIGINT, signal.default_int_handler)
