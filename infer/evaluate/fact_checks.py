"""How each fact of a prompt is measured in a sound, and when it counts as met.

Every measurement sees the waveform alone (`infer.metrics`). Words that mean something else for each kind (a fast
engine, bright rain) are told by real clips of that kind (`fact_references`).

audio (2, samples), 44,100 Hz.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from data.synthetic import KINDS
from data.synthetic.layers import BRIGHTNESSES, NOTE_NAMES, RATES
from infer.embedders.mel import sound_features
from infer.evaluate.fact_prompts import FactPrompt, reference_clip
from infer.evaluate.fact_references import WordClassifier, centroid_feature
from infer.metrics.facts import (
    active_seconds,
    pitch_hz,
    pitch_matches,
    side,
    side_db,
    tempo_bpm,
    tempo_matches,
)
from infer.metrics.spectra import frame_spectra

Value = str | float
Described = Value | Tensor

TOLERANCES = {
    "kind": "the right one of all kinds of the corpus",
    "tempo_bpm": "within 4 %",
    "tempo": "slow: below 100 bpm, fast: above 110 bpm",
    "pitch": "within 50 cents",
    "key": "the right one of 24 keys",
    "side": "left or right by 6 dB; center and wide by correlation 0.8",
    "motion": "level moves over by 6 dB from the first to the last third",
    "brightness": "centroid nearest to that word's, of three",
    "rate": "the right one of low, medium, high",
    "loudness": "loud frames below -27 dBFS, between, above -16 dBFS",
    "course": "first against last third: 6 dB the right way",
    "length": "within 0.8 s",
}
KIND_REFERENCES, WORD_REFERENCES = 10, 6
MAJOR, MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One fact of one prompt, measured in one sound."""

    fact: str
    asked: Value
    measured: Value
    met: bool


class FactMeter:
    """Measures the facts of prompts in clips of one length; real clips for comparison are drawn once and kept.

    `describe` measures a sound, `judge` holds that against a prompt; one sound can so be held against many prompts.

    Args:
        seconds: length of the clips.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._classifiers: dict[tuple[str, str], WordClassifier] = {}

    def describe(self, audio: Tensor, fact: str) -> Described:
        """Measure what a fact is judged by: a number, a word, or features for a classifier."""
        return FEATURES[fact](audio) if fact in FEATURES else MEASURES[fact](audio)

    def judge(self, described: Described, prompt: FactPrompt, fact: str) -> Reading:
        """Hold a measured sound against what a prompt asks for."""
        asked = asked_value(prompt, fact)
        if isinstance(described, Tensor):
            described = self._classifier(fact, prompt.layer.kind)(described)
        return Reading(fact=fact, asked=asked, measured=described, met=_is_met(fact, described, asked))

    def read(self, audio: Tensor, prompt: FactPrompt, fact: str) -> Reading:
        """Measure one fact of `prompt` in a sound."""
        return self.judge(self.describe(audio, fact), prompt, fact)

    def _classifier(self, fact: str, kind_name: str) -> WordClassifier:
        key = (fact, "" if fact == "kind" else kind_name)
        if key not in self._classifiers:
            self._classifiers[key] = self._learn(fact, kind_name)
        return self._classifiers[key]

    def _learn(self, fact: str, kind_name: str) -> WordClassifier:
        measure = FEATURES[fact]
        if fact == "kind":
            fitting = [kind for kind in KINDS.values() if kind.min_seconds <= self.seconds]
            bar = tqdm(fitting, desc="real clips of each kind", unit="kind", leave=False)
            examples = {
                kind.name: [measure(reference_clip(kind, self.seconds, i)) for i in range(KIND_REFERENCES)]
                for kind in bar
            }
            return WordClassifier(examples, shrinkage=0.05)
        kind = KINDS[kind_name]
        examples = {
            word: [measure(reference_clip(kind, self.seconds, i, {fact: word})) for i in range(WORD_REFERENCES)]
            for word in (BRIGHTNESSES if fact == "brightness" else RATES)
        }
        return WordClassifier(examples, shrinkage=0.5)


def asked_value(prompt: FactPrompt, fact: str) -> Value:
    """What a prompt asks for: a word, or a number in the fact's unit."""
    layer = prompt.layer
    if fact == "pitch":
        assert layer.pitch_hz is not None
        return layer.pitch_hz
    if fact == "key":
        assert layer.midi is not None
        return f"{NOTE_NAMES[layer.midi % 12]} {layer.mode}"
    if fact == "tempo":
        return "slow" if (layer.tempo_bpm or 0) < 100 else "fast"
    if fact == "motion":
        return "to the left" if layer.side == "right" else "to the right"
    if fact == "course":
        return "rising" if layer.shape in ("fade in", "approaching") else "falling"
    value = layer.seconds if fact == "length" else getattr(layer, fact)
    assert value is not None
    return value


def loud_frames_db(audio: Tensor) -> float:
    """Level of the loud 50 ms frames (95th percentile of the mean square over channels), dBFS."""
    frame = 44_100 // 20
    whole = audio[:, : max(1, audio.shape[-1] // frame) * frame].double()
    power = whole.reshape(len(whole), -1, min(frame, whole.shape[-1])).square().mean(dim=(0, 2))
    return float(10 * torch.log10(power.quantile(0.95) + 1e-12))


def key_of(audio: Tensor) -> str:
    """Major or minor key whose scale holds most of the sound's pitch classes, the tonic's triad counting twice.

    The pitch-class profile sums the amplitude of spectral peaks from C2 to C6 (186 ms windows).
    """
    amplitude = frame_spectra(audio, 8192, 4096, 32_768).sqrt().mean(dim=0)
    hz = torch.arange(len(amplitude)) * (44_100 / 32_768)
    inner = amplitude[1:-1]
    is_peak = (inner > amplitude[:-2]) & (inner >= amplitude[2:]) & (hz[1:-1] > 65) & (hz[1:-1] < 1050)
    peaks = torch.nonzero(is_peak)[:, 0] + 1
    pitch_class = torch.round(12 * torch.log2(hz[peaks] / 440.0) + 69).long() % 12
    profile = torch.zeros(12, dtype=torch.float64).index_add_(0, pitch_class, amplitude[peaks])
    scores = {}
    for tonic in range(12):
        for mode, scale in (("major", MAJOR), ("minor", MINOR)):
            weights = torch.full((12,), -1.0, dtype=torch.float64)
            weights[[(tonic + step) % 12 for step in scale]] = 1.0
            weights[[(tonic + scale[degree]) % 12 for degree in (0, 2, 4)]] = 2.0
            weights[tonic] = 3.0
            scores[f"{NOTE_NAMES[tonic]} {mode}"] = float((weights * profile).sum() / weights.norm())
    return max(scores, key=lambda name: scores[name]) if math.isfinite(float(profile.sum())) else "none"


def moved_db(audio: Tensor) -> float:
    """Change of the level difference from the first third to the last, dB: positive is from left to right."""
    first, _, last = audio.tensor_split(3, dim=-1)
    return side_db(first) - side_db(last)


def rise_db(audio: Tensor) -> float:
    """Change of the level of the loud frames from the first third to the last, dB."""
    first, _, last = audio.tensor_split(3, dim=-1)
    return loud_frames_db(last) - loud_frames_db(first)


FEATURES: dict[str, Callable[[Tensor], Tensor]] = {
    "kind": sound_features,
    "brightness": centroid_feature,
    "rate": sound_features,
}
"""Facts that real clips tell, and what they are told by."""

MEASURES: dict[str, Callable[[Tensor], Value]] = {
    "tempo_bpm": tempo_bpm,
    "tempo": tempo_bpm,
    "pitch": pitch_hz,
    "key": key_of,
    "side": side,
    "motion": moved_db,
    "loudness": loud_frames_db,
    "course": rise_db,
    "length": active_seconds,
}


def _is_met(fact: str, measured: Value, asked: Value) -> bool:
    if isinstance(measured, str):
        return measured == asked
    if fact == "tempo_bpm":
        return tempo_matches(measured, float(asked))
    if fact == "pitch":
        return pitch_matches(measured, float(asked))
    if fact == "loudness":
        return asked == ("quiet" if measured < -27 else "loud" if measured > -16 else "medium")
    if fact == "length":
        return abs(measured - float(asked)) <= 0.8
    low, high = (100, 110) if fact == "tempo" else (-6, 6)
    return measured < low if asked in ("slow", "to the left", "falling") else measured > high
