"""Sets of clips: folders, manifests as their authors publish them, lists of prompts, and the procedural corpus.

folder            every audio file in it; its name without suffix is its id
AudioCaps         audiocap_id, youtube_id, start_time, caption
MusicCaps         ytid, start_s, end_s, ..., caption
Song Describer    caption_id, track_id, caption, ..., path, duration
any other CSV     a column `caption` or `prompt`, and `id` or `path`
.txt              a prompt in each line
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data.audio import AUDIO_SUFFIXES
from data.audio_writer import write_audio
from data.corpus import SyntheticCorpus, validation_clip
from data.text_files import read_lines, read_text
from infer.hashes import source_hash
from infer.metrics.distances import Gaussian
from models.errors import UserError
from models.files import replacing

ID_COLUMNS = (("audiocap_id", "youtube_id"), ("ytid",), ("caption_id", "track_id", "path"), ("id",), ("path",))
"""Of each kind of manifest: the id of a caption, then what else its audio file may be called."""
CAPTION_COLUMNS = ("caption", "prompt", "text")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One clip of a set."""

    name: str
    """Unique in the set; generated and real clips of one name belong together."""
    caption: str = ""
    path: Path | None = None
    """The sound, where there is one."""


def read_folder(folder: Path) -> list[Item]:
    """Every audio file under a folder.

    Raises:
        FileNotFoundError: no such folder.
        UserError: it holds no audio, or two files of one name.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    items = [Item(name=path.stem, path=path) for path in _audio_files(folder)]
    if not items:
        raise UserError(f"no audio in {folder}: expected files ending in {', '.join(AUDIO_SUFFIXES)}")
    return _unique(items, folder)


def read_items(source: Path, audio: Path | None = None) -> list[Item]:
    """Read a folder, a manifest or a list of prompts.

    Args:
        source: a folder, a .csv or a .txt.
        audio: folder of the manifest's audio; items whose file is missing there have no path.

    Raises:
        FileNotFoundError: no such file.
        UserError: its columns are none of the known ones.
    """
    if source.is_dir():
        return read_folder(source)
    if not source.is_file():
        raise FileNotFoundError(f"no file or folder {source}")
    if source.suffix == ".txt":
        return [Item(name=f"{index:05d}", caption=line) for index, line in enumerate(read_lines(source))]
    reader = csv.DictReader(io.StringIO(read_text(source), newline=""))
    columns = tuple(reader.fieldnames or ())
    rows = list(reader)
    ids = next((known for known in ID_COLUMNS if known[0] in columns), None)
    caption = next((name for name in CAPTION_COLUMNS if name in columns), None)
    if ids is None or caption is None:
        raise UserError(
            f"{source} has the columns {', '.join(columns)}: expected those of AudioCaps, MusicCaps or Song Describer, "
            "or caption and id"
        )
    files = {path.stem: path for path in _audio_files(audio)} if audio else {}
    items = [
        Item(
            name=Path(row[ids[0]]).stem, caption=row[caption], path=_find(files, [row.get(name) or "" for name in ids])
        )
        for row in rows
    ]
    return _unique(items, source)


def _find(files: dict[str, Path], names: Sequence[str]) -> Path | None:
    """The file of the first name there is; AudioSet's files are also found with a Y in front of the id."""
    for name in names:
        for stem in (Path(name).name, Path(name).stem, f"Y{name}"):
            if stem in files:
                return files[stem]
    return None


def _audio_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file())


def _unique(items: list[Item], source: Path) -> list[Item]:
    """Keep the first of items that share a name (AudioCaps has five captions for a clip)."""
    first: dict[str, Item] = {}
    for item in items:
        known = first.setdefault(item.name, item)
        if known.path != item.path and known.path is not None and item.path is not None:
            raise UserError(f"{source} has two clips of the name {item.name}: {known.path} and {item.path}")
    return list(first.values())


def corpus_items(number: int, seconds: float, cache: Path, first: int = 0) -> list[Item]:
    """Held-out clips of the procedural corpus, cut to a length and written to the cache once.

    Args:
        first: number of the first clip.
    """
    folder = cache / f"corpus-{seconds:g}s-{source_hash('data/synthetic', 'data/corpus.py')}"
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for index in tqdm(range(first, first + number), desc="corpus", unit="clip", leave=False):
        path = folder / f"{index:06d}.flac"
        clip = validation_clip(SyntheticCorpus(), index)
        if not path.exists():
            with replacing(path) as partial:
                write_audio(partial, clip.audio[:, : round(seconds * 44_100)])
        items.append(Item(name=path.stem, caption=clip.prompt, path=path))
    return items


def read_statistics(path: Path) -> Gaussian:
    """Read saved statistics: an npz with mean and covariance, as stable-audio-metrics (mu_ref) or FAD (mu) save them.

    Raises:
        UserError: the file holds no such arrays, or they do not fit each other.
    """
    with np.load(path) as arrays:
        for mean_name, covariance_name in (("mu_ref", "sigma_ref"), ("mu", "sigma")):
            if mean_name in arrays and covariance_name in arrays:
                mean, covariance = (torch.from_numpy(arrays[n]).double() for n in (mean_name, covariance_name))
                if covariance.shape != (len(mean), len(mean)):
                    raise UserError(f"{path}: a mean of {len(mean)} and a covariance of {tuple(covariance.shape)}")
                return Gaussian(mean, covariance, int(arrays["num"]) if "num" in arrays else 0)
        raise UserError(f"{path} holds {', '.join(arrays)}: expected mu_ref and sigma_ref, or mu and sigma")


def write_statistics(path: Path, gaussian: Gaussian) -> None:
    """Save statistics so that this project and stable-audio-metrics read them."""
    with replacing(path) as partial:
        np.savez(partial, mu_ref=gaussian.mean.numpy(), sigma_ref=gaussian.covariance.numpy(), num=gaussian.num)
