"""Networks, and the mathematics that training and inference share; plain torch."""

import os
from importlib.util import find_spec

# OpenMP's threads otherwise spin while they wait for one another, and beside other work that slows torch tenfold and
# more. It is read when torch loads, so it is set here: every package of the project imports this one first.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A notebook names its own backend of matplotlib to every program that it starts, and matplotlib refuses to load (so do
# packages that load it, such as Lightning) where that backend's package is not installed. No picture here needs it.
_backend = os.environ.get("MPLBACKEND", "")
if _backend.startswith("module://") and find_spec(_backend.removeprefix("module://").split(".")[0]) is None:
    del os.environ["MPLBACKEND"]
