"""Clips are what their captions say: times, sides, tempo and chords."""

import dataclasses

import numpy as np
import pytest

from data.recordings.plans import Event, Plan, render
from data.recordings.rhythms import GROOVES, plan_drums, plan_strumming, pool
from data.recordings.table import Recording
from data.recordings.windows import TIMES, Source, plan_loop, plan_window

RECORDING = Recording("p", "0" * 64, "a.wav", "effect", "CC0-1.0", "someone", "", "a cow mooing / a cow")
RATE = 44_100


def role(kind: str, role: str) -> Recording:
    return dataclasses.replace(RECORDING, sha256=f"{hash(role) % 10**9:064d}", kind=kind, role=role, file=role)


def test_events_are_mixed_where_they_start():
    click = np.zeros((2, 100), dtype=np.float32)
    click[:, 0] = 0.5
    events = [Event(recording=RECORDING, start_seconds=0.1), Event(recording=RECORDING, start_seconds=0.2, gain=0.5)]
    plan = Plan(name="c", group="effects", captions=[], events=events, peak_db=-6.0, tail_seconds=0.3)
    audio = render(plan, lambda _: click)
    assert audio.shape == (2, 8_820 + 100 + 13_230)
    assert np.nonzero(audio[0])[0].tolist() == [4_410, 8_820]
    assert audio[0, 4_410] == pytest.approx(10 ** (-6 / 20), rel=1e-6)
    assert audio[0, 8_820] == pytest.approx(audio[0, 4_410] / 2, rel=1e-6)


def test_panning_keeps_the_power():
    noise = np.repeat(np.random.default_rng(0).normal(size=(1, 1_000)).astype(np.float32), 2, axis=0)
    plan = Plan(name="c", group="effects", captions=[], events=[Event(recording=RECORDING, start_seconds=0, pan=-0.8)])
    left, right = np.square(render(plan, lambda _: noise)).sum(axis=1)
    angle = 0.2 * np.pi / 4
    assert left / right == pytest.approx((np.cos(angle) / np.sin(angle)) ** 2, rel=1e-4)


def test_a_damped_event_ends_at_its_stop():
    ones = np.ones((2, RATE), dtype=np.float32)
    event = Event(recording=RECORDING, start_seconds=0.5, stop_seconds=0.75)
    audio = render(Plan(name="c", group="effects", captions=[], events=[event]), lambda _: ones)
    assert audio.shape[1] == round(0.75 * RATE)
    assert audio[0, -1] == 0
    assert audio[0, -1_000] > 0.5


@pytest.mark.parametrize("seconds", [0.3, 3.0, 6.0])
def test_windows_say_how_often_and_where(seconds):
    for number in range(40):
        plan = plan_window(Source(RECORDING, seconds, True), "effects", "c", np.random.default_rng(number))
        assert plan.captions[:2] == RECORDING.captions
        times, side = len(plan.events), plan.facts["side"]
        last = plan.captions[-1]
        assert (TIMES.get(times, "no such") in last) == (times > 1)
        assert ("left" in last) == (side == "on the left") == (plan.events[0].pan < 0)
        starts = [event.start_seconds for event in plan.events]
        assert all(np.diff(starts) >= seconds + 0.1)
        assert starts[-1] + seconds + plan.tail_seconds < 14.5


def test_stereo_recordings_keep_their_side():
    plans = [plan_window(Source(RECORDING, 1.0, False), "effects", "c", np.random.default_rng(n)) for n in range(40)]
    assert {event.pan for plan in plans for event in plan.events} == {0.0}


def test_loops_have_no_gap():
    plan = plan_loop(Source(RECORDING, 2.5, False), "c", np.random.default_rng(0))
    starts = [event.start_seconds for event in plan.events]
    assert starts == [2.5 * index for index in range(len(starts))]
    assert 7 < 2.5 * len(starts) < 18


def test_strums_follow_the_tempo_of_the_caption():
    chords = pool(
        [role("strum", f"{chord}/{way}") for chord in ("E minor", "G major") for way in ("down", "up")], "strum"
    )
    for number in range(20):
        plan = plan_strumming(chords, "c", np.random.default_rng(number))
        eighth = 30 / float(plan.facts["tempo"])
        late = [event.start_seconds / eighth - round(event.start_seconds / eighth) for event in plan.events]
        assert all(0 <= delay * eighth < 0.0121 for delay in late)
        assert f"{plan.facts['key']}, {plan.facts['tempo']} bpm" in plan.captions[0]
        assert {event.recording.role.split("/")[0] for event in plan.events} == {plan.facts["key"]}
        assert all(event.stop_seconds for event in plan.events[:-1])


def test_progressions_use_the_chords_that_are_there():
    names = ["D minor", "G minor", "F major", "C major"]
    chords = pool([role("strum", f"{chord}/{way}") for chord in names for way in ("down", "up")], "strum")
    plans = [plan_strumming(chords, "c", np.random.default_rng(number)) for number in range(40)]
    played = [{event.recording.role.split("/")[0] for event in plan.events} for plan in plans]
    assert set().union(*played) == set(names)
    assert any("D minor, F, C and G minor" in caption for plan in plans for caption in plan.captions)


def test_drums_play_their_groove_at_its_tempo():
    pieces = {piece for groove in GROOVES for piece in groove.parts}
    kits = pool([role("drum", f"acoustic/{piece}") for piece in pieces], "drum")
    grooves = {groove.name: groove for groove in GROOVES}
    seen = set()
    for number in range(60):
        plan = plan_drums(kits, "c", np.random.default_rng(number))
        assert plan is not None
        groove = grooves[str(plan.facts["groove"])]
        seen.add(groove.name)
        sixteenth = 15 / float(plan.facts["tempo"])
        assert f"{groove.name} drum beat, acoustic drum kit, {plan.facts['tempo']} bpm" in plan.captions
        for piece, pattern in groove.parts.items():
            starts = [
                event.start_seconds / sixteenth for event in plan.events if event.recording.role.endswith(f"/{piece}")
            ]
            hits = [step + groove.swing * (step % 2) for step, hit in enumerate(pattern) if hit != "-"]
            assert starts[: len(hits)] == pytest.approx(hits)
    assert len(seen) > 8


def test_patterns_fill_their_bar():
    for groove in GROOVES:
        assert len({len(pattern) for pattern in groove.parts.values()}) == 1
        assert len(next(iter(groove.parts.values()))) in (12, 16)


def test_no_rhythm_without_its_pieces():
    assert plan_drums(pool([role("drum", "acoustic/kick")], "drum"), "c", np.random.default_rng(0)) is None
