"""Networks, and the mathematics that training and inference share; plain torch."""

import os

# OpenMP's threads otherwise spin while they wait for one another, and beside other work that slows torch tenfold and
# more. It is read when torch loads, so it is set here: every package of the project imports this one first.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
