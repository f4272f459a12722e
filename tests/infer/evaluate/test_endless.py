"""`evaluate endless`: which streams an experiment compares, and the command on a tiny model."""

import dataclasses
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from data.cli import run
from infer.evaluate import endless, endless_measures
from infer.evaluate.endless_experiments import variants
from infer.evaluate.endless_streams import stream_key
from infer.evaluate.results import Results
from infer.fifo import QueueOptions, StreamConfig
from infer.guidance import GuidanceConfig
from models.queue import QueueConfig

BASE = StreamConfig()
QUEUE = QueueConfig()


def test_experiments():
    labels = {
        name: [variant.label for variant in variants(name, BASE, QUEUE, 60.0)]
        for name in ("focus", "steps", "length", "methods", "parts", "guard")
    }
    assert labels["focus"] == ["concatenate", "equal", "initial", "middle", "last", "fifo"]
    assert labels["length"] == ["10 s", "30 s", "60 s"]
    assert labels["methods"][0] == "fifo"
    assert all(len(set(found)) == len(found) for found in labels.values())
    assert [variant.seconds for variant in variants("cost", BASE, QUEUE, 45.0)] == [10.0, 30.0, 45.0]


def test_numbers_of_steps():
    compared = variants("steps", BASE, QUEUE, 10.0)
    steps = {variant.label: variant.config.queue.of(QUEUE).num_steps for variant in compared}
    assert steps == {
        "200 equal": 200,
        "250 equal": 250,
        "curved, 130": 130,
        "second order, 40": 40,
        "second order, 30": 30,
    }


def test_parts_change_one_thing():
    configured, *others = (variant.config for variant in variants("parts", BASE, QUEUE, 10.0))
    assert configured.queue.of(QUEUE) == QUEUE
    for other in others:
        assert (other.queue != configured.queue) + (other.sampling != configured.sampling) == 1
        assert other.guidance == BASE.guidance
        assert other.queue.of(QUEUE).queue_frames == QUEUE.queue_frames


def test_guards_are_each_alone():
    none, *others = (variant.config for variant in variants("guard", BASE, QUEUE, 10.0))
    assert none.guard.pull == 0
    for other in others:
        assert sum(getattr(other, part) != getattr(none, part) for part in ("queue", "guard", "timing")) == 1


def test_the_method_reaches_what_is_not_under_test():
    asked = {variant.label: variant.method for variant in variants("guard", BASE, QUEUE, 10.0, "slide")}
    assert set(asked.values()) == {"slide"}
    assert {variant.method for variant in variants("length", BASE, QUEUE, 20.0, "concatenate")} == {"concatenate"}
    own = {variant.label: variant.method for variant in variants("methods", BASE, QUEUE, 10.0, "slide")}
    assert all(label == method for label, method in own.items())


def test_measured_stream():
    """Noise that is cut to another level every half second: seams at the joins, and only there."""
    generator = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(2, 441_000, generator=generator)
    gain = torch.rand(20, generator=generator).repeat_interleave(22_050) * 0.9 + 0.1
    at_joins, elsewhere = endless_measures.measure_joins(noise * gain, 0.5), endless_measures.measure_joins(noise, 0.5)
    assert at_joins["seam level step (effect)"] > 2
    assert at_joins["seam level step (p)"] < 0.01
    assert abs(elsewhere["seam level step (effect)"]) < 1
    assert endless_measures.measure_course(endless_measures.Sound(noise))["loudness drift (LU/min, size)"] < 1
    assert not any(name.startswith("seam") for name in endless_measures.measure_joins(noise, 0.02))


def test_times_of_chunks():
    """A first sound after 2 s, then 100 chunks of 0.1 s but for three of 0.5 s and one of 1 s."""
    steps = [2.0] + [0.1] * 48 + [0.5] * 3 + [1.0] + [0.1] * 48
    times = [5.0 + sum(steps[:k]) for k in range(len(steps) + 1)]
    measured = endless_measures.measure_times(times)
    assert measured["first sound (s)"] == pytest.approx(2)
    assert measured["chunk time, median (s)"] == pytest.approx(0.1)
    assert measured["chunk time, 95th percentile (s)"] == pytest.approx(0.1)
    assert measured["chunk time, 99th percentile (s)"] == pytest.approx(0.505)
    assert set(endless_measures.measure_times(times[:2])) == {"first sound (s)"}
    assert not endless_measures.measure_times(times[:1])


def test_seams_of_latents():
    """Chunks that know nothing of each other, and the same frames cut where nothing happens."""
    walk = torch.randn(4, 20 * 16, generator=torch.Generator().manual_seed(1)).cumsum(dim=1) * 0.1
    chunks = list(walk.split(16, dim=1))
    smooth = endless_measures.measure_latent_joins(chunks)["seam latents (effect)"]
    torn = endless_measures.measure_latent_joins([chunk + 3 * (k % 2) for k, chunk in enumerate(chunks)])
    assert abs(smooth) < 0.6
    assert torn["seam latents (effect)"] > 5
    assert not endless_measures.measure_latent_joins(chunks[:3])
    assert not endless_measures.measure_latent_joins(list(walk.split(1, dim=1)))


def test_command(tiny_folder: Path, tmp_path: Path):
    queue = [
        "--queue.num_chunks",
        "2",
        "--queue.steps_per_shift",
        "1",
        "--queue.context_frames",
        "8",
    ]
    where = ["--model", str(tiny_folder), "--out", str(tmp_path / "out"), "--device", "cpu"]
    argv = ["length", "--seconds", "8", "--prompts", "2", "--report_clips", "1", *queue, *where]
    run(endless.main, argv=argv, positionals=endless.POSITIONALS)
    results = Results.load(tmp_path / "out")
    scores = {(score.measure, score.subject): score for score in results.scores}
    assert scores["real-time factor", "8 s"].value > 0
    assert scores["peak memory (MiB)", "8 s"].value > 10
    assert scores["near repeats (share)", endless.REAL].num == 2
    assert -1 <= scores["consistency, normalised", "8 s"].value <= 1
    assert abs(scores["seam latents (effect)", "8 s"].value) < 20
    assert scores[endless_measures.DRIFT, endless.REAL].num == 2
    for name in (endless.LENGTHS, endless.SPECTROGRAMS):
        assert imread(tmp_path / "out" / name).std() > 0.01
    assert len((tmp_path / "out" / "table.csv").read_text().splitlines()) == len(results.scores) + 1
    # the streams are there now: the costs are those of the first time
    run(endless.main, argv=argv, positionals=endless.POSITIONALS)
    again = {(score.measure, score.subject): score for score in Results.load(tmp_path / "out").scores}
    assert again["real-time factor", "8 s"].value == scores["real-time factor", "8 s"].value
    other = variants("length", dataclasses.replace(BASE, guidance=GuidanceConfig(scale=2.0)), QUEUE, 8.0)[0]
    assert stream_key(other, "rain 0", {}) != stream_key(variants("length", BASE, QUEUE, 8.0)[0], "rain 0", {})
    with pytest.raises(ValueError, match="at least 8 s"):
        endless.main("length", seconds=2.0)


def test_queue_of_the_base_is_valid():
    for experiment in ("focus", "steps", "methods", "parts"):
        for variant in variants(experiment, StreamConfig(queue=QueueOptions(num_chunks=4)), QUEUE, 10.0):
            assert variant.config.queue.of(QUEUE).num_steps >= 1
