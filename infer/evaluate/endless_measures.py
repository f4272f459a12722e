"""What `evaluate endless` measures in one stream, and over all streams of one variant."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from data.audio import SAMPLE_RATE, AudioFile
from infer.embedders import Embedder, Preprocessing
from infer.embedders.mel import MelStatistics
from infer.evaluate.results import Better, Results, Score
from infer.metrics.facts import ONSET_RATE_HZ, onset_envelope
from infer.metrics.seams import audio_seams, latent_steps, line_db, seam_effect
from infer.metrics.streams import BLOCK_SECONDS, adherence, consistency, drift, level_course, repetition

WINDOW_SECONDS = 2.0
JOINED_SECONDS = 600.0
"""Beginning of a stream that is searched for seams; all else is measured in the whole of it, a piece at a time."""
PIECE_SECONDS = 10.0
LEAST_JOIN_SECONDS = 0.1  # nearer joins leave no frames between them to compare with
LEAST_JOIN_FRAMES = 4
DRIFT = "drift, last third from the first window (kernel distance)"

BETTER: dict[str, Better] = {
    "seam latents (effect)": "lower",
    "seam flux (effect)": "lower",
    "seam high flux (effect)": "lower",
    "seam level step (effect)": "lower",
    "chunk rate line (dB)": "lower",
    "loudness drift (LU/min, size)": "lower",
    "near repeats (share)": "lower",
    DRIFT: "lower",
    "text cosine": "higher",
    "text cosine, slope per minute": "higher",
    "real-time factor": "lower",
    "first sound (s)": "lower",
    "chunk time, median (s)": "lower",
    "chunk time, 95th percentile (s)": "lower",
    "chunk time, 99th percentile (s)": "lower",
    "control latency (s of sound)": "lower",
    "peak memory (MiB)": "lower",
}


@dataclasses.dataclass(frozen=True)
class Sound:
    """A file of any length, or a clip (2, samples)."""

    source: Path | Tensor

    def pieces(self, seconds: float, least: float = 0.0) -> Iterator[Tensor]:
        """Read it a piece (2, samples) at a time; a last one below `least` seconds is left out, unless it is alone."""
        for index, piece in enumerate(self._read(round(seconds * SAMPLE_RATE))):
            if index == 0 or piece.shape[-1] >= least * SAMPLE_RATE:
                yield piece

    def beginning(self) -> Tensor:
        """Read the first `JOINED_SECONDS`."""
        return next(self.pieces(JOINED_SECONDS))

    def _read(self, length: int) -> Iterator[Tensor]:
        if isinstance(self.source, Tensor):
            yield from self.source.split(length, dim=-1)
            return
        with AudioFile(self.source) as file:
            yield from map(torch.from_numpy, file.pieces(length))


def measure_joins(audio: Tensor, joins_every: float) -> dict[str, float]:
    """Seams and the line at the chunk rate of one sound (2, samples)."""
    seconds = audio.shape[-1] / SAMPLE_RATE
    measured: dict[str, float] = {}
    if seconds >= 3 * joins_every and joins_every >= LEAST_JOIN_SECONDS:
        joins = torch.arange(1, math.ceil(seconds / joins_every)) * joins_every
        for name, seam in audio_seams(audio, joins).items():
            measured[f"seam {name} (effect)"] = seam.effect
            measured[f"seam {name} (p)"] = seam.p
    if seconds >= 8 * joins_every and 1 / joins_every <= ONSET_RATE_HZ / 2:
        measured["chunk rate line (dB)"] = line_db(onset_envelope(audio), ONSET_RATE_HZ, 1 / joins_every)
    return measured


def measure_latent_joins(chunks: list[Tensor]) -> dict[str, float]:
    """Seams where chunks of latents (channels, frames), all of one length, meet."""
    frames = chunks[0].shape[-1] if chunks else 0
    if len(chunks) < 4 or frames < LEAST_JOIN_FRAMES:
        return {}
    joins = torch.arange(1, len(chunks)) * frames - 1
    return {"seam latents (effect)": seam_effect(latent_steps(torch.cat(chunks, dim=-1)), joins, reach=0).effect}


def measure_times(times: list[float]) -> dict[str, float]:
    """Time until the first sound and times of the chunks after it, from the clock at the start and at each piece."""
    if len(times) < 2:
        return {}
    measured = {"first sound (s)": times[1] - times[0]}
    if len(times) > 2:
        chunks = torch.tensor(times[1:], dtype=torch.float64).diff()
        for name, share in (("median", 0.5), ("95th percentile", 0.95), ("99th percentile", 0.99)):
            measured[f"chunk time, {name} (s)"] = float(chunks.quantile(share))
    return measured


def measure_course(sound: Sound) -> dict[str, float]:
    """Course of the level over the whole of one sound."""
    course = level_course(sound.pieces(BLOCK_SECONDS))
    drift = math.nan if course.drift_lu_per_minute is None else abs(course.drift_lu_per_minute)
    return {
        "loudness (LUFS)": math.nan if course.loudness_lufs is None else course.loudness_lufs,
        "loudness drift (LU/min, size)": drift,
        "clipped (share)": course.clipped_share,
        "silent (share)": course.silence_share,
        "stereo correlation": course.stereo_correlation,
    }


def window_embedder() -> Embedder:
    """Mel statistics of successive windows of 2 s."""
    cut = Preprocessing(
        sample_rate=SAMPLE_RATE,
        channels="stereo",
        window_seconds=WINDOW_SECONDS,
        hop_seconds=WINDOW_SECONDS,
        keep_rest=False,
    )
    return Embedder("mel", cut, MelStatistics())


def measure_agreement(judge: Embedder, sound: Sound, text: Tensor) -> dict[str, float]:
    """Agreement of 10 s windows with the prompt's embedding (width,)."""
    pieces = sound.pieces(PIECE_SECONDS, least=PIECE_SECONDS)
    vectors = torch.cat([judge(piece).vectors for piece in pieces])
    found = adherence(vectors, text, hop_seconds=PIECE_SECONDS)
    return {
        "text cosine": found.mean,
        "text cosine, slope per minute": found.slope_per_minute,
        "text cosine, 10th percentile": found.tenth_percentile,
    }


def add_repetition(results: Results, windows: dict[str, dict[str, Tensor]]) -> None:
    """Add repetition of each stream, consistency and drift of all, features standardised over the whole experiment."""
    everything = torch.cat([rows for by_name in windows.values() for rows in by_name.values()])
    mean, deviation = everything.mean(dim=0), everything.std(dim=0) + 1e-6
    for label, by_name in windows.items():
        standard = {name: (rows - mean) / deviation for name, rows in by_name.items()}
        found = {name: repetition(rows) for name, rows in standard.items() if len(rows) > 1}
        results.add_average("highest self-similarity", label, {n: one.highest for n, one in found.items()}, "none")
        repeats = {n: one.near_repeats for n, one in found.items()}
        results.add_average("near repeats (share)", label, repeats, BETTER["near repeats (share)"])
        shortest = min(len(rows) for rows in standard.values())
        if len(standard) > 1 and shortest > 1:
            streams = torch.stack([rows[:shortest] for rows in standard.values()])
            distances = drift(streams)
            last_third = distances[-max(1, len(distances) // 3) :]
            results.scores += [
                Score(
                    measure=measure, subject=label, value=value, num=len(standard), better=BETTER.get(measure, "none")
                )
                for measure, value in {
                    "consistency, normalised": consistency(streams),
                    DRIFT: sum(last_third) / len(last_third),
                }.items()
            ]
