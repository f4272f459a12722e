"""Several sources in fixed shares: `{instruments: 5, nature: 2, my_folder: 1}`.

A mixture deals numbers to its sources in a cycle of 100 places, spread evenly by weight, and each source counts those
it gets: 0, 1, ... So a folder's files still come in whole passes, and everything stays a pure function of the number.
"""

from collections.abc import Sequence

from data.loading import Item, Source
from models.errors import UserError

CYCLE = 100


class Shares:
    """Deals numbers to parts by weight.

    Raises:
        UserError: a weight is not positive, or too small for a place in the cycle.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        total = sum(weights)
        if not weights or any(not weight > 0 for weight in weights) or min(weights) < total / CYCLE:
            raise UserError(
                f"the weights of a mixture must be positive, the smallest at least 1 % of all together, got "
                f"{', '.join(f'{weight:g}' for weight in weights)}"
            )
        self.counts = [0] * len(weights)
        self.cycle: list[tuple[int, int]] = []
        for place in range(1, CYCLE + 1):
            part = max(range(len(weights)), key=lambda k: (weights[k] * place / total - self.counts[k], -k))
            self.cycle.append((part, self.counts[part]))
            self.counts[part] += 1

    def place(self, number: int) -> tuple[int, int]:
        """Which part a number belongs to, and its number there."""
        turn, at = divmod(number, CYCLE)
        part, position = self.cycle[at]
        return part, turn * self.counts[part] + position


class MixedSource:
    """Crops of several sources; see `data.loading.Source`. A draw gives as many items of each."""

    def __init__(self, sources: Sequence[Source], weights: Sequence[float]) -> None:
        self.sources = list(sources)
        self.shares = Shares(weights)
        self.items_per_draw = max(source.items_per_draw for source in self.sources)
        validated = [k for k, source in enumerate(self.sources) if source.num_validation]
        self._validated = [self.sources[k] for k in validated]
        self._validation_shares = Shares([weights[k] for k in validated]) if validated else None
        self.num_validation = max(source.num_validation for source in self.sources)

    def draw(self, index: int) -> list[Item]:
        part, number = self.shares.place(index)
        source = self.sources[part]
        draws = -(-self.items_per_draw // source.items_per_draw)
        items = [item for k in range(draws) for item in source.draw(number * draws + k)]
        return items[: self.items_per_draw]

    def draw_validation(self, index: int) -> Item:
        assert self._validation_shares is not None
        part, number = self._validation_shares.place(index)
        source = self._validated[part]
        return source.draw_validation(number % source.num_validation)
