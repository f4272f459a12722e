"""Sound and text on their way to the models."""

import models  # noqa: F401 - before torch, see there
