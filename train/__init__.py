"""Trainings on Lightning, and what they need."""

import models  # noqa: F401 - before torch, see there
