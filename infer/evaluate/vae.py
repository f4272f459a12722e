"""The command `evaluate vae`: what the autoencoder keeps of real sound.

STFT distance, mel distance, SI-SDR, loudness and width of each clip (`infer.metrics.reconstruction`, the table of
Stable Audio Open), and the Fréchet distance of half of the clips to the other half, before and after the autoencoder.
"""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from data.audio import SAMPLE_RATE
from data.audio_writer import write_audio
from data.encoding import reconstruct
from infer.embedders import load_embedder
from infer.evaluate.embeddings import embed_clips
from infer.evaluate.generation import read_clip
from infer.evaluate.report import write_report
from infer.evaluate.results import Better, ReportClip, Results
from infer.evaluate.set_scores import add_distances
from infer.evaluate.sets import Item, corpus_items, read_folder
from infer.hashes import folder_hashes
from infer.metrics.facts import side_db
from infer.metrics.reconstruction import ReconstructionMetrics
from infer.reconstruct import check_vae
from models.checkpoint import SHIPPED_MODEL
from models.device import resolve_device
from models.vae import VAE

POSITIONALS = ("source",)
CODED, REAL = "through the VAE", "real"
BETTER: dict[str, Better] = {"stft_distance": "lower", "mel_distance": "lower", "si_sdr_db": "higher"}


def main(
    source: Path | None = None,
    corpus: int = 24,
    seconds: float = 4.0,
    model: Path = SHIPPED_MODEL,
    embedder: str = "mel",
    embedder_weights: str = "",
    device: str = "auto",
    seed: int = 0,
    out: Path = Path("runs/evaluate/vae"),
    cache: Path = Path("runs/evaluate/cache"),
    report_clips: int = 12,
) -> None:
    """Measure what the autoencoder keeps.

    Args:
        source: Folder of sounds; none: held-out clips of the procedural corpus.
        corpus: How many clips of the corpus.
        seconds: Their length.
        model: Folder of a checkpoint with a VAE.
        embedder: Of the Fréchet distance: mel (needs no weights), clap, laion-clap, openl3, panns, passt, vggish.
        embedder_weights: Where its weights are.
        device: auto, cpu, cuda, cuda:N or mps.
        seed: Of the intervals.
        out: Folder for the results.
        cache: Folder that keeps clips and embeddings for the next time.
        report_clips: Clips in report.html.
    """
    items = read_folder(source) if source else corpus_items(corpus, seconds, cache)
    judge = load_embedder(embedder, embedder_weights, device)
    vae = VAE.load(model).to(resolve_device(device))
    check_vae(vae)
    settings = {"source": source, "corpus": corpus, "seconds": seconds, "model": model, "embedder": embedder}
    results = Results(
        command="evaluate vae", settings=settings, seed=seed, weights=folder_hashes(model) | judge.weights
    )
    coded = _code(results, vae, items, out / "coded")
    real = [item.path for item in items if item.path]
    half = len(real) // 2
    if half > 1:
        reference = embed_clips(judge, real[half:], cache)
        add_distances(results, REAL, embedder, embed_clips(judge, real[:half], cache), reference)
        add_distances(results, CODED, embedder, embed_clips(judge, coded[:half], cache), reference)
        results.notes.append(f"FD, KAD: {half} clips against the other {len(real) - half}, which stay as they are")
    results.save(out)
    write_report(out, results, _report_clips(items, coded, report_clips))
    sys.stdout.write(f"{results.table()}wrote {out}\n")


def _code(results: Results, vae: VAE, items: list[Item], folder: Path) -> list[Path]:
    """Pass every clip through the VAE, add the scores of all, and return the files of what came out."""
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, dict[str, float]] = {}
    paths, num_silent = [], 0
    for item in tqdm(items, desc="VAE", unit="clip"):
        assert item.path is not None
        original = read_clip(item.path)
        metrics = ReconstructionMetrics(SAMPLE_RATE, vae.config.audio_channels)
        pieces = []
        for before, after in reconstruct(vae, original):
            metrics.push(after, before)
            pieces.append(after.expand(2, -1))
        coded = torch.cat(pieces, dim=-1)
        paths.append(folder / f"{item.name}.flac")
        write_audio(paths[-1], coded)
        report = metrics.report()
        num_silent += report.is_silent
        measured = dataclasses.asdict(report) | {"side_error_db": abs(side_db(coded) - side_db(original))}
        results.clips.append({"name": item.name, **measured})
        for name, value in measured.items():
            values.setdefault(name, {})[item.name] = float("nan") if value is None else value
    for name, by_clip in values.items():
        better = BETTER.get(name, "lower" if name == "side_error_db" else "none")
        results.add_average(name, CODED, by_clip, better, "median")
    results.notes.append("distances of clips: their median, because one nearly silent clip makes one of thousands")
    if num_silent:
        results.notes.append(f"silent or constant, without distances: {num_silent} of {len(items)} clips")
    return paths


def _report_clips(items: list[Item], coded: list[Path], number: int) -> Iterator[ReportClip]:
    for item, path in list(zip(items, coded, strict=True))[:number]:
        assert item.path is not None
        yield ReportClip(title=item.caption or item.name, audio={REAL: read_clip(item.path), CODED: read_clip(path)})
