"""The benchmark of inference runs at tiny sizes, counts what it says it counts, and refuses nonsense."""

import json
import time
from pathlib import Path

import pytest
import torch

from data.cli import run
from infer.benchmark import main
from infer.speed import WARM_UP, measure

CONFIGS = Path(__file__).parents[2] / "configs/tiny"
SMALL = ["--seconds", "0.1", "--repeats", "1", "--device", "cpu", "--json"]


def benchmark(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    run(main, argv=list(arguments), positionals=("what",))
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("what", "operations"), [("vae", 4), ("unet", 1), ("fifo", 3)])
def test_every_part_is_measured(what: str, operations: int, capsys: pytest.CaptureFixture[str]):
    queue = (
        ["--queue.num_chunks", "2", "--queue.chunk_frames", "4", "--queue.context_frames", "4"]
        if what == "fifo"
        else []
    )
    report = benchmark(capsys, what, "--configs", str(CONFIGS), *SMALL, *queue)
    assert len(report["results"]) == operations
    for row in report["results"]:
        assert row["audio_per_second"] == pytest.approx(row["audio_seconds"] / row["seconds"])
        assert row["peak_mib"] > 50
    audio_seconds = 4 * 1024 / 44_100  # 0.1 s is four frames, and so is a chunk
    assert [row["audio_seconds"] for row in report["results"]] == pytest.approx([audio_seconds] * operations)


def test_a_checkpoint_and_another_precision(tiny_folder: Path, capsys: pytest.CaptureFixture[str]):
    report = benchmark(capsys, "vae", "--model", str(tiny_folder), "--precision", "bfloat16", "--batch", "3", *SMALL)
    assert report["settings"]["precision"] == "bfloat16"
    assert report["results"][0]["audio_seconds"] == pytest.approx(3 * 4 * 1024 / 44_100)


def test_the_median_of_the_calls_after_the_warm_up(monkeypatch: pytest.MonkeyPatch):
    clock = iter([0.0, 1.0, 10.0, 13.0, 20.0, 29.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    calls = []
    speed = measure("count", lambda: calls.append(1), 6.0, torch.device("cpu"), repeats=3)
    assert len(calls) == WARM_UP + 3
    assert speed.seconds == 3.0
    assert speed.audio_per_second == 2.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clap"], "vae"),
        (["vae", "--seconds", "0"], "must be above 0"),
        (["vae", "--model", "nowhere"], "no model in nowhere"),
        (["vae", "--configs", "nowhere"], "no configuration nowhere/vae.yaml"),
    ],
)
def test_user_errors_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        run(main, argv=arguments, positionals=("what",))
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
