"""Everything that makes sound from a trained model, and measures it."""

import models  # noqa: F401 - before torch, see there
