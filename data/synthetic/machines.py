"""Engines, signals, and the sounds people and their tools make."""

import numpy as np

from data.synthetic.layers import Kind, Layer, samples
from data.synthetic.signals import (
    beats,
    burst_bank,
    decay,
    hits,
    noise,
    oscillator,
    poisson,
    ramp,
    rolloff,
    scatter,
    struck,
    sweep,
    wander,
)

WOOD = ((1.0, 1.0, 0.02), (2.4, 0.5, 0.012), (4.1, 0.25, 0.006))
METAL = ((1.0, 1.0, 0.25), (2.76, 0.7, 0.16), (5.4, 0.5, 0.1), (8.9, 0.3, 0.05))


def render_engine(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """A piston engine: a rough harmonic growl at the firing rate, and exhaust noise pulsing with it."""
    n, base = layer.num_samples, (layer.rate_hz or 40.0) * rng.uniform(0.95, 1.05)
    hz = base * wander(rng, n, 3.0, 0.985, 1.015)
    growl = oscillator(hz, n, rolloff(24, 0.8)) + 0.5 * oscillator(hz * 0.5, n, rolloff(12, 1.0))
    exhaust = noise(rng, 2, n, ((60, -6), (200, 0), (900, -8), (4000, -24), (16000, -40)))
    return growl + 0.6 * exhaust * (0.4 + 0.6 * np.maximum(0, oscillator(hz, n)))


def render_propeller(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """Rotor blades: noise and a low drone chopped at the blade rate."""
    n, rate = layer.num_samples, layer.rate_hz or 10.0
    chop = (0.5 + 0.35 * oscillator(rate, n)) ** 3
    wash = noise(rng, 2, n, ((40, -4), (120, 0), (500, -5), (2000, -16), (12000, -40)))
    return (wash + 0.6 * oscillator(rate * 7, n, rolloff(10, 0.9))) * (chop + 0.03)


def render_fan(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """A ventilator: steady air noise and the hum of its motor and blades."""
    n, rate = layer.num_samples, layer.rate_hz or 120.0
    air = noise(rng, 2, n, ((60, -16), (250, -2), (900, 0), (3000, -8), (14000, -30)))
    hum = oscillator(rate, n, (1.0, 0.5, 0.35, 0.1, 0.15))
    return 0.8 * air * wander(rng, n, 2.0, 0.93, 1.0) + 0.7 * hum


def render_siren(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """An emergency siren: a bright tone gliding up and down between about 600 and 1400 Hz."""
    n, rate = layer.num_samples, layer.rate_hz or 0.5
    position = np.arange(n, dtype=np.float32) / samples(1.0) * rate
    low, high = rng.uniform(520, 680), rng.uniform(1250, 1500)
    if layer.timbre == "two-tone":
        glide = (position % 1.0 >= 0.5).astype(np.float32)
        low, high = low * 1.1, low * 1.5
    else:
        glide = 0.5 - 0.5 * np.cos(2 * np.pi * position)
    return oscillator(low * (high / low) ** glide, n, rolloff(8, 1.2, odd_only=layer.timbre == "two-tone"))[None]


def render_alarm(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """An electronic alarm: one hard beep on every beat."""
    length = samples(min(0.16, 0.45 * layer.beat_seconds))
    beep = oscillator(rng.uniform(1600, 2400), length, rolloff(6, 1.0, odd_only=True)) * ramp(length, 0.003, 0.005)
    return hits(layer.num_samples, beats(layer.seconds, layer.beat_seconds), [beep], rng)


def render_telephone(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """An old telephone: two gongs struck in turn 24 times a second, ringing about a second, then a pause."""
    gongs = [struck(round(hz, -1), METAL, 0.25) for hz in rng.uniform(1150, 1500) * np.array([1.0, 1.19])]
    ring, period = 1.0, 1.0 / (layer.rate_hz or 0.4)
    starts = np.arange(0.05, max(0.1, layer.seconds - 0.6), period)
    strokes = np.arange(0.0, ring, 1 / 24)
    times = (starts[:, None] + strokes).ravel()
    choice = np.tile(np.arange(len(strokes)) % 2, len(starts))
    return scatter(layer.num_samples, times, gongs, choice, np.ones(len(times)))


def render_clock(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """A clock: tick and tock, dry clicks of a small wooden case."""
    base = rng.choice([1800.0, 2200.0, 2600.0])
    ticks = [struck(float(hz), WOOD, 0.06) for hz in (base, base * 0.84)]
    clicks = burst_bank("tick", ((800, -12), (3000, 0), (9000, 0), (16000, -6)), 0.06, 0.002)
    kernels = [0.6 * tick + 0.6 * click for tick, click in zip(ticks, clicks[:2], strict=True)]
    times = beats(layer.seconds, layer.beat_seconds)
    gains = np.where(np.arange(len(times)) % 2, 0.92, 1.0)
    return scatter(layer.num_samples, times, kernels, np.arange(len(times)) % 2, gains)


def render_metronome(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """A metronome: the same woodblock click on every beat."""
    click = struck(float(rng.choice([900.0, 1100.0, 1300.0])), WOOD, 0.1)
    return hits(layer.num_samples, beats(layer.seconds, layer.beat_seconds), [click], rng)


def render_typewriter(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """Typing: irregular clacks, and now and then the margin bell and the carriage."""
    n, rate = layer.num_samples, layer.rate_hz or 6.0
    clacks = [
        0.7 * burst + 0.4 * struck(float(hz), WOOD, 0.05)
        for burst, hz in zip(
            burst_bank("clack", ((400, -10), (1800, 0), (6000, -2), (16000, -14)), 0.05, 0.005),
            np.linspace(900, 1600, 8),
            strict=True,
        )
    ]
    gaps = rng.gamma(8.0, 1.0 / (8.0 * rate), max(2, int(layer.seconds * rate * 1.5)))
    times = np.cumsum(gaps)
    times = times[times < layer.seconds - 0.2]
    audio = hits(n, times, clacks, rng)
    line = np.arange(rng.uniform(3.0, 6.0), layer.seconds - 0.8, rng.uniform(5.0, 8.0))
    bell = struck(2600.0, ((1.0, 1.0, 0.15), (2.7, 0.3, 0.08)), 0.7)
    return audio + 0.5 * scatter(n, line, [bell], np.zeros(len(line), dtype=int), np.ones(len(line)))


def render_heartbeat(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """A heart: lub on every beat, a weaker dub a third of a beat later."""
    base = rng.uniform(52, 68)
    thud = burst_bank("heart", ((60, -10), (150, 0), (350, -6), (1200, -40)), 0.13, 0.02)
    lub = sweep(base * 1.7, base * 0.8, 0.13) + 0.5 * thud[0]
    dub = 0.4 * (sweep(base * 1.9, base * 1.1, 0.13) + 0.5 * thud[1])
    times = beats(layer.seconds, layer.beat_seconds)
    both = np.concatenate((times, times + min(0.3, 0.34 * layer.beat_seconds)))
    choice = np.repeat((0, 1), len(times))
    return scatter(layer.num_samples, both, [lub, dub], choice, np.ones(len(both)))


def render_footsteps(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """Steps on a floor: heel and toe, the surface decides the grain."""
    if layer.timbre == "wood":
        thump = struck(130.0, WOOD, 0.14)
        tap = burst_bank("wood step", ((150, -6), (500, 0), (2000, -12), (9000, -36)), 0.14, 0.008)
        steps = [0.8 * thump + 0.6 * noise_burst for noise_burst in tap]
    elif layer.timbre == "gravel":
        grains = burst_bank("grain", ((600, -14), (2500, 0), (8000, -2), (16000, -12)), 0.02, 0.003)
        steps = []
        for _ in range(4):
            times = poisson(rng, 0.16, 260.0)
            gains = rng.uniform(0.3, 1.0, len(times)) * np.exp(-times / 0.07)
            steps.append(scatter(samples(0.2), times, grains, rng.integers(8, size=len(times)), gains)[0])
    else:
        steps = list(burst_bank("stone step", ((120, -8), (700, 0), (2500, -3), (9000, -16)), 0.1, 0.012))
    return hits(layer.num_samples, beats(layer.seconds, layer.beat_seconds), steps, rng)


def render_knocking(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """Knuckles on a wooden door, one knock on every beat."""
    door = struck(float(rng.choice([180.0, 230.0, 290.0])), WOOD, 0.15)
    tap = burst_bank("knock", ((100, -6), (350, 0), (1500, -10), (8000, -36)), 0.15, 0.01)
    return hits(layer.num_samples, beats(layer.seconds, layer.beat_seconds), [0.9 * door + 0.5 * t for t in tap], rng)


def render_hammer(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """A hammer on an anvil: a ringing metal blow on every beat."""
    blow = struck(float(rng.choice([700.0, 900.0, 1150.0])), METAL, 0.7)
    strike = burst_bank("blow", ((300, -10), (2000, 0), (16000, -6)), 0.02, 0.003)
    return hits(layer.num_samples, beats(layer.seconds, layer.beat_seconds, 0.5), [blow], rng) + 0.4 * hits(
        layer.num_samples, beats(layer.seconds, layer.beat_seconds, 0.5), strike, rng
    )


def render_train(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """A steam train: a chuff of steam on every beat, the first of four the strongest, over rumbling wheels."""
    n = layer.num_samples
    length = min(0.3, 0.7 * layer.beat_seconds)
    puffs = burst_bank("chuff", ((100, -12), (400, 0), (2000, -4), (9000, -18)), 0.3, 0.07)
    puffs = [puff[: samples(length)] * ramp(samples(length), 0.01, 0.1) for puff in puffs]
    times = beats(layer.seconds, layer.beat_seconds)
    gains = np.where(np.arange(len(times)) % 4, 0.8, 1.0)
    rumble = noise(rng, 2, n, ((30, -6), (80, 0), (300, -12), (2000, -40)))
    return scatter(n, times, puffs, rng.integers(8, size=len(times)), gains) + 0.03 * rumble


def render_sonar(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """A sonar: a pure ping that rings out over seconds, at a slow steady pace."""
    ping = oscillator(rng.uniform(900, 1300), samples(1.8)) * decay(1.8, 0.22, 0.004)
    return hits(layer.num_samples, beats(layer.seconds, 1.0 / (layer.rate_hz or 0.5), 0.5), [ping.astype("f4")], rng)


KINDS = (
    Kind(name="engine", render=render_engine, group="machine", rates_hz=(26.0, 48.0, 95.0), moves=True, bed=True),
    Kind(name="propeller", render=render_propeller, group="machine", rates_hz=(6.0, 10.0, 17.0), moves=True, bed=True),
    Kind(name="fan", render=render_fan, group="machine", rates_hz=(70.0, 120.0, 210.0), bed=True),
    Kind(
        weight=2.0,
        name="siren",
        render=render_siren,
        group="machine",
        rates_hz=(0.25, 0.6, 2.5),
        moves=True,
        timbres=("wailing", "two-tone"),
    ),
    Kind(name="alarm", render=render_alarm, group="beat", tempo=(60, 180)),
    Kind(name="telephone", render=render_telephone, group="machine", rates_hz=(0.33, 0.4, 0.6)),
    Kind(name="clock", weight=3.0, render=render_clock, group="beat", tempo=(60, 180)),
    Kind(name="metronome", render=render_metronome, group="beat", tempo=(60, 180)),
    Kind(name="typewriter", render=render_typewriter, group="machine", rates_hz=(2.5, 6.0, 11.0)),
    Kind(name="heartbeat", render=render_heartbeat, group="beat", tempo=(60, 140), colored=False),
    Kind(
        name="footsteps",
        render=render_footsteps,
        group="beat",
        tempo=(60, 180),
        moves=True,
        timbres=("wood", "gravel", "stone"),
    ),
    Kind(name="knocking", render=render_knocking, group="beat", tempo=(60, 180)),
    Kind(name="hammer", render=render_hammer, group="beat", tempo=(60, 140)),
    Kind(name="steam train", render=render_train, group="beat", tempo=(60, 180), moves=True),
    Kind(name="sonar", render=render_sonar, group="machine", rates_hz=(0.35, 0.5, 0.8), colored=False),
)
