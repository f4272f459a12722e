"""`evaluate facts`: prompts, checks, and the command on a tiny model."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from data.cli import run
from data.synthetic import KINDS
from infer.embedders import Embedded, Embedder, Preprocessing
from infer.embedders.mel import sound_features
from infer.evaluate import fact_prompts
from infer.evaluate import facts as facts_command
from infer.evaluate.fact_checks import TOLERANCES, FactMeter, key_of, loud_frames_db
from infer.evaluate.fact_prompts import FACTS, SyntheticPrompt, corpus_prompts, plain_prompts, render
from infer.evaluate.fact_references import WordClassifier
from infer.evaluate.instrument_prompts import INSTRUMENT_FACTS, instrument_prompts
from infer.evaluate.results import Results

SECONDS = 4.0
METER = FactMeter(SECONDS)


def plain(prompt: str) -> SyntheticPrompt:
    return next(item for item in plain_prompts(SECONDS) if item.prompt == prompt)


def add_noise(audio: Tensor, below_db: float) -> Tensor:
    noise = torch.randn(audio.shape, generator=torch.Generator().manual_seed(0))
    return audio + noise * audio.square().mean().sqrt() * 10 ** (-below_db / 20)


def test_prompts_state_the_facts_in_turn():
    wanted = ("tempo_bpm", "pitch", "side")
    found = corpus_prompts(9, SECONDS, facts=wanted)
    assert len({item.prompt for item in found}) == 9
    for fact in wanted:
        assert sum(fact in item.facts for item in found) >= 3
    assert found == corpus_prompts(9, SECONDS, facts=wanted)
    assert found != corpus_prompts(9, SECONDS, facts=wanted, seed=1)
    for item in found:
        assert item.layer.seconds == SECONDS
        if "tempo_bpm" in item.facts:
            assert str(item.layer.tempo_bpm) in item.prompt


def test_unknown_and_impossible_prompts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fact_prompts, "MAX_TRIES", 300)
    with pytest.raises(ValueError, match="unknown facts: speed"):
        corpus_prompts(1, SECONDS, facts=("speed",))
    with pytest.raises(ValueError, match="wanted 2"):
        corpus_prompts(2, SECONDS, facts=("tempo_bpm",), kinds=("rain",))


def test_every_fact_is_explained():
    assert set(FACTS) | set(INSTRUMENT_FACTS) == set(TOLERANCES)


def test_a_passing_sound_has_motion_and_no_side():
    layer = replace(plain("a siren on the left").layer, shape="passing", stated=("side", "shape"))
    item = SyntheticPrompt(prompt="a siren passing from left to right", layer=layer, seed=0)
    assert item.facts == ("kind", "motion")
    assert item.asked("motion") == "to the right"
    audio = item.real_clip()
    assert METER.read(audio, item, "motion").met
    assert not METER.read(audio.flip(0), item, "motion").met
    assert not METER.read(audio.mean(dim=0).expand(2, -1), item, "motion").met


@pytest.mark.parametrize("below_db", [60.0, 20.0])
@pytest.mark.parametrize(
    ("prompt", "fact"),
    [("a drum loop at 140 bpm", "tempo_bpm"), ("a sustained note at C4", "pitch"), ("rain on the left", "side")],
)
def test_real_clips_have_their_facts_and_changed_ones_lose_them(prompt: str, fact: str, below_db: float):
    item = plain(prompt)
    audio = add_noise(item.real_clip(), below_db if fact != "side" else 60.0)
    assert METER.read(audio, item, fact).met
    changed = audio.flip(0) if fact == "side" else faster(audio, 1.15)  # two semitones higher, 15 % faster
    assert not METER.read(changed, item, fact).met
    assert not METER.read(torch.zeros_like(audio), item, fact).met


def faster(audio: Tensor, factor: float) -> Tensor:
    at = np.arange(0, audio.shape[-1] - 1, factor)
    return torch.from_numpy(np.stack([np.interp(at, np.arange(audio.shape[-1]), channel) for channel in audio.numpy()]))


def test_rate_is_told_by_real_clips_of_the_kind():
    layer = replace(plain("a clock").layer, kind="frogs", tempo_bpm=None, stated=("rate",))
    met = []
    for seed in range(4):
        for rate, rate_hz in zip(("low", "high"), (KINDS["frogs"].rates_hz or ())[::2], strict=True):
            item = SyntheticPrompt(prompt="frogs", layer=replace(layer, rate=rate, rate_hz=rate_hz), seed=seed)
            met.append(METER.read(item.real_clip(), item, "rate").met)
    assert np.mean(met) >= 0.8


def test_brightness_is_told_by_real_clips_of_the_kind():
    layer = replace(plain("rain").layer, stated=("brightness",))
    for word in ("dark", "bright"):
        item = SyntheticPrompt(prompt=f"{word} rain", layer=replace(layer, brightness=word), seed=0)
        other = SyntheticPrompt(prompt="rain", layer=replace(layer, brightness="neutral"), seed=0)
        assert METER.read(item.real_clip(), item, "brightness").met
        assert not METER.read(other.real_clip(), item, "brightness").met


def test_course_loudness_and_length():
    steady = plain("rain")
    audio = steady.real_clip()
    rising = SyntheticPrompt(prompt="rain", layer=replace(steady.layer, shape="fade in", stated=("shape",)), seed=0)
    assert METER.read(rising.real_clip(), rising, "course").met
    assert not METER.read(audio, rising, "course").met
    assert not METER.read(rising.real_clip().flip(-1), rising, "course").met
    loud = SyntheticPrompt(
        prompt="loud rain", layer=replace(steady.layer, loudness="loud", stated=("loudness",)), seed=0
    )
    assert METER.read(loud.real_clip(), loud, "loudness").met
    assert not METER.read(0.25 * loud.real_clip(), loud, "loudness").met
    assert METER.read(audio, steady, "length").met
    assert not METER.read(audio[:, : audio.shape[-1] // 2], steady, "length").met
    assert loud_frames_db(torch.full((2, 44_100), 0.1)) == pytest.approx(-20.0, abs=0.01)


def test_key_of_a_scale():
    time = torch.arange(44_100 * 4) / 44_100
    for tonic, mode, steps in ((57, "A minor", (0, 3, 7, 0)), (62, "D major", (0, 4, 7, 0))):
        tones = sum(torch.sin(2 * math.pi * 440 * 2 ** ((tonic + s - 69) / 12) * time) for s in steps)
        assert key_of(0.1 * torch.stack((tones, tones))) == mode  # pyright: ignore[reportArgumentType]


def test_classifier_separates_gaussians_and_ignores_level_and_side():
    generator = torch.Generator().manual_seed(0)
    means = {"a": torch.zeros(5), "b": torch.tensor([3.0, 0, 0, 0, 0])}
    draw = {word: [mean + torch.randn(5, generator=generator) for _ in range(200)] for word, mean in means.items()}
    doubled = {word: [row.double() for row in rows] for word, rows in draw.items()}
    classify = WordClassifier(doubled, shrinkage=0.05)
    right = [classify.ranked(row)[0] == word for word, rows in doubled.items() for row in rows]
    assert np.mean(right) == pytest.approx(0.933, abs=0.03)  # the normal distribution's share below 1.5 sigma
    audio = plain("a clock").real_clip()
    torch.testing.assert_close(sound_features(audio), sound_features(0.1 * audio.flip(0)), rtol=1e-5, atol=1e-5)


def test_real_clips_are_reproducible():
    item = plain("rain")
    assert torch.equal(item.real_clip(), item.real_clip())
    assert not torch.equal(render(item.layer, 1), render(item.layer, 2))
    assert item.real_clip().shape == (2, round(SECONDS * 44_100))


def test_command(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = ["--prompts", "3", "--plain", "false", "--seconds", "2", "--facts", "[tempo_bpm,side]"]
    making = ["--generation.model", str(tiny_folder), "--generation.num_steps", "2", "--report_clips", "1"]
    folders = ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    run(facts_command.main, argv=[*options, *making, *folders])
    table = capsys.readouterr().out
    assert "tempo_bpm" in table
    results = Results.load(tmp_path / "out")
    real = {score.measure: score.value for score in results.scores if score.subject == "real"}
    assert set(real) <= {"tempo_bpm", "side", "all facts"}
    assert min(real.values()) > 0.9
    assert len(results.clips) == 3
    assert results.weights
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert content["settings"]["generation"]["num_steps"] == 2
    assert (tmp_path / "out" / "audio" / "000-0.flac").stat().st_size > 1000
    page = (tmp_path / "out" / "report.html").read_text()
    assert 'src="audio/000-0.flac"' in page
    assert 'src="spectrograms/000-1.png"' in page


def test_command_refuses(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    argv = ["--prompts", "0", "--plain", "false", "--generation.model", str(tiny_folder), "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        run(facts_command.main, argv=argv)
    assert stop.value.code == 2
    assert "nothing to measure" in capsys.readouterr().err


def test_prompts_of_instruments_are_held_out_and_fix_what_can_be_heard():
    found = instrument_prompts(12, SECONDS)
    assert len({item.prompt for item in found}) == 12
    assert found == instrument_prompts(12, SECONDS)
    for item in found:
        assert item.facts
        assert set(item.facts) <= set(INSTRUMENT_FACTS)
        if "tempo_bpm" in item.facts:
            assert str(round(float(item.asked("tempo_bpm")))) in item.prompt
        if len(item.piece.parts) > 1:
            assert not {"instrument", "side", "pitch"} & set(item.facts)
    with pytest.raises(ValueError, match="unknown facts of instruments: rate"):
        facts_command.main(corpus="instruments", facts=["rate"], seconds=SECONDS)


def test_an_instrument_is_named_among_three_and_a_tag_by_the_tagger():
    class Tagger(torch.nn.Module):
        def forward(self, windows: Tensor) -> Embedded:
            return Embedded(windows.mean(dim=2), torch.tensor([[0.1, 0.5, 0.2, 0.9]]).expand(len(windows), -1))

    tagger = Embedder("tagger", Preprocessing(sample_rate=44_100), Tagger())
    item = next(item for item in instrument_prompts(40, SECONDS) if "instrument tag" in item.facts)
    assert not FactMeter(SECONDS).can_measure("instrument tag")
    for others, met in ((("loud", "slow", "fast"), False), (("loud", str(item.asked("instrument tag")), "fast"), True)):
        meter = FactMeter(SECONDS, tagger, (*others, "pop"))
        reading = meter.read(torch.zeros(2, 44_100), item, "instrument tag")
        assert reading.measured == f"pop, {others[1]}, {others[2]}"
        assert reading.met == met


def test_share_of_the_way_from_other_prompts_to_real_clips():
    results = Results(command="evaluate facts", settings={})
    scores = {
        facts_command.GENERATED: {"a": 1.0, "b": 0.0, "alone": 1.0},
        facts_command.REAL: {"a": 1.0, "b": 0.8, "alone": 1.0},
        facts_command.CODED: {},
        facts_command.OTHERS: {"a": 0.2, "b": 0.2},
    }
    facts_command._add_scores(results, "tempo", scores)
    share = next(score for score in results.scores if score.subject == facts_command.SHARE)
    assert share.value == pytest.approx((0.5 - 0.2) / (0.9 - 0.2))
    assert share.num == 2
