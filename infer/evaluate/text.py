"""The command `evaluate text`: retrieval between sounds and captions with CLAP, R@1, R@5 and R@10 both ways."""

import sys
from pathlib import Path

import torch.nn.functional as F

from infer.embedders import load_embedder
from infer.evaluate.embeddings import embed_clips
from infer.evaluate.report import write_report
from infer.evaluate.results import Results
from infer.evaluate.sets import corpus_items, read_items
from infer.metrics.retrieval import RECALL_AT, caption_ids, ranks
from models.checkpoint import SHIPPED_MODEL
from models.errors import UserError


def main(
    weights: str = str(SHIPPED_MODEL),
    embedder: str = "clap",
    source: Path | None = None,
    audio: Path | None = None,
    corpus: int = 64,
    seconds: float = 4.0,
    device: str = "auto",
    seed: int = 0,
    out: Path = Path("runs/evaluate/text"),
    cache: Path = Path("runs/evaluate/cache"),
) -> None:
    """Measure whether a CLAP finds the caption of a sound, and the sound of a caption.

    Args:
        weights: What `train.clap` exported; for laion-clap a folder or a hub name.
        embedder: clap or laion-clap.
        source: A manifest with captions; none: held-out clips of the procedural corpus.
        audio: Folder of the manifest's sounds.
        corpus: How many clips of the corpus.
        seconds: Their length.
        device: auto, cpu, cuda, cuda:N or mps.
        seed: Of the intervals.
        out: Folder for the results.
        cache: Folder that keeps clips and embeddings for the next time.
    """
    clap = load_embedder(embedder, weights, device)
    items = read_items(source, audio) if source else corpus_items(corpus, seconds, cache)
    known = [item for item in items if item.path is not None and item.caption]
    if len(known) < 2:
        raise UserError(f"found {len(known)} sounds with captions, at least 2 are needed: give --audio")
    sounds = F.normalize(embed_clips(clap, [item.path for item in known if item.path], cache).means(), dim=-1)
    captions = F.normalize(clap.embed_text([item.caption for item in known]), dim=-1)
    ids = caption_ids([item.caption for item in known])
    settings = {"weights": weights, "embedder": embedder, "source": source, "corpus": corpus, "seconds": seconds}
    results = Results(command="evaluate text", settings=settings, seed=seed, weights=clap.weights)
    for subject, queries, candidates in (
        ("text to audio", captions, sounds),
        ("audio to text", sounds, captions),
        ("chance", captions.roll(1, dims=0), sounds),
    ):
        found = ranks(queries, candidates, ids).tolist()
        for k in RECALL_AT:
            values = {item.name: float(rank < k) for item, rank in zip(known, found, strict=True)}
            results.add_average(f"R@{k} of {len(known)}", subject, values)
    results.save(out)
    write_report(out, results)
    sys.stdout.write(f"{results.table()}wrote {out}\n")
