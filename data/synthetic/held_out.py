"""What training never sees: the listed combinations of facts, pairs of kinds and wordings (see `wording.HELD_OUT_*`).

`draw_clip(seed)` redraws a clip that contains one of them; `draw_clip(seed, held_out=True)` always contains one.
"""

from data.synthetic.layers import Layer

COMBINATIONS: tuple[dict[str, str | int], ...] = (
    {"kind": "siren", "side": "left", "brightness": "bright"},
    {"kind": "rain", "side": "right", "rate": "high"},
    {"kind": "wind", "side": "left", "rate": "low"},
    {"kind": "fire", "side": "right", "brightness": "dark"},
    {"kind": "engine", "side": "left", "rate": "high"},
    {"kind": "birds", "side": "right", "distance": "distant"},
    {"kind": "drum loop", "tempo_bpm": 110},
    {"kind": "clock", "tempo_bpm": 90},
    {"kind": "alarm", "tempo_bpm": 150},
    {"kind": "heartbeat", "tempo_bpm": 100},
    {"kind": "footsteps", "tempo_bpm": 130},
    {"kind": "metronome", "tempo_bpm": 140},
    {"kind": "bass line", "tempo_bpm": 80},
    {"kind": "clock", "side": "right", "brightness": "dark"},
    {"kind": "knocking", "side": "left", "distance": "distant"},
    {"kind": "footsteps", "side": "right", "timbre": "gravel"},
    {"kind": "sustained note", "midi": 69, "timbre": "string-like"},
    {"kind": "sustained note", "midi": 65},
    {"kind": "sustained note", "side": "right", "timbre": "organ-like"},
    {"kind": "bells", "midi": 74},
    {"kind": "drone", "midi": 50},
    {"kind": "melody", "tempo_bpm": 120, "timbre": "piano-like"},
    {"kind": "white noise", "side": "left", "loudness": "quiet"},
    {"kind": "waves", "side": "wide", "brightness": "bright"},
)
"""Facts that never occur together in training, though each alone does."""

PAIRS: tuple[frozenset[str], ...] = (
    frozenset(("rain", "bells")),
    frozenset(("clock", "fire")),
    frozenset(("siren", "wind")),
    frozenset(("heartbeat", "thunder")),
    frozenset(("drum loop", "birds")),
    frozenset(("footsteps", "waves")),
    frozenset(("telephone", "fan")),
    frozenset(("frogs", "stream")),
)
"""Kinds that never sound together in training."""


def is_held_out(layers: list[Layer]) -> bool:
    """Whether a clip of these layers holds a listed combination or pair."""
    kinds = {layer.kind for layer in layers}
    return any(pair <= kinds for pair in PAIRS) or any(
        all(getattr(layer, fact) == value for fact, value in combination.items())
        for layer in layers
        for combination in COMBINATIONS
    )
