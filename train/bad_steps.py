"""Steps whose loss or gradient is not finite: skipped, counted, logged, and too many in a row end the training."""

import logging

from torch import Tensor

from models.errors import UserError

logger = logging.getLogger(__name__)

MAX_BAD_STEPS = 20


class BadSteps:
    """Counts steps that were skipped because a loss or gradient was not finite; a run of them ends the training."""

    def __init__(self) -> None:
        self.total = 0
        self.in_a_row = 0
        self._found: list[str] = []

    def add(self, name: str, terms: dict[str, Tensor]) -> None:
        """Note that a network was not updated in the present step, and with which loss terms."""
        self._found.append(f"{name}: " + ", ".join(f"{key} {value.item():.3g}" for key, value in terms.items()))

    def end_step(self, step: int) -> None:
        """Count the present step.

        Raises:
            UserError: too many steps in a row were bad.
        """
        self.in_a_row = self.in_a_row + 1 if self._found else 0
        if not self._found:
            return
        self.total += 1
        found = "; ".join(self._found)
        self._found.clear()
        logger.warning("step %d skipped, loss or gradient not finite: %s (%d so far)", step, found, self.total)
        if self.in_a_row >= MAX_BAD_STEPS:
            raise UserError(
                f"{MAX_BAD_STEPS} steps in a row without a finite loss and gradient, at step {step} ({found}): "
                "lower optimiser.learning_rate to a tenth, or look for damaged audio; the last checkpoint is whole"
            )
