"""The command `evaluate protocol`: the tables of the papers, computed as they were published.

    stable-audio    FD of OpenL3, KL of PaSST (generated || reference), CLAP score; 44.1 kHz stereo, any length
    audioldm        FD, KL (reference || generated) and IS of PANNs, FD of VGGish, CLAP score; also InfiniteAudio's
    own             FD, KAD and CLAP score with what needs no download: mel statistics and this project's CLAP

A network whose weights are not there is left out, and the results say what to fetch.
"""

import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from infer.embedders import Embedder, load_embedder
from infer.embedders.load import UNVERIFIED
from infer.evaluate.embeddings import EmbeddedClips, embed_clips
from infer.evaluate.generation import GenerationConfig, Request, make_clips, read_clip
from infer.evaluate.report import write_report
from infer.evaluate.results import ReportClip, Results
from infer.evaluate.set_scores import add_agreement, add_distances, add_divergence, add_inception
from infer.evaluate.sets import Item, corpus_items, read_folder, read_items, read_statistics, write_statistics
from infer.metrics.distances import Gaussian, fit_gaussian
from infer.metrics.labels import Direction
from models.checkpoint import SHIPPED_MODEL
from models.errors import UserError

logger = logging.getLogger(__name__)
POSITIONALS = ("protocol",)
GENERATED = "generated"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Which networks judge what."""

    distances: tuple[str, ...]
    """Embedders of the distance between sets."""
    labels: str = ""
    """Tagger of the divergence between labels."""
    direction: Direction = "generated || reference"
    inception: bool = False
    agreement: str = "laion-clap"
    """Embedder of sound and prompts."""

    @property
    def networks(self) -> tuple[str, ...]:
        """Every network that judges."""
        return tuple(dict.fromkeys(filter(None, (*self.distances, self.labels, self.agreement))))


PROTOCOLS = {
    "stable-audio": Protocol(distances=("openl3",), labels="passt"),
    "audioldm": Protocol(
        distances=("panns", "vggish"), labels="panns", direction="reference || generated", inception=True
    ),
    "own": Protocol(distances=("mel", "clap"), agreement="clap"),
}


@dataclass(frozen=True, kw_only=True)
class WeightsConfig:
    """Where the networks' weights are: files, folders, or hub names."""

    openl3: str = ""
    """torchopenl3_mel256_music_512.pth.tar"""
    passt: str = ""
    """passt-s-f128-p16-s10-ap.476-swa.pt"""
    panns: str = ""
    """Cnn14_16k_mAP=0.438.pth"""
    vggish: str = ""
    """vggish-10086976.pth"""
    laion_clap: str = "laion/clap-htsat-fused"
    """A folder of `transformers`, or a hub name."""
    clap: str = str(SHIPPED_MODEL)
    """What `train.clap` exported."""

    def load(self, name: str, device: str) -> Embedder:
        """Load an embedder by its name."""
        return load_embedder(name, getattr(self, name.replace("-", "_"), ""), device)


def main(
    protocol: Literal["stable-audio", "audioldm", "own"],
    prompts: Path | None = None,
    prompts_audio: Path | None = None,
    corpus: int = 0,
    generated: Path | None = None,
    reference: Path | None = None,
    reference_statistics: dict[str, Path] = {},  # noqa: B006
    seconds: float = 4.0,
    limit: int = 0,
    seed: int = 0,
    generation: GenerationConfig = GenerationConfig(),  # noqa: B008
    weights: WeightsConfig = WeightsConfig(),
    out: Path = Path("runs/evaluate/protocol"),
    cache: Path = Path("runs/evaluate/cache"),
    report_clips: int = 12,
) -> None:
    """Compute the metrics of a paper on generated clips.

    Args:
        protocol: Whose metrics.
        prompts: A list of prompts: AudioCaps', MusicCaps' or Song Describer's CSV, another CSV, or a .txt.
        prompts_audio: Folder of the real clips of a CSV; they are the reference, and what labels are compared with.
        corpus: Instead of a list, this many held-out clips of the procedural corpus.
        generated: Folder of clips made elsewhere, named as the prompts are; none: the model makes them.
        reference: Folder of other real clips as the reference of the distances.
        reference_statistics: Saved statistics as the reference of the distances, by embedder: an npz with mu_ref and
            sigma_ref.
        seconds: Length of the clips to make, and of clips of the corpus.
        limit: Only this many prompts; 0 takes all.
        seed: Of the noise: clip k has seed + k.
        generation: How the model makes sound.
        weights: Where the judging networks' weights are.
        out: Folder for the results, and for the reference's statistics.
        cache: Folder that keeps clips and embeddings for the next time.
        report_clips: Clips in report.html.
    """
    if (prompts is None) == (corpus == 0):
        raise UserError("give either --prompts or --corpus")
    items = read_items(prompts, prompts_audio) if prompts else corpus_items(corpus, seconds, cache)
    items = items[: limit or None]
    settings = {
        "protocol": protocol,
        "prompts": prompts,
        "corpus": corpus,
        "generated": generated,
        "reference": reference,
        "reference_statistics": reference_statistics,
        "seconds": seconds,
        "limit": limit,
        "generation": None if generated else generation.settings,
    }
    results = Results(command=f"evaluate protocol {protocol}", settings=settings, seed=seed)
    results.weights |= {} if generated else generation.settings["weights"]
    judges = _Judges(results, weights, generation.device, cache)
    if not any(judges.get(name) for name in PROTOCOLS[protocol].networks):
        raise UserError("none of the judging networks is there: " + "; ".join(results.notes))
    paths = _generated_paths(items, generated, cache, generation, seconds, seed)
    folder_reference = [item.path for item in read_folder(reference) if item.path] if reference else None
    _measure(results, PROTOCOLS[protocol], judges, items, paths, folder_reference, reference_statistics, out)
    if not results.scores:
        raise UserError("nothing could be measured: " + "; ".join(results.notes))
    results.save(out)
    write_report(out, results, (_report_clip(item, paths[item.name]) for item in items[:report_clips]))
    sys.stdout.write(results.table() + "".join(f"{note}\n" for note in results.notes) + f"wrote {out}\n")


def _report_clip(item: Item, path: Path) -> ReportClip:
    audio = {GENERATED: read_clip(path)} | ({"real": read_clip(item.path)} if item.path else {})
    return ReportClip(title=item.caption or item.name, audio=audio)


def _generated_paths(
    items: list[Item],
    generated: Path | None,
    cache: Path,
    generation: GenerationConfig,
    seconds: float,
    seed: int,
) -> dict[str, Path]:
    """The generated clip of each prompt, by name."""
    if generated is None:
        requests = [Request(prompt=item.caption, seed=seed + i, seconds=seconds) for i, item in enumerate(items)]
        return dict(zip((item.name for item in items), make_clips(cache, generation, requests), strict=True))
    found = {item.name: item.path for item in read_folder(generated) if item.path}
    missing = [item.name for item in items if item.name not in found]
    if missing:
        raise UserError(f"{generated} lacks {len(missing)} of {len(items)} clips, the first is {missing[0]}")
    return {item.name: found[item.name] for item in items}


class _Judges:
    """Embedders that are loaded once; those without weights are noted and left out."""

    def __init__(self, results: Results, weights: WeightsConfig, device: str, cache: Path) -> None:
        self._results, self._weights, self._device, self.cache = results, weights, device, cache
        self._loaded: dict[str, Embedder | None] = {}

    def get(self, name: str) -> Embedder | None:
        """The embedder, or None."""
        if name not in self._loaded:
            try:
                self._loaded[name] = self._weights.load(name, self._device)
            except FileNotFoundError as error:
                logger.warning("left out: %s", error)
                self._results.notes.append(f"left out {name}: {error}")
                self._loaded[name] = None
            if self._loaded[name] is not None and name in UNVERIFIED:
                self._results.notes.append(
                    f"{name}: not compared with published numbers (its weights were not at hand when this was written)"
                )
        embedder = self._loaded[name]
        if embedder is not None:
            self._results.weights |= {f"{name}/{file}": value for file, value in embedder.weights.items()}
        return embedder

    def embed(self, embedder: Embedder, paths: list[Path]) -> EmbeddedClips:
        return embed_clips(embedder, paths, self.cache)


def _measure(
    results: Results,
    protocol: Protocol,
    judges: _Judges,
    items: list[Item],
    generated: dict[str, Path],
    folder_reference: list[Path] | None,
    statistics: dict[str, Path],
    out: Path,
) -> None:
    names = [item.name for item in items]
    made = [generated[name] for name in names]
    pairs = [(item.name, item.path) for item in items if item.path]
    real = [path for _, path in pairs]
    for name in tqdm(protocol.distances, desc="distances", leave=False):
        embedder = judges.get(name)
        if embedder is None:
            continue
        reference = _reference(results, judges, embedder, folder_reference or real, statistics.get(name), out)
        if reference is not None:
            add_distances(results, GENERATED, name, judges.embed(embedder, made), reference)
    tagger = judges.get(protocol.labels) if protocol.labels else None
    if tagger is not None and pairs:
        paired = judges.embed(tagger, [generated[name] for name, _ in pairs])
        of_real = judges.embed(tagger, real)
        paired_names = [name for name, _ in pairs]
        add_divergence(results, GENERATED, protocol.labels, paired_names, paired, of_real, protocol.direction)
    if tagger is not None and protocol.inception:
        add_inception(results, GENERATED, protocol.labels, judges.embed(tagger, made))
    clap = judges.get(protocol.agreement)
    if clap is not None and all(item.caption for item in items):
        text = clap.embed_text([item.caption for item in items])
        add_agreement(results, GENERATED, protocol.agreement, names, judges.embed(clap, made), text)
        if len(pairs) == len(items):
            add_agreement(results, "real", protocol.agreement, names, judges.embed(clap, real), text)


def _reference(
    results: Results, judges: _Judges, embedder: Embedder, paths: list[Path], statistics: Path | None, out: Path
) -> EmbeddedClips | Gaussian | None:
    """What the distances are measured to; statistics of real clips are saved beside the results."""
    if statistics is not None:
        return read_statistics(statistics)
    if len(paths) < 2:
        results.notes.append(f"no distance of {embedder.name}: give real clips or saved statistics as the reference")
        return None
    clips = judges.embed(embedder, paths)
    windows = clips.windows()
    if len(windows) > windows.shape[1]:
        out.mkdir(parents=True, exist_ok=True)
        write_statistics(out / f"reference-{embedder.name}.npz", fit_gaussian(windows))
    return clips
