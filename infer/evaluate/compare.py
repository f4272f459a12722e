"""The command `evaluate compare`: two folders of results side by side, and which differences are more than chance.

Where both rest on clips of the same names the test is paired (signs flipped at random), otherwise values are dealt out
again. Scores of whole sets, such as FD, have no values of clips; there the intervals are compared.
"""

import math
import sys
from pathlib import Path

import numpy as np

from infer.evaluate.results import Results, Score, markdown_table
from infer.evaluate.statistics import paired_p, unpaired_p
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


def difference_p(score: Score, other: Score) -> float | None:
    """Two-sided p of two scores being equal; None where they are not means over clips."""
    if not score.values or not other.values:
        return None
    common = sorted(score.values.keys() & other.values.keys())
    if len(common) >= 0.8 * max(len(score.values), len(other.values)):
        return paired_p(np.array([other.values[name] - score.values[name] for name in common]))
    return unpaired_p(np.array(list(score.values.values())), np.array(list(other.values.values())))
