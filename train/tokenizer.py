"""The tokenizer of a text encoder trained from scratch: captions without their sounds, and where it is kept."""

import itertools
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer

from data.captions import CaptionError
from data.corpus import CorpusSource, training_captions
from data.datamodule import AudioDataModule
from data.folder import FolderSource
from data.loading import Source, random_generator
from data.mixture import CYCLE, MixedSource
from data.shard_loading import ShardSource
from models.tokenizer import FILE_NAME, load_tokenizer, train_tokenizer

logger = logging.getLogger(__name__)

CAPTIONS_PER_FILE = 20
"""Most prompts drawn from one file's metadata."""

_CAPTION = 21


def prepare_tokenizer(
    data: AudioDataModule, vocab_size: int, num_captions: int, folder: Path, resume: str | None
) -> Tokenizer:
    """Train a tokenizer on the data's captions and keep it in `folder`; a resumed run reads the one it began with.

    Every process trains the same one, the first of a machine writes it.

    Raises:
        FileNotFoundError: a resumed run has none.
    """
    if resume is not None:
        return load_tokenizer(folder)
    tokenizer = train_tokenizer(captions(data, num_captions), vocab_size)
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save(str(folder / FILE_NAME))
    logger.info("trained a tokenizer of %d entries", tokenizer.get_vocab_size())
    return tokenizer


def captions(data: AudioDataModule, num_captions: int) -> Iterator[str]:
    """Training captions of whatever is trained on, drawn without reading or making any sound."""
    data.setup()
    assert data.source is not None
    return source_captions(data.source, num_captions)


def source_captions(source: Source | ShardSource, num_captions: int) -> Iterator[str]:
    """Captions of a folder, of a corpus, or of the parts of a mixture by their shares."""
    if isinstance(source, MixedSource):
        for part, count in zip(source.sources, source.shares.counts, strict=True):
            yield from source_captions(part, -(-num_captions * count // CYCLE))
    elif isinstance(source, FolderSource):
        yield from folder_captions(source, num_captions)
    elif isinstance(source, ShardSource):
        yield from itertools.islice(source.prompts(), num_captions)
    elif isinstance(source, CorpusSource):
        for index in range(num_captions):
            yield from training_captions(source.corpus, source.seed, index, 1)


def folder_captions(source: FolderSource, num_captions: int) -> Iterator[str]:
    """Captions of a folder's training files, each file several times: its prompts vary."""
    files = source.training
    for index in range(min(num_captions, CAPTIONS_PER_FILE * len(files))):
        entry = source.entries[files[index % len(files)]]
        try:
            prompt = source.captioner(entry.read_metadata(), random_generator(source.seed, _CAPTION, index), entry.name)
        except CaptionError:
            raise
        except (ValueError, OSError):
            continue  # the data stream names and counts this file
        if prompt is not None:
            yield prompt
