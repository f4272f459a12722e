"""What can be said of sound in numbers, by a formula; the networks that embed sound are in `infer.embedders`.

Facts of a single sound (`facts`) can be imported from here.
"""

from infer.metrics.facts import (
    Level,
    active_seconds,
    event_rate_hz,
    frame_spectra,
    level,
    onset_envelope,
    onset_seconds,
    pitch_hz,
    pitch_matches,
    side,
    side_db,
    spectral_centroid_hz,
    stereo_correlation,
    tempo_bpm,
    tempo_matches,
    to_channels,
)

__all__ = [
    "Level",
    "active_seconds",
    "event_rate_hz",
    "frame_spectra",
    "level",
    "onset_envelope",
    "onset_seconds",
    "pitch_hz",
    "pitch_matches",
    "side",
    "side_db",
    "spectral_centroid_hz",
    "stereo_correlation",
    "tempo_bpm",
    "tempo_matches",
    "to_channels",
]
