"""Results to a folder and back, the page, and two folders compared."""

import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from data.cli import run
from infer.evaluate import compare
from infer.evaluate.__main__ import COMMANDS
from infer.evaluate.__main__ import main as evaluate
from infer.evaluate.report import write_report, write_spectrogram
from infer.evaluate.results import ReportClip, Results, Score


def make_results(shift: float = 0.0, num: int = 30) -> Results:
    results = Results(
        command="evaluate facts", settings={"shift": shift, "path": Path("a/b")}, weights={"unet": "12ab"}
    )
    values = np.random.default_rng(0).standard_normal(num)
    results.add_mean("quality", "generated", {f"clip {i}": float(v + shift) for i, v in enumerate(values)})
    results.add_mean("error", "generated", {f"clip {i}": float(v + shift) for i, v in enumerate(values)}, "lower")
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
    results.add_mean("empty", "generated", {"clip": math.nan})
    results.save(tmp_path / "out")
    loaded = Results.load(tmp_path / "out")
    assert loaded.scores[:3] == results.scores[:3]
    assert math.isnan(loaded.scores[3].value)
    assert loaded.weights == {"unet": "12ab"}
    assert loaded.table() == results.table()
    assert "| quality" in (tmp_path / "out" / "table.md").read_text()


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


def test_compare_without_common_clips():
    """Unpaired: another seed's clips; a difference of one standard deviation is found, none is not."""
    scores = {}
    for name, shift, seed in (("a", 0.0, 0), ("b", 0.0, 1), ("c", 1.5, 2)):
        values = np.random.default_rng(seed).standard_normal(40) + shift
        by_clip = {f"{name}{i}": float(v) for i, v in enumerate(values)}
        scores[name] = Score(measure="m", subject="s", value=float(values.mean()), num=40, values=by_clip)
    same, other = compare.difference_p(scores["a"], scores["b"]), compare.difference_p(scores["a"], scores["c"])
    assert same is not None
    assert same > 0.05
    assert other is not None
    assert other < 0.01


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


def test_spectrogram_shows_a_tone_where_it_is(tmp_path: Path):
    time = torch.arange(44_100) / 44_100
    write_spectrogram(tmp_path / "low.png", torch.sin(2 * math.pi * 300 * time)[None])
    write_spectrogram(tmp_path / "high.png", torch.sin(2 * math.pi * 9000 * time)[None])
    rows = [int(imread(tmp_path / f"{name}.png")[..., :3].sum(axis=(1, 2)).argmax()) for name in ("low", "high")]
    assert rows[0] > 100  # of 128, from the top
    assert rows[1] < 40


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
