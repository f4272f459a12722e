"""The corpus: same seed same clip, levels, speed, what is held out, and the audible consequence of the facts."""

import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data.synthetic import KINDS, SAMPLE_RATE, Layer, draw_clip, plan_clip
from data.synthetic.__main__ import main
from data.synthetic.draw import SCENES, draw_layer, mix
from data.synthetic.held_out import COMBINATIONS, PAIRS, is_held_out
from data.synthetic.layers import midi_to_hz, midi_to_name
from data.synthetic.space import active_level
from data.synthetic.vocabulary import HELD_OUT_PAIR_FORMS, HELD_OUT_SINGLE_FORMS, WORDS
from data.synthetic.wording import describe

PLAIN: dict = {
    "side": "center",
    "brightness": "neutral",
    "loudness": "medium",
    "distance": "medium",
    "shape": "steady",
}


def render(kind: str, seconds: float = 4.0, **facts: object) -> np.ndarray:
    """One plain layer of a kind with the given facts: (2, samples)."""
    fixed = {**PLAIN, **({"rate": "medium"} if KINDS[kind].rates_hz else {}), **facts}
    layer = draw_layer(KINDS[kind], seconds, np.random.default_rng(1), fixed)
    return mix([layer], [np.random.SeedSequence(7)], np.random.default_rng(2))


def centroid_hz(audio: np.ndarray) -> float:
    power = np.abs(np.fft.rfft(audio.mean(axis=0))) ** 2
    hz = np.fft.rfftfreq(audio.shape[-1], 1 / SAMPLE_RATE)
    return float(np.sum(hz * power) / np.sum(power))


def level_db(audio: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(audio**2)))


def test_same_seed_same_clip() -> None:
    first, again, other = draw_clip(3), draw_clip(3), draw_clip(4)
    assert first.prompt == again.prompt
    assert first.metadata == again.metadata
    np.testing.assert_array_equal(first.audio, again.audio)
    assert other.prompt != first.prompt
    assert draw_clip(3, held_out=True).prompt != first.prompt


def test_known_clip() -> None:
    """On another machine or numpy the same; a change of the corpus that alters old seeds shows here."""
    clip = draw_clip(12)
    assert clip.prompt == "dark clock ticks slowly dying away on the left behind fast knocking"
    assert clip.audio.shape == (2, 287_973)
    assert np.sqrt(np.mean(clip.audio**2)) == pytest.approx(0.027422, abs=1e-5)
    expected = [-0.005951, 0.000462, 0.001600, 0.000580]
    np.testing.assert_allclose(clip.audio[0, 44_100:88_200:11_025], expected, atol=2e-5)


def test_clips_are_sound() -> None:
    lengths = [plan_clip(seed)[2]["seconds_total"] for seed in range(300)]
    assert 2.0 <= min(lengths) < 4.0
    assert 30.0 < max(lengths) <= 60.0
    assert 8.0 < np.median(lengths) < 10.0
    for seed in range(20):
        clip = draw_clip(seed)
        audio = clip.audio
        assert audio.dtype == np.float32
        assert audio.shape == (2, round(clip.metadata["seconds_total"] * SAMPLE_RATE))
        assert clip.metadata["seconds_total"] == lengths[seed]
        assert np.isfinite(audio).all()
        assert np.max(np.abs(audio)) < 0.95
        assert np.max(np.abs(audio.mean(axis=1))) < 1e-4
        frames = audio[:, : audio.shape[1] // 1024 * 1024].reshape(2, -1, 1024)
        assert 20 * np.log10(frames.std(axis=-1).min()) > -80  # a noise floor, never digital silence
        assert level_db(audio) > -55
        json.dumps(clip.metadata)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_renders_and_has_words(kind: str) -> None:
    audio = render(kind)
    assert np.isfinite(audio).all()
    assert level_db(audio) > -45
    assert WORDS[kind].nouns
    if KINDS[kind].rates_hz:
        assert WORDS[kind].low
        assert WORDS[kind].high


def test_kinds_and_layer_counts() -> None:
    assert len(KINDS) >= 24
    plans = [plan_clip(seed)[0] for seed in range(1500)]
    counts = Counter(len(layers) for layers in plans)
    assert set(counts) == {1, 2, 3}
    assert 0.6 < counts[1] / 1500 < 0.8
    assert {layer.kind for layers in plans for layer in layers} == set(KINDS)


def test_what_is_heard_together_is_drawn_together() -> None:
    names = frozenset(("rain", "thunder", "wind"))
    plans = [plan_clip(seed, kinds=tuple(names))[0] for seed in range(1500)]
    layered = [{layer.kind for layer in layers} for layers in plans if len(layers) > 1]
    assert 0.3 < sum(kinds <= names for kinds in layered) / len(layered) < 0.6
    assert all(scene <= set(KINDS) for scene in SCENES)


@pytest.mark.parametrize("kind", ["rain", "clock", "siren", "sustained note", "organ chords"])
def test_side(kind: str) -> None:
    for side, sign in (("left", 1), ("right", -1)):
        audio = render(kind, side=side)
        assert sign * (level_db(audio[:1]) - level_db(audio[1:])) > 12
    center, wide = render(kind, side="center"), render(kind, side="wide")
    assert abs(level_db(center[:1]) - level_db(center[1:])) < 1
    assert np.corrcoef(center)[0, 1] > 0.98
    assert np.corrcoef(wide)[0, 1] < 0.8


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS.values() if kind.colored])
def test_brightness(kind: str) -> None:
    timbre = "string-like" if kind == "sustained note" else KINDS[kind].timbres[0] if KINDS[kind].timbres else None
    dark, neutral, bright = (
        centroid_hz(render(kind, brightness=brightness, timbre=timbre)) for brightness in ("dark", "neutral", "bright")
    )
    assert dark < neutral * 1.02
    assert neutral < bright * 1.02
    assert dark < 0.85 * bright


def test_loudness_and_distance() -> None:
    levels = [20 * np.log10(active_level(render("fan", loudness=word))) for word in ("quiet", "medium", "loud")]
    np.testing.assert_allclose(levels, [-34, -20, -12], atol=0.5)
    near, distant = render("knocking", distance="near"), render("knocking", distance="distant")
    assert active_level(distant) < 0.5 * active_level(near)
    assert centroid_hz(distant) < centroid_hz(near)


def test_course_in_time() -> None:
    thirds = {shape: np.array_split(render("engine", shape=shape), 3, axis=1) for shape in ("fade in", "receding")}
    assert level_db(thirds["fade in"][2]) - level_db(thirds["fade in"][0]) > 10
    assert level_db(thirds["receding"][0]) - level_db(thirds["receding"][2]) > 10
    first, middle, last = np.array_split(render("siren", shape="passing", side="left"), 3, axis=1)
    assert level_db(first[:1]) - level_db(first[1:]) > 5
    assert level_db(last[1:]) - level_db(last[:1]) > 5
    assert level_db(middle) > level_db(first) + 3


def test_notes() -> None:
    assert midi_to_name(69) == "A4"
    assert midi_to_hz(69) == 440.0
    audio = render("sustained note", timbre="pure sine", midi=69)
    spectrum = np.abs(np.fft.rfft(audio[0]))
    assert np.argmax(spectrum) * SAMPLE_RATE / audio.shape[1] == pytest.approx(440, abs=1)


def test_held_out_never_without_asking() -> None:
    assert is_held_out([Layer(kind="siren", seconds=3.0, side="left", brightness="bright")])
    assert not is_held_out([Layer(kind="siren", seconds=3.0, side="left")])
    for combination in COMBINATIONS:
        assert combination["kind"] in KINDS
        assert len(combination) > 1
    assert all(name in KINDS for pair in PAIRS for name in pair)
    reasons = Counter()
    openings = [form.split("{")[0] for form in HELD_OUT_SINGLE_FORMS + HELD_OUT_PAIR_FORMS if not form.startswith("{")]
    for seed in range(1000):
        layers, prompt, metadata = plan_clip(seed)
        assert metadata["held_out"] is None
        assert not is_held_out(layers)
        assert not prompt.lower().startswith(tuple(openings))
        layers, prompt, metadata = plan_clip(seed, held_out=True)
        reasons[metadata["held_out"]] += 1
        assert is_held_out(layers) == (metadata["held_out"] != "wording")
    assert set(reasons) == {"combination", "pair", "wording"}


def test_caption_says_the_facts() -> None:
    rng = np.random.default_rng(0)
    layer = Layer(kind="drum loop", seconds=4.0, tempo_bpm=120, side="left", stated=("tempo_bpm", "side"))
    for _ in range(20):
        text = describe(layer, rng)
        assert "120" in text
        assert "left" in text
    note = Layer(kind="sustained note", seconds=4.0, midi=69, timbre="flute-like", stated=("pitch", "timbre"))
    assert all("A4" in (text := describe(note, rng)) and "flute" in text for _ in range(10))
    assert len({describe(layer, rng) for _ in range(50)}) > 12


def test_speed() -> None:
    draw_clip(1000)
    start, seconds = time.process_time(), 0.0
    for seed in range(15):
        seconds += draw_clip(seed).metadata["seconds_total"]
    assert seconds / (time.process_time() - start) > 20


def test_command_writes_and_continues(tmp_path: Path) -> None:
    out = tmp_path / "clips"
    main(out, clips=2, processes=1)
    lines = (out / "manifest.jsonl").read_text().splitlines()
    (out / "manifest.jsonl").write_text(lines[0] + "\n" + lines[1][:20])  # cut off in the middle of a line
    main(out, clips=3, processes=1)
    entries = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [entry["seed"] for entry in entries] == [0, 1, 2]
    for entry in entries:
        audio, rate = soundfile.read(out / entry["path"], always_2d=True)
        assert rate == SAMPLE_RATE
        np.testing.assert_allclose(audio.T, draw_clip(entry["seed"]).audio, atol=1e-4)
    with pytest.raises(ValueError, match="another folder"):
        main(out, clips=3, held_out=True)
    with pytest.raises(ValueError, match="at least 1"):
        main(out, clips=0)
