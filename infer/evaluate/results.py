"""A folder of results: `results.json` with everything, `table.md`, and `report.html` to hear and see it.

results.json    command, settings, weights, versions, scores with intervals and the value of every clip, clips
table.md        the scores, a row for each measure and a column for each subject
table.csv       the same, a row for each score
report.html     the same with figures, players and spectrograms side by side (`report`)

Source of the intervals: Efron & Tibshirani 1993 (percentile bootstrap).
"""

import csv
import dataclasses
import io
import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.stats import bootstrap
from torch import Tensor

from models.errors import UserError
from models.files import replacing

RESULTS_NAME = "results.json"
VERSIONED = ("endless-audio", "torch", "torchaudio", "transformers", "numpy", "scipy")

NUM_RESAMPLES = 2000

Better = Literal["higher", "lower", "none"]
Average = Literal["mean", "median"]
AVERAGES = {"mean": np.mean, "median": np.median}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """One measure of one subject."""

    measure: str
    subject: str
    """What is measured: generated sound, real clips, a permutation, ..."""
    value: float
    low: float = math.nan
    """Lower end of the 95 % interval; NaN where there is none."""
    high: float = math.nan
    num: int
    """How many clips it rests on."""
    better: Better = "higher"
    average: Average = "mean"
    """What the score is of the values of clips; the median where single clips would rule the mean."""
    values: dict[str, float] = dataclasses.field(default_factory=dict)
    """The value of each clip, where the score is their mean or median."""

    @property
    def text(self) -> str:
        """Value and interval as in a table."""
        if math.isnan(self.value):
            return "-"
        interval = "" if math.isnan(self.low) else f" [{_number(self.low)}, {_number(self.high)}]"
        return f"{_number(self.value)}{interval}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportClip:
    """A row of the report: one prompt and what different subjects make of it."""

    title: str
    notes: tuple[str, ...] = ()
    """Lines under the title."""
    audio: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """Sound of each subject, (2, samples)."""


@dataclasses.dataclass(kw_only=True)
class Results:
    """What a command found."""

    command: str
    settings: dict[str, Any]
    weights: dict[str, str] = dataclasses.field(default_factory=dict)
    seed: int = 0
    scores: list[Score] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    """What a reader must know: conventions, what was left out."""
    clips: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """What was measured in every clip, as plain values."""

    def add_average(
        self,
        measure: str,
        subject: str,
        values: Mapping[str, float],
        better: Better = "higher",
        average: Average = "mean",
    ) -> None:
        """Add the average over clips, by their names, with its interval; values that are NaN are left out."""
        known = {name: float(value) for name, value in values.items() if not math.isnan(value)}
        numbers = np.array(list(known.values()))
        low, high = interval(numbers, average, self.seed)
        self.scores.append(
            Score(
                measure=measure,
                subject=subject,
                value=float(AVERAGES[average](numbers)) if known else math.nan,
                low=low,
                high=high,
                num=len(known),
                better=better,
                average=average,
                values=known,
            )
        )

    def table(self) -> str:
        """The scores as a Markdown table."""
        subjects = list(dict.fromkeys(score.subject for score in self.scores))
        measures = list(dict.fromkeys(score.measure for score in self.scores))
        cells = {(score.measure, score.subject): score for score in self.scores}
        lines = [["measure", "clips", *subjects]]
        for measure in measures:
            row = [cells.get((measure, subject)) for subject in subjects]
            nums = sorted({score.num for score in row if score})
            lines.append([measure, "/".join(map(str, nums)), *(score.text if score else "" for score in row)])
        return markdown_table(lines)

    def save(self, folder: Path) -> None:
        """Write results.json, table.md and table.csv."""
        folder.mkdir(parents=True, exist_ok=True)
        content = dataclasses.asdict(self) | {"versions": versions()}
        _replace(folder / RESULTS_NAME, json.dumps(_plain(content), indent=1, allow_nan=False) + "\n")
        notes = "".join(f"- {note}\n" for note in self.notes)
        _replace(folder / "table.csv", self._csv())
        _replace(folder / "table.md", f"# {self.command}\n\n{self.table()}\n{notes}")

    def _csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(("measure", "subject", "value", "low", "high", "clips", "better"))
        for score in self.scores:
            row = (score.measure, score.subject, score.value, score.low, score.high, score.num, score.better)
            writer.writerow(row)
        return text.getvalue()

    @classmethod
    def load(cls, folder: Path) -> "Results":
        """Read a folder of results.

        Raises:
            FileNotFoundError: there are none.
            UserError: they are damaged.
        """
        path = folder / RESULTS_NAME
        if not path.is_file():
            raise FileNotFoundError(f"no results in {folder}: expected {RESULTS_NAME}")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            scores = [Score(**_with_nan(score)) for score in content["scores"]]
            fields = {field.name for field in dataclasses.fields(cls)} - {"scores"}
            return cls(scores=scores, **{name: content[name] for name in fields})
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}), make it again") from None


def _with_nan(values: dict[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in values.items()}


def interval(values: np.ndarray, average: Average = "mean", seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the average of values (num,); NaN for none, the value itself for one."""
    if len(values) < 2:
        alone = float(values[0]) if len(values) else math.nan
        return alone, alone
    found = bootstrap((values,), AVERAGES[average], n_resamples=NUM_RESAMPLES, method="percentile", rng=seed)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """Align a header and rows as a Markdown table."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    padded.insert(1, ["-" * width for width in widths])
    return "".join(f"| {' | '.join(line)} |\n" for line in padded)


def versions() -> dict[str, str]:
    """Versions of Python and the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"


def _plain(value: Any) -> Any:
    """JSON's own types; numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value if isinstance(value, str | int | bool | None) else str(value)


def _replace(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
