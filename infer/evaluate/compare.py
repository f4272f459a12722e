"""The command `evaluate compare`: two folders of results side by side, and which differences are more than chance.

Where both rest on clips of the same names the test is paired (signs flipped at random), otherwise values are dealt out
again. Scores of whole sets, such as FD, have no values of clips; there the intervals are compared.

Source: Phipson & Smyth 2010 (permutation p-values are never 0).
"""

import math
import sys
from pathlib import Path

import numpy as np
from scipy.stats import permutation_test

from infer.evaluate.results import AVERAGES, NUM_RESAMPLES, Results, Score, markdown_table
from models.errors import UserError

POSITIONALS = ("first", "second")
SIGNIFICANT = 0.05


def main(first: Path, second: Path, out: Path | None = None) -> None:
    """Compare two folders of results.

    Args:
        first: Folder of results.
        second: Folder of other results of the same command.
        out: File to write the table to, too.
    """
    before, after = Results.load(first), Results.load(second)
    if before.command != after.command:
        raise UserError(f"{first} holds {before.command!r}, {second} {after.command!r}: they measure different things")
    others = {(score.measure, score.subject): score for score in after.scores}
    lines = [["measure", "subject", str(first), str(second), "difference", "p", "verdict"]]
    for score in before.scores:
        other = others.get((score.measure, score.subject))
        if other is not None:
            lines.append(_line(score, other))
    if len(lines) == 1:
        raise UserError(f"{first} and {second} have no score in common")
    table = markdown_table(lines)
    differing = [name for name in before.settings if before.settings[name] != after.settings.get(name)]
    table += f"\nSettings that differ: {', '.join(differing) or 'none'}\n"
    if out is not None:
        out.write_text(table, encoding="utf-8")
    sys.stdout.write(table)


def _line(score: Score, other: Score) -> list[str]:
    difference = other.value - score.value
    p = difference_p(score, other)
    separate = other.low > score.high or other.high < score.low  # False with NaN
    is_significant = p < SIGNIFICANT if p is not None else separate
    verdict = ""
    if is_significant and score.better != "none":
        verdict = "better" if (difference > 0) == (score.better == "higher") else "worse"
    elif is_significant:
        verdict = "differs"
    shown = "-" if p is None else f"{p:.3f}"
    delta = "-" if math.isnan(difference) else f"{difference:+.3f}"
    return [score.measure, score.subject, score.text, other.text, delta, shown, verdict]


def difference_p(score: Score, other: Score, seed: int = 0) -> float | None:
    """Two-sided p of two scores being equal; None where they are not averages over clips."""
    if not score.values or not other.values:
        return None
    common = sorted(score.values.keys() & other.values.keys())
    is_paired = len(common) >= 0.8 * max(len(score.values), len(other.values))
    values = [
        np.array([one.values[name] for name in common] if is_paired else list(one.values.values()))
        for one in (score, other)
    ]
    if min(map(len, values)) < 2:
        return 1.0
    average = AVERAGES[score.average]

    def difference(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
        return average(first, axis=axis) - average(second, axis=axis)

    kind = "samples" if is_paired else "independent"
    found = permutation_test(
        values, difference, permutation_type=kind, n_resamples=NUM_RESAMPLES, vectorized=True, rng=seed
    )
    return float(found.pvalue)
