"""Embeddings of many clips, kept on disk: a file for each clip, so that an interrupted run goes on and memory is small.

A clip has one vector for each of its windows; metrics on sets take all windows of all clips together.
"""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.audio import read_audio
from infer.embedders import Embedder
from infer.hashes import file_hash, source_hash
from models.errors import UserError
from models.files import replacing


class EmbeddedClips:
    """Vectors and logits of clips, read when they are asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, index: Sequence[int]) -> "EmbeddedClips":
        """Some of the clips; one may be taken several times."""
        return EmbeddedClips([self.paths[i] for i in index])

    def windows(self) -> np.ndarray:
        """All windows of all clips, (windows, width) float32; in a temporary file, which is read as it is needed."""
        width = 0
        with tempfile.TemporaryFile() as file:
            for path in self.paths:
                vectors = _read(path, "vectors").astype(np.float32)
                width = vectors.shape[1]
                file.write(vectors.tobytes())
            file.flush()
            return np.memmap(file, np.float32, "r").reshape(-1, width)

    def means(self) -> Tensor:
        """The mean vector of each clip: (clips, width)."""
        return torch.from_numpy(np.stack([_read(path, "vectors").mean(axis=0) for path in self.paths]))

    def logits(self) -> Tensor:
        """The logits of each clip, averaged over its windows: (clips, classes)."""
        return torch.from_numpy(np.stack([_read(path, "logits").mean(axis=0) for path in self.paths]))


def _read(path: Path, name: str) -> np.ndarray:
    with np.load(path) as arrays:
        if name not in arrays:
            raise UserError(f"{path.parent.name} gives no {name}")
        return arrays[name]


def embed_clips(embedder: Embedder, sounds: Sequence[Path], cache: Path) -> EmbeddedClips:
    """Embed sound files, or find what an earlier run has embedded."""
    code = source_hash("models", "infer/embedders", "infer/metrics")
    key = json.dumps([embedder.name, embedder.weights, asdict(embedder.preprocessing), code], sort_keys=True)
    folder = cache / "embeddings" / f"{embedder.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for sound in tqdm(sounds, desc=f"embed ({embedder.name})", unit="clip", leave=False):
        path = folder / f"{file_hash(sound)}.npz"
        if not path.exists():
            result = embedder(torch.from_numpy(read_audio(sound)))
            arrays = {"vectors": result.vectors.numpy()}
            if result.logits is not None:
                arrays["logits"] = result.logits.numpy()
            with replacing(path) as partial:
                np.savez(partial, allow_pickle=False, **arrays)
        paths.append(path)
    return EmbeddedClips(paths)
