"""Weather, water, fire and animals."""

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


def render_rain(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """A hiss of far drops under single near ones; light rain is mostly drops, heavy rain mostly hiss."""
    n, rate = layer.num_samples, layer.rate_hz or 100.0
    hiss_level = {"low": 0.03, "medium": 0.12, "high": 0.5}[layer.rate or "medium"]
    hiss = noise(rng, 2, n, ((100, -18), (600, -4), (2500, 0), (8000, -3), (16000, -16)))
    drops = [oscillator(hz, samples(0.012)) * decay(0.012, 0.0015) for hz in rng.uniform(1200, 6000, 12)] + list(
        burst_bank("drop", ((500, -10), (3000, 0), (16000, -6)), 0.01, 0.0012)
    )
    times = poisson(rng, layer.seconds, rate)
    lean = rng.random(len(times))
    gains = np.minimum(rng.exponential(0.35, len(times)), 1.0) * np.stack((lean, 1 - lean))
    body = scatter(n, times, drops, rng.integers(len(drops), size=len(times)), gains)
    return body + hiss_level * hiss * wander(rng, n, 0.5, 0.8, 1.0)


def render_wind(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """Three bands of noise that open with the gusts, and a whistle in the strongest."""
    n = layer.num_samples
    depth = {"low": 0.5, "medium": 0.75, "high": 0.92}[layer.rate or "medium"]
    gust = wander(rng, n, layer.rate_hz or 0.4, 1 - depth, 1.0)
    low = noise(rng, 2, n, ((20, -30), (80, -3), (200, 0), (450, -14), (2000, -50)))
    middle = noise(rng, 2, n, ((100, -30), (350, 0), (700, -3), (1800, -24), (8000, -60)))
    whistle = noise(rng, 2, n, ((400, -60), (720, -3), (780, 0), (850, -3), (1500, -60)))
    strength = {"low": 0.1, "medium": 0.35, "high": 0.8}[layer.rate or "medium"]
    return gust * low + (gust**2 * 0.8) * middle + (gust**4 * strength) * whistle


def render_waves(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """Breakers: a swell of low noise, a crash, and the hiss of the water running back."""
    n, period = layer.num_samples, 1.0 / (layer.rate_hz or 0.16)
    times = np.arange(-rng.uniform(0.3, 0.6) * period, layer.seconds, period) + rng.uniform(-0.05, 0.05) * period
    position = (np.arange(samples(1.5 * period), dtype=np.float32) / samples(period)).astype(np.float32)
    swell = np.exp(-((np.minimum(position - 0.45, 0) / 0.18) ** 2) - np.maximum(position - 0.45, 0) / 0.18)
    wash = np.exp(-((np.minimum(position - 0.6, 0) / 0.12) ** 2) - np.maximum(position - 0.6, 0) / 0.25)
    curves = np.zeros((2, n), dtype=np.float32)
    for time in times:
        start, skip = max(0, samples(time)), max(0, -samples(time))
        for curve, shape in zip(curves, (swell, wash), strict=True):
            piece = shape[skip : skip + max(0, n - start)]  # jitter may move the last wave past the end
            curve[start : start + len(piece)] += piece * rng.uniform(0.85, 1.0)
    low = noise(rng, 2, n, ((30, -12), (120, 0), (500, -6), (2000, -24), (8000, -50)))
    high = noise(rng, 2, n, ((200, -30), (900, -6), (3000, 0), (9000, -6), (18000, -20)))
    return low * (curves[0] + 0.03) + 0.6 * high * (curves[1] + 0.02)


def render_stream(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """Bubbles, each a short rising tone, over a soft hiss."""
    n = layer.num_samples
    bubbles = [sweep(hz, hz * rng.uniform(1.1, 1.6), rng.uniform(0.02, 0.07)) for hz in rng.uniform(350, 1900, 24)]
    times = poisson(rng, layer.seconds, layer.rate_hz or 80.0)
    lean = rng.random(len(times))
    gains = rng.exponential(0.4, len(times)) * np.stack((lean, 1 - lean))
    hiss = noise(rng, 2, n, ((100, -24), (500, -6), (1500, 0), (5000, -8), (16000, -24)))
    body = scatter(n, times, bubbles, rng.integers(len(bubbles), size=len(times)), gains)
    return body + 0.06 * hiss * wander(rng, n, 1.0, 0.7, 1.0)


def render_drips(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """Drops falling into water at an even pace, each a short rising plink."""
    base = rng.uniform(800, 1300) * {"dark": 0.55, "neutral": 1.0, "bright": 1.8}[layer.brightness]
    drops = [
        (sweep(hz, hz * 1.5, 0.09) * decay(0.09, 0.018)).astype(np.float32) for hz in base * rng.uniform(0.94, 1.06, 4)
    ]
    return hits(layer.num_samples, beats(layer.seconds, layer.beat_seconds), drops, rng)


def render_thunder(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """Strikes some seconds apart: a tearing crack, then a rumble that rolls and dies away."""
    n = layer.num_samples
    times = [rng.uniform(0.1, 0.5)]
    while times[-1] + 4.0 < layer.seconds - 3.0:
        times.append(times[-1] + rng.uniform(4.0, 8.0))
    rumble = noise(rng, 2, n, ((20, -14), (45, 0), (110, -2), (300, -16), (1200, -38), (8000, -70)))
    crack = noise(rng, 2, n, ((60, -10), (300, 0), (1500, -4), (6000, -14), (16000, -30)))
    time = np.arange(n, dtype=np.float32) / samples(1.0)
    roll, tear = np.zeros(n, dtype=np.float32), np.zeros(n, dtype=np.float32)
    for start in times:
        since = time - start
        falling = np.exp(-np.maximum(since, 0) / rng.uniform(0.9, 1.6)) * (since > 0)
        roll += falling * np.minimum(np.maximum(since, 0) * 4, 1)
        tear += np.exp(-np.maximum(since, 0) / 0.16) * (since > 0)
    return rumble * roll * wander(rng, n, 7.0, 0.25, 1.0) + 0.35 * crack * tear * wander(rng, n, 40.0, 0.0, 1.0)


def render_fire(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """Crackles of very unequal strength over a low breathing roar."""
    n = layer.num_samples
    times = poisson(rng, layer.seconds, layer.rate_hz or 18.0)
    crackles = burst_bank("crackle", ((300, -14), (1500, 0), (6000, 0), (16000, -8)), 0.02, 0.002)
    lean = rng.random(len(times))
    gains = np.minimum(rng.pareto(1.6, len(times)) * 0.15 + 0.05, 1.0) * np.stack((lean, 1 - lean))
    roar = noise(rng, 2, n, ((30, -12), (90, 0), (250, -4), (800, -20), (5000, -40)))
    level = {"low": 0.02, "medium": 0.05, "high": 0.14}[layer.rate or "medium"]
    body = scatter(n, times, crackles, rng.integers(len(crackles), size=len(times)), gains)
    return body + level * roar * wander(rng, n, 3.0, 0.6, 1.0)


def render_birds(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """One to three birds, each repeating its own phrase of gliding whistles."""
    n, rate = layer.num_samples, layer.rate_hz or 0.5
    audio = np.zeros((2, n), dtype=np.float32)
    for bird in range({"low": 1, "medium": 2, "high": 4}[layer.rate or "medium"]):
        base, step = rng.uniform(2300, 5000), rng.uniform(0.09, 0.16)
        notes = [sweep(base * a, base * b, step * rng.uniform(0.5, 0.85)) for a, b in rng.uniform(0.75, 1.35, (3, 2))]
        phrase = rng.integers(3, size=rng.integers(3, 7))
        starts = np.arange(0.1 + 0.37 * bird, max(0.2, layer.seconds - 0.5), 1.0 / rate)
        starts = starts + rng.uniform(0.0, 0.25 / rate, len(starts))
        times = (starts[:, None] + step * np.arange(len(phrase))).ravel()
        times = times[times < layer.seconds - 0.15]
        choice = np.tile(phrase, len(starts))[: len(times)]
        ears = np.array([[rng.uniform(0.2, 1.0)], [rng.uniform(0.2, 1.0)]])
        audio += scatter(n, times, notes, choice, ears * np.ones(len(times)))
    return audio


def render_crickets(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """Insects chirping in short trains of pulses at a few kHz."""
    n, audio = layer.num_samples, np.zeros((2, layer.num_samples), dtype=np.float32)
    for _ in range(2):
        pulse = (oscillator(rng.uniform(4000, 5200), samples(0.018)) * ramp(samples(0.018), 0.006, 0.01)).astype("f4")
        starts = np.arange(rng.uniform(0.0, 0.2), layer.seconds - 0.15, 1.0 / (layer.rate_hz or 2.5))
        times = (starts[:, None] + 0.028 * np.arange(rng.integers(3, 5))).ravel()
        times = np.sort(times[times < layer.seconds - 0.1])
        ears = np.array([[rng.uniform(0.3, 1.0)], [rng.uniform(0.3, 1.0)]])
        audio += scatter(n, times, [pulse], np.zeros(len(times), dtype=int), ears * np.ones(len(times)))
    return audio


def render_frogs(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """Croaks: a low buzz through a throat resonance, a few each second."""
    n, rate = layer.num_samples, layer.rate_hz or 1.2
    croaks = []
    for _ in range(3):
        length = samples(rng.uniform(0.18, 0.3))
        pulses = np.arange(0.0, length / 44_100 - 0.01, 1.0 / rng.uniform(45, 75))
        throat = struck(round(rng.uniform(380, 800), -1), ((1.0, 1.0, 0.006), (2.3, 0.4, 0.004)), 0.03)
        croak = scatter(length, pulses, [throat], np.zeros(len(pulses), dtype=int), np.ones(len(pulses)))[0]
        croaks.append(croak * ramp(length, 0.05, 0.08))
    times = beats(layer.seconds, 1.0 / rate, 0.4)
    times = np.maximum(0.02, times + rng.uniform(-0.1, 0.1, len(times)) / rate)
    lean = rng.random(len(times))
    return scatter(n, times, croaks, rng.integers(3, size=len(times)), np.stack((lean, 1 - lean)))


def render_applause(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """A crowd of hand claps."""
    n = layer.num_samples
    claps = burst_bank("clap", ((300, -16), (900, 0), (2200, -2), (7000, -14), (16000, -30)), 0.04, 0.005)
    times = poisson(rng, layer.seconds, layer.rate_hz or 60.0)
    lean = rng.random(len(times))
    gains = rng.uniform(0.2, 1.0, len(times)) * np.stack((lean, 1 - lean))
    return scatter(n, times, claps, rng.integers(len(claps), size=len(times)), gains)


def render_owl(layer: Layer, rng: np.random.Generator) -> np.ndarray:
    """An owl: hoots in groups of two or three, soft low whistles with hardly a harmonic."""
    base = rng.uniform(330, 460)
    hoot = [
        (
            oscillator(base * np.linspace(0.95, 1.0, samples(d)), samples(d), rolloff(2, 3))
            * ramp(samples(d), 0.05, 0.15)
        )
        for d in (0.22, 0.5)
    ]
    starts = np.arange(0.1, max(0.2, layer.seconds - 1.2), 1.0 / (layer.rate_hz or 0.4))
    times = (starts[:, None] + np.array([0.0, 0.35])).ravel()
    return scatter(layer.num_samples, times, hoot, np.tile((0, 1), len(starts)), np.ones(len(times)))


KINDS = (
    Kind(name="rain", weight=2.0, render=render_rain, group="nature", rates_hz=(25.0, 120.0, 300.0), bed=True),
    Kind(name="wind", render=render_wind, group="nature", rates_hz=(0.25, 0.45, 0.7), bed=True),
    Kind(name="waves", render=render_waves, group="nature", rates_hz=(0.12, 0.17, 0.28), bed=True, min_seconds=5.0),
    Kind(name="stream", render=render_stream, group="nature", rates_hz=(30.0, 80.0, 180.0), bed=True),
    Kind(name="dripping water", render=render_drips, group="beat", tempo=(60, 180)),
    Kind(name="thunder", render=render_thunder, group="nature", colored=False, min_seconds=4.0),
    Kind(name="fire", render=render_fire, group="nature", rates_hz=(7.0, 20.0, 50.0), bed=True),
    Kind(name="birds", render=render_birds, group="nature", rates_hz=(0.45, 0.6, 0.8), colored=False),
    Kind(name="crickets", render=render_crickets, group="nature", rates_hz=(1.2, 2.4, 4.0), bed=True, colored=False),
    Kind(name="frogs", render=render_frogs, group="nature", rates_hz=(0.8, 1.6, 3.0), colored=False),
    Kind(name="owl", render=render_owl, group="nature", rates_hz=(0.25, 0.35, 0.5), colored=False, min_seconds=3.0),
    Kind(name="applause", render=render_applause, group="nature", rates_hz=(12.0, 50.0, 180.0), bed=True),
)
