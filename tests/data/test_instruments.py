"""Pieces played by instruments: same seed same clip, notes, pitches, sides, captions, what is held out, the command."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data.instruments import GROOVES, INSTRUMENTS, KITS, Part, Piece, captions, draw_clip, plan_clip
from data.instruments.__main__ import main
from data.instruments.compose import compose
from data.instruments.ensembles import BAND_OF_GROOVE, BANDS, CHAMBERS, chamber_of
from data.instruments.grooves import METRES
from data.instruments.harmony import MODES, Key
from data.instruments.held_out import COMBINATIONS, PAIRS, combination_of, is_held_out
from data.instruments.render import LEVELS_DB, perform
from data.instruments.score import strokes
from data.instruments.soundfont import SoundFont, Stroke, find_soundfont, open_soundfont
from data.instruments.table import CHORDS, DRUMS, MELODY, PIECE
from data.instruments.vocabulary import HELD_OUT_FRAMES
from data.instruments.wording import is_plural, with_articles
from data.synthetic.layers import SAMPLE_RATE, midi_to_hz
from data.synthetic.space import active_level
from models.errors import UserError
from tests.data.tiny_soundfont import write_soundfont

pytest.importorskip("tinysoundfont", reason="needs the extra corpus")


@pytest.fixture(scope="module")
def soundfont(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_soundfont(tmp_path_factory.mktemp("soundfont") / "tiny.sf2")


@pytest.fixture(scope="module")
def fluid() -> SoundFont:
    """The SoundFont that is installed, or that the environment variable SOUNDFONT names."""
    named = os.environ.get("SOUNDFONT")
    try:
        return open_soundfont(find_soundfont(Path(named) if named else None))
    except UserError:
        pytest.skip("no General MIDI SoundFont is installed")


def note_piece(instrument: str, midi: int, side: str = "center", dynamics: str = "medium") -> Piece:
    part = Part(instrument=instrument, role=MELODY, side=side)
    return Piece(form="note", parts=(part,), tempo_bpm=80, num_bars=1, midi=midi, space="dry", dynamics=dynamics)


def play(piece: Piece, font: SoundFont) -> np.ndarray:
    return perform(piece, compose(piece, np.random.default_rng(1)), font, np.random.default_rng(2))


def cents(audio: np.ndarray, hz: float) -> tuple[float, float]:
    """Deviation from a frequency of the strongest partial near it or near its octave, and its level below the
    strongest of all in dB: (cents, dB)."""
    sound = audio.mean(axis=0)[round(0.15 * SAMPLE_RATE) : round(2.0 * SAMPLE_RATE)]
    size = 1 << 18
    power = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), size))
    found = []
    for harmonic in (1, 2):
        low, high = (round(harmonic * hz * 2 ** (shift / 1200) * size / SAMPLE_RATE) for shift in (-70, 70))
        peak = low + int(np.argmax(power[low : high + 1]))
        level = float(20 * np.log10(power[peak] / power.max()))
        found.append((level, 1200 * np.log2(peak * SAMPLE_RATE / size / harmonic / hz)))
    level, deviation = max(found)
    return float(deviation), level


def octaves_below(audio: np.ndarray, hz: float) -> float:
    """Level of what sounds one or two octaves below a frequency against it and its octave, in dB."""
    power = np.abs(np.fft.rfft(audio.mean(axis=0)[:SAMPLE_RATE] * np.hanning(SAMPLE_RATE)))  # a bin a Hz
    levels = [power[round(ratio * hz) - 2 : round(ratio * hz) + 3].max() for ratio in (0.25, 0.5, 1.0, 2.0)]
    return float(20 * np.log10(max(levels[:2]) / max(levels[2:])))


def test_there_are_enough_instruments_and_grooves() -> None:
    assert len(INSTRUMENTS) >= 40
    assert len(GROOVES) >= 12
    assert len({instrument.program for instrument in INSTRUMENTS.values()}) == len(INSTRUMENTS)
    assert set(BAND_OF_GROOVE) == set(GROOVES)
    assert {name for names in CHAMBERS.values() for name in names} <= set(INSTRUMENTS)
    for players in BANDS.values():
        assert {name for pool in players for name in pool} <= set(INSTRUMENTS)


@pytest.mark.parametrize("groove", GROOVES.values(), ids=lambda groove: groove.name)
def test_patterns_fill_their_bars(groove) -> None:
    beats = METRES[groove.metre]
    assert set(groove.kits) <= set(KITS)
    for pattern in (*groove.drums.values(), groove.bass, groove.chords):
        assert set(pattern) <= set("Xxo.")
        assert len(pattern) % beats == 0
        for bar in range(2):
            placed = strokes(pattern, beats, bar)
            assert all(beat >= 0 and beat + length <= beats + 1e-9 for beat, length, _ in placed)
    steps = {len(pattern) for pattern in groove.drums.values()}
    assert max(steps) in (min(steps), 2 * min(steps))


def test_keys_and_chords() -> None:
    minor = Key(tonic=9, mode="minor")
    assert str(minor) == "A minor"
    assert [minor.note(degree) for degree in range(-1, 9)] == [-2, 0, 2, 3, 5, 7, 8, 10, 12, 14]
    assert minor.chord(0) == (0, 3, 7)
    assert minor.chord(4) == (7, 11, 14)  # major, as it leads home
    assert minor.chord(3) == (5, 8, 12)
    assert Key(tonic=0, mode="major").chord(4, seventh=True) == (7, 11, 14, 17)
    for mode in MODES.values():
        assert {chord for progression in mode.progressions for chord in progression} <= set(range(7))
        assert set(mode.scale) - {6} <= set(mode.chord_scale) | {3, 10}  # blue notes


def test_same_seed_same_clip(soundfont: Path) -> None:
    for seed in (0, 3, 11):
        first, again = draw_clip(seed, soundfont), draw_clip(seed, soundfont)
        assert first.prompt == again.prompt
        assert first.metadata == again.metadata
        np.testing.assert_array_equal(first.audio, again.audio)
    assert draw_clip(4, soundfont).prompt != draw_clip(3, soundfont).prompt
    assert draw_clip(3, soundfont, held_out=True).prompt != draw_clip(3, soundfont).prompt


def test_clips_are_sound(soundfont: Path) -> None:
    for seed in range(25):
        clip = draw_clip(seed, soundfont)
        piece, prompt, metadata = plan_clip(seed)
        audio = clip.audio
        assert (clip.prompt, clip.metadata) == (prompt, {**metadata, "soundfont": "tiny.sf2"})
        json.dumps(metadata)
        assert audio.dtype == np.float32
        assert audio.shape[1] == pytest.approx(metadata["seconds_total"] * SAMPLE_RATE, abs=2)
        assert np.max(np.abs(audio)) < 0.95
        assert np.max(np.abs(audio.mean(axis=1))) < 2e-3
        assert 20 * np.log10(active_level(audio)) == pytest.approx(LEVELS_DB[piece.dynamics], abs=4.0)
        frames = audio[:, : audio.shape[1] // 1024 * 1024].reshape(2, -1, 1024)
        assert 20 * np.log10(frames.std(axis=-1).min()) > -84  # a noise floor, never digital silence


def test_what_is_drawn() -> None:
    pieces = [plan_clip(seed)[0] for seed in range(3000)]
    forms = Counter(piece.form for piece in pieces)
    assert set(forms) == {"piece", "note", "chord", "scale"}
    assert 0.1 < forms["note"] / 3000 < 0.2
    assert {part.instrument for piece in pieces for part in piece.parts} == set(INSTRUMENTS) | set(KITS)
    assert {piece.groove for piece in pieces} == {None, *GROOVES}
    assert {piece.metre for piece in pieces if piece.form == "piece"} == set(METRES)
    assert {piece.key.mode for piece in pieces if piece.key} == set(MODES)
    assert {len(piece.parts) for piece in pieces} == {1, 2, 3, 4, 5}
    assert {chamber_of(piece) for piece in pieces} == {None, *CHAMBERS}
    seconds = [piece.seconds for piece in pieces if piece.form == "piece"]
    assert 18.0 < np.median(seconds) < 22.0
    assert min(seconds) > 5.0
    assert max(seconds) < 65.0
    for piece in pieces:
        pitched = [part.instrument for part in piece.pitched]
        assert len(set(pitched)) == len(pitched)
        if piece.groove:
            low, high = GROOVES[piece.groove].tempos
            assert low <= piece.tempo_bpm <= high


def test_notes_are_in_range_and_lead_home() -> None:
    for seed in range(400):
        piece = plan_clip(seed)[0]
        for part, notes in zip(piece.parts, compose(piece, np.random.default_rng(seed)), strict=True):
            assert notes
            assert min(note.start for note in notes) >= 0
            assert max(note.start + note.length for note in notes) <= piece.num_beats + 1e-6
            assert all(0 < note.velocity <= 1 and note.length > 0 for note in notes)
            if part.role == DRUMS:
                continue
            instrument = INSTRUMENTS[part.instrument]
            assert instrument.low <= min(note.midi for note in notes)
            assert max(note.midi for note in notes) <= instrument.high
            if piece.form in ("piece", "scale") and part.role == MELODY:
                assert piece.key is not None
                last = notes[-1]
                assert last.midi % 12 == piece.key.tonic
                assert last.start + last.length == pytest.approx(piece.num_beats)


def test_a_melody_is_in_its_key() -> None:
    part = Part(instrument="flute", role=MELODY)
    for mode in MODES:
        key = Key(tonic=2, mode=mode)
        piece = Piece(form="piece", parts=(part,), tempo_bpm=100, num_bars=12, key=key)
        notes = compose(piece, np.random.default_rng(5))[0]
        allowed = {(key.tonic + tone) % 12 for tone in (*MODES[mode].scale, *MODES[mode].chord_scale)}
        allowed |= {(key.tonic + 11) % 12} if mode == "minor" else set()
        assert {note.midi % 12 for note in notes} <= allowed
        assert sum((note.midi - key.tonic) % 12 in MODES[mode].scale for note in notes) > 0.6 * len(notes)


def test_a_scale_goes_up_and_down() -> None:
    part = Part(instrument="piano", role=MELODY)
    piece = Piece(form="scale", parts=(part,), tempo_bpm=100, num_bars=4, key=Key(tonic=0, mode="major"))
    notes = compose(piece, np.random.default_rng(0))[0]
    steps = [note.midi - notes[0].midi for note in notes]
    assert steps == [0, 2, 4, 5, 7, 9, 11, 12, 11, 9, 7, 5, 4, 2, 0]
    assert [note.start for note in notes] == list(range(15))


@pytest.mark.parametrize("midi", [45, 57, 69, 81])
def test_a_note_has_its_pitch(midi: int, soundfont: Path) -> None:
    deviation, level = cents(play(note_piece("piano", midi), open_soundfont(soundfont)), midi_to_hz(midi))
    assert abs(deviation) < 3.0
    assert level > -1.0


def test_notes_begin_and_end_in_time(soundfont: Path) -> None:
    strike = [Stroke(0.5, 0.5, 69, 0.8), Stroke(0.75, 0.5, 69, 0.8)]
    audio = SoundFont(soundfont).play(0, strike, SAMPLE_RATE * 2)
    sounding = np.flatnonzero(np.abs(audio[0]) > 1e-3) / SAMPLE_RATE
    assert sounding[0] == pytest.approx(0.5, abs=0.01)
    assert 1.25 <= sounding[-1] < 1.6
    assert not audio[:, : SAMPLE_RATE // 2].any()


def test_side_and_dynamics(soundfont: Path) -> None:
    font = open_soundfont(soundfont)
    for side, sign in (("left", 1), ("right", -1), ("center", 0)):
        audio = play(note_piece("flute", 72, side), font)
        left, right = 10 * np.log10(np.mean(audio**2, axis=1))
        assert left - right == pytest.approx(20.0 * sign, abs=1.0)
    levels = [20 * np.log10(active_level(play(note_piece("flute", 72, dynamics=word), font))) for word in LEVELS_DB]
    np.testing.assert_allclose(levels, list(LEVELS_DB.values()), atol=0.5)


def test_what_is_held_out_is_never_trained_on() -> None:
    assert not any(is_held_out(plan_clip(seed)[0]) for seed in range(1500))
    reasons = Counter()
    combinations = []
    for seed in range(400):
        piece, prompt, metadata = plan_clip(seed, held_out=True)
        reasons[metadata["held_out"]] += 1
        if metadata["held_out"] == "wording":
            assert not is_held_out(piece)
            assert any(frame.format(x="").strip(" ,") in prompt.lower() for frame in HELD_OUT_FRAMES)
        else:
            assert is_held_out(piece)
        if metadata["held_out"] == "combination":
            combinations.append(combination := combination_of(piece))
            assert combination is not None
            named = {name for name in combination if name != "instrument"}
            assert named <= set(piece.stated)
    assert set(reasons) == {"combination", "pair", "wording"}
    assert all(combination in combinations for combination in COMBINATIONS)
    assert all(pair <= set(INSTRUMENTS) for pair in PAIRS)


def test_captions_say_what_they_state() -> None:
    lengths = []
    for seed in range(600):
        piece, prompt, _ = plan_clip(seed)
        lengths.append(len(prompt.split()))
        if "tempo_bpm" in piece.stated:
            assert str(piece.tempo_bpm) in prompt
        if "key" in piece.stated:
            assert piece.key is not None
            assert piece.key.mode in prompt
        if "groove" in piece.stated:
            assert piece.groove is not None
            assert any(word in prompt.lower() for word in (piece.groove, *GROOVES[piece.groove].words))
        family = chamber_of(piece)
        for part in () if family and f"{family} " in prompt.lower() else piece.pitched:
            assert any(word.lower() in prompt.lower() for word in INSTRUMENTS[part.instrument].words), prompt
        assert "{" not in prompt
        assert "@" not in prompt
        assert "  " not in prompt
    assert min(lengths) <= 2
    assert max(lengths) > 15
    many = captions(7, 16)
    assert len(set(many)) > 10
    assert captions(7, 16) == many


def test_articles() -> None:
    assert with_articles("@oboe and @808 drum machine in @F major key, @up-tempo @flute") == (
        "an oboe and an 808 drum machine in an F major key, an up-tempo a flute"
    )
    assert [is_plural(word) for word in ("strings", "upright bass", "Rhodes", "brass", "bagpipes")] == [
        True, False, False, False, True
    ]  # fmt: skip


def test_moods_need_key_tempo_and_dynamics_to_agree() -> None:
    piano = Part(instrument="piano", role=PIECE)
    slow = Piece(form="piece", parts=(piano,), tempo_bpm=60, num_bars=4, key=Key(tonic=0, mode="minor"))
    assert slow.mood == "sad"
    assert slow.to_metadata()["key"] == "C minor"
    fast = Piece(form="piece", parts=(piano,), tempo_bpm=150, num_bars=4, key=Key(tonic=0, mode="major"))
    assert (fast.mood, fast.pace) == ("happy", "fast")
    compound = Piece(
        form="piece", parts=(piano,), tempo_bpm=90, metre="6/8", num_bars=4, key=Key(tonic=0, mode="major")
    )
    assert compound.pace == "fast"


def test_command_writes_and_continues(tmp_path: Path, soundfont: Path) -> None:
    out = tmp_path / "pieces"
    main(out, hours=0.01, soundfont=soundfont, captions=3, processes=1)
    lines = (out / "manifest.jsonl").read_text().splitlines()
    (out / "manifest.jsonl").write_text(lines[0] + "\n" + lines[1][:20])  # cut off in the middle of a line
    main(out, hours=0.02, soundfont=soundfont, captions=3, processes=2)
    entries = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [entry["seed"] for entry in entries] == list(range(len(entries)))
    assert 72 <= sum(entry["seconds_total"] for entry in entries) < 140
    assert sorted(path.name for path in out.iterdir()) == sorted(["manifest.jsonl", *(e["path"] for e in entries)])
    for entry in entries[:3]:
        audio, rate = soundfile.read(out / entry["path"], always_2d=True)
        clip = draw_clip(entry["seed"], soundfont)
        assert rate == SAMPLE_RATE
        assert len(entry["prompts"]) == 3
        assert entry["prompts"][0] == clip.prompt
        np.testing.assert_allclose(audio.T, clip.audio, atol=1e-4)
    with pytest.raises(UserError, match="another folder"):
        main(out, hours=0.01, soundfont=soundfont, held_out=True)
    with pytest.raises(UserError, match="hours must be positive"):
        main(out, hours=0, soundfont=soundfont)


def test_without_a_soundfont_one_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.instruments.soundfont.USUAL_PLACES", ())
    with pytest.raises(UserError, match=r"fluid-soundfont-gm.*--soundfont FILE"):
        draw_clip(0)
    with pytest.raises(UserError, match="no SoundFont at"):
        draw_clip(0, tmp_path / "missing.sf2")
    (tmp_path / "text.sf2").write_text("not a SoundFont")
    with pytest.raises(UserError, match="is no SoundFont"):
        draw_clip(0, tmp_path / "text.sf2")


def test_a_soundfont_needs_the_presets(tmp_path: Path) -> None:
    path = write_soundfont(tmp_path / "few.sf2", programs=(0,))
    with pytest.raises(UserError, match="has no preset for program 40"):
        open_soundfont(path).play(INSTRUMENTS["violin"].program, [], 1000)


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_real_instruments_are_in_tune(name: str, fluid: SoundFont) -> None:
    instrument = INSTRUMENTS[name]
    deviations, levels, below = [], [], []
    for midi in range(instrument.low, instrument.high + 1, 4):
        audio = play(note_piece(name, midi), fluid)
        deviation, level = cents(audio, midi_to_hz(midi))
        deviations.append(deviation)
        levels.append(level)
        below.append(octaves_below(audio, midi_to_hz(midi)))
    tolerance = 20.0 if name == "choir" else 10.0  # many voices, each with its vibrato
    assert abs(float(np.median(deviations))) <= tolerance, deviations
    assert min(levels) > -25.0, levels  # the pitch is there, or its octave
    assert max(below) < -8.0, below


def test_real_chords_and_kits_sound(fluid: SoundFont) -> None:
    for kit in KITS.values():
        assert np.abs(fluid.play(kit.program, [Stroke(0.0, 0.2, 38, 0.8)], 10_000, drums=True)).max() > 0.01
    key = Key(tonic=0, mode="major")
    for name, instrument in INSTRUMENTS.items():
        if CHORDS in instrument.roles:
            part = Part(instrument=name, role=CHORDS)
            piece = Piece(form="chord", parts=(part,), tempo_bpm=80, num_bars=2, key=key)
            assert 20 * np.log10(active_level(play(piece, fluid))) == pytest.approx(LEVELS_DB["medium"], abs=1.0)
