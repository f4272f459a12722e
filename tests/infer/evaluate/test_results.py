"""Results to a folder and back, the page, and two folders compared."""

import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from data.cli import run
from infer.evaluate import compare
from infer.evaluate.__main__ import COMMANDS
from infer.evaluate.__main__ import main as evaluate
from infer.evaluate.report import write_report
from infer.evaluate.results import ReportClip, Results, Score, interval
from infer.evaluate.set_scores import resampled


def make_results(shift: float = 0.0, num: int = 30) -> Results:
    results = Results(
        command="evaluate facts", settings={"shift": shift, "path": Path("a/b")}, weights={"unet": "12ab"}
    )
    values = np.random.default_rng(0).standard_normal(num)
    results.add_average("quality", "generated", {f"clip {i}": float(v + shift) for i, v in enumerate(values)})
    results.add_average("error", "generated", {f"clip {i}": float(v + shift) for i, v in enumerate(values)}, "lower")
    results.scores.append(
        Score(
            measure="FD",
            subject="generated",
            value=2.0 + shift,
            low=1.9 + shift,
            high=2.1 + shift,
            num=9,
            better="lower",
        )
    )
    return results


def test_round_trip(tmp_path: Path):
    results = make_results()
    results.add_average("empty", "generated", {"clip": math.nan})
    results.save(tmp_path / "out")
    loaded = Results.load(tmp_path / "out")
    assert loaded.scores[:3] == results.scores[:3]
    assert math.isnan(loaded.scores[3].value)
    assert loaded.weights == {"unet": "12ab"}
    assert loaded.table() == results.table()
    assert "| quality" in (tmp_path / "out" / "table.md").read_text()


def normal(num: int, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(num) + shift


def test_interval_is_that_of_the_normal_distribution():
    low, high = interval(normal(400))
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.12)
    assert low < normal(400).mean() < high
    intervals = np.array([interval(normal(40, seed), seed=seed) for seed in range(100)])
    assert 0.87 <= np.mean((intervals[:, 0] < 0) & (intervals[:, 1] > 0)) <= 1.0
    assert interval(np.array([2.0])) == (2.0, 2.0)
    assert all(math.isnan(value) for value in interval(np.array([])))


def test_a_median_is_not_ruled_by_one_clip():
    results = Results(command="evaluate vae", settings={})
    values = {f"clip {index}": value for index, value in enumerate([3.0, 4.0, 5.0, 32_720.0, math.nan])}
    results.add_average("distance", "coded", values, "lower", "median")
    (score,) = results.scores
    assert (score.value, score.num, score.average) == (4.5, 4, "median")


def test_resampled_interval_of_a_mean():
    values = normal(200)
    low, high = resampled(lambda index: float(values[list(index)].mean()), 200)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 / 200**0.5, rel=0.4)


def test_missing_and_damaged(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no results"):
        Results.load(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ValueError, match="damaged"):
        Results.load(tmp_path)


@pytest.mark.parametrize(("shift", "words"), [(0.0, ("", "", "")), (1.0, ("better", "worse", "worse"))])
def test_compare(tmp_path: Path, shift: float, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    make_results().save(tmp_path / "a")
    make_results(shift).save(tmp_path / "b")
    run(compare.main, argv=[str(tmp_path / "a"), str(tmp_path / "b")], positionals=compare.POSITIONALS)
    lines = capsys.readouterr().out.splitlines()
    verdicts = tuple(line.split("|")[-2].strip() for line in lines[2:5])
    assert verdicts == words
    assert lines[-1] == f"Settings that differ: {'shift' if shift else 'none'}"


def score_of(values: np.ndarray, name: str = "clip") -> Score:
    by_clip = {f"{name} {index}": float(value) for index, value in enumerate(values)}
    return Score(measure="m", subject="s", value=float(values.mean()), num=len(values), values=by_clip)


def test_permutation_p_of_the_same_clips():
    p = compare.difference_p(score_of(np.zeros(10)), score_of(np.ones(10)))
    assert p == pytest.approx(2 / 2**10)  # exact: of all signs, two are as far
    assert compare.difference_p(score_of(np.zeros(5)), score_of(np.zeros(5))) == 1.0
    assert compare.difference_p(Score(measure="FD", subject="s", value=1.0, num=9), score_of(np.zeros(5))) is None


def test_permutation_p_of_other_clips():
    """By hand: of the 20 ways to deal 3 of 6 values, two are as far apart as (0 1 2) and (3 4 5)."""
    p = compare.difference_p(score_of(np.arange(3.0)), score_of(np.arange(3.0, 6.0), "other"))
    assert p == pytest.approx(0.1)
    far = compare.difference_p(score_of(normal(30)), score_of(normal(30, 1, shift=3.0), "other"))
    assert far is not None
    assert far < 0.002
    pairs = [(score_of(normal(20, 2 * seed)), score_of(normal(20, 2 * seed + 1), "other")) for seed in range(12)]
    assert 0.25 < np.mean([compare.difference_p(*pair) or 0.0 for pair in pairs]) < 0.75


def test_compare_refuses_other_commands(tmp_path: Path):
    make_results().save(tmp_path / "a")
    other = make_results()
    other.command = "evaluate vae"
    other.save(tmp_path / "b")
    with pytest.raises(ValueError, match="different things"):
        compare.main(tmp_path / "a", tmp_path / "b")


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name == "src"]


def test_report_names_files_that_exist(tmp_path: Path):
    audio = 0.1 * torch.randn(2, 44_100)
    clips = [ReportClip(title="rain <b>", notes=("a & b",), audio={"generated": audio, "real": audio})]
    page = write_report(tmp_path, make_results(), clips).read_text()
    assert "rain &lt;b&gt;" in page
    assert "a &amp; b" in page
    links = Links()
    links.feed(page)
    assert len(links.sources) == 4
    assert links.tags.count("audio") == 2
    assert "script" not in links.tags
    for source in links.sources:
        assert (tmp_path / source).stat().st_size > 100


def test_command_line_lists_its_commands(capsys: pytest.CaptureFixture[str]):
    evaluate([])
    out = capsys.readouterr().out
    assert all(name in out for name in COMMANDS)
    with pytest.raises(SystemExit) as stop:
        evaluate(["nothing"])
    assert stop.value.code == 2


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        evaluate([name, "--help"])
    assert stop.value.code == 0
    assert f"infer.evaluate {name}" in capsys.readouterr().out
