"""Audio in WebDataset shards: tar files of any number and size, read in sequence from disks, web servers or commands.

A sample is an audio file with its metadata (`.json`) or captions (`.txt`) of the same name. URLs are local paths,
folders, `http(s)://...` or `pipe:COMMAND` (for object stores), with `{000..127}` for a range. The `webdataset` library
opens, unpacks and groups; what is damaged is named and counted here, and `data.shard_order` says who reads what when.
"""

import dataclasses
import hashlib
import json
import logging
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from webdataset.shardlists import expand_urls
from webdataset.tariterators import group_by_keys, tar_file_expander, url_opener

from data.audio import AUDIO_SUFFIXES, AudioFile
from data.captions import check_metadata
from data.manifest import parse_object
from data.text_files import check_text
from models.errors import UserError

logger = logging.getLogger(__name__)

_TEXT_ENDINGS = (".caption.txt", ".txt", ".caption")
_JUDGED_SAMPLES = 200
_NAMED = 5


@dataclasses.dataclass(frozen=True)
class Sample:
    """One sample of a shard, not decoded."""

    name: str
    """Shard and key, for messages."""
    key: str
    """Its name in the shard."""
    audio: bytes
    """The audio file."""
    suffix: str
    """The audio file's suffix, such as ".flac"."""
    metadata: dict[str, Any]
    """Fields of its JSON, and "prompts" of its text."""

    @property
    def path(self) -> Path:
        """Its path where it was packed, or its key."""
        path = self.metadata.get("path")
        return Path(path if isinstance(path, str) and path else self.key)

    def open(self) -> AudioFile:
        """Open the audio for reading parts of it."""
        return AudioFile(self.audio, name=self.name + self.suffix)


class LeftOut:
    """Samples that one process left out: named, counted, and an error when they are too many.

    Args:
        max_share: more than this share of the samples (and more than one) that cannot be read stops the run.
    """

    def __init__(self, max_share: float) -> None:
        self.max_share = max_share
        self.num_seen = 0
        self.num_unread = 0
        self.names: dict[str, str] = {}

    def add(self, name: str, reason: str) -> None:
        """Count what cannot be read, and name it once.

        Raises:
            UserError: it is too many.
        """
        self.num_unread += 1
        if name not in self.names:
            self.names[name] = reason
            logger.warning("left out %s: %s (%d of %d)", name, reason, self.num_unread, self.num_seen)
        if len(self.names) > 1 and self.num_unread > self.max_share * max(self.num_seen, _JUDGED_SAMPLES):
            raise UserError(
                f"{self.num_unread} of {self.num_seen} samples cannot be read, more than data.max_unreadable_share "
                f"{self.max_share:g} allows: {', '.join(list(self.names)[:_NAMED])}; the last one: {reason}"
            )


def expand(specs: str | Sequence[str]) -> list[str]:
    """Return the URLs that patterns and folders stand for, in order.

    Raises:
        FileNotFoundError: a local shard is missing.
        UserError: a local shard breaks off, or there is none.
    """
    urls = []
    for spec in [specs] if isinstance(specs, str) else specs:
        if is_local(spec) and Path(spec).is_dir():
            urls += [str(path) for path in sorted(Path(spec).glob("*.tar"))]
        else:
            urls += expand_urls(spec)
    if not urls:
        raise UserError(f"no shards in {specs}: expected names ending in .tar, or a folder of them")
    for url in urls:
        if is_local(url):
            _check_local(Path(url.removeprefix("file:")))
    return urls


def is_local(url: str) -> bool:
    """Whether a URL is a path of this machine."""
    return url.startswith("file:") or not ("://" in url or url.startswith("pipe:"))


def _check_local(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"no such shard: {path}")
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1_024))
        if file.read().strip(b"\0") or path.stat().st_size < 1_024:  # two empty blocks end a tar file
            raise UserError(f"shard {path} breaks off, or is no tar file: write it again, or leave it out")


def read_shard(url: str, left_out: LeftOut) -> Iterator[Sample]:
    """Yield a shard's samples in its order; what is damaged is named and counted.

    Raises:
        UserError: too much cannot be read.
    """

    def note(error: Exception) -> bool:
        left_out.add(url, f"{type(error).__name__}: {error}")
        return True

    try:
        (opened,) = url_opener([{"url": url}])
        stream = opened["stream"] = _Watched(opened["stream"])
        for members in group_by_keys(tar_file_expander([opened]), keys=split_name, handler=note):
            left_out.num_seen += 1
            name = f"{url}: {members['__key__']}"
            try:
                yield make_sample(name, members["__key__"], members)
            except (UserError, UnicodeDecodeError) as error:
                left_out.add(name, str(error))
        stream.finish()
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 whatever servers and commands raise: this shard gives no more
        left_out.num_seen += 1
        left_out.add(f"the rest of {url}", " ".join(str(error.args[0] if error.args else error).split()))


class _Watched:
    """A stream of a tar file that must end as one: with two empty blocks, and without an error of its command."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._tail = b""

    def read(self, num_bytes: int) -> bytes:
        content = self._stream.read(num_bytes)
        self._tail = (self._tail + content)[-2 * tarfile.BLOCKSIZE :]
        return content

    def finish(self) -> None:
        """Read what is left, and raise what was wrong."""
        while self.read(1 << 16):
            pass
        self._stream.close()
        if len(self._tail) < 2 * tarfile.BLOCKSIZE or self._tail.strip(b"\0"):
            raise OSError("it breaks off")


def split_name(name: str) -> tuple[str, str] | tuple[None, None]:
    """Split a member's name into the sample's key and the member's ending, dots in the key included."""
    lower = name.lower()
    for ending in (*_TEXT_ENDINGS, ".json", *AUDIO_SUFFIXES):
        if lower.endswith(ending):
            key = name[: -len(ending)]
            if ending not in AUDIO_SUFFIXES:  # song.wav.json belongs to song.wav
                key = next((key[: -len(s)] for s in AUDIO_SUFFIXES if key.lower().endswith(s)), key)
            return key, ending[1:]
    key, dot, ending = name.rpartition(".")
    return (key, ending.lower()) if dot else (None, None)


def make_sample(name: str, key: str, members: dict[str, Any]) -> Sample:
    """Make a sample of its members by their endings.

    Raises:
        UserError: there is no audio among them, or the metadata have no meaning.
    """
    suffix = next((suffix for suffix in AUDIO_SUFFIXES if suffix[1:] in members), None)
    if suffix is None:
        found = ", ".join(one for one in members if not one.startswith("__"))
        raise UserError(f"it holds no audio, only {found}")
    metadata: dict[str, Any] = {}
    if "json" in members:
        metadata = parse_object(members["json"].decode("utf-8-sig"), name)
        check_text(json.dumps(metadata, ensure_ascii=False), name)
        check_metadata(metadata, name)
    texts = [members[ending[1:]].decode("utf-8-sig") for ending in _TEXT_ENDINGS if ending[1:] in members]
    if prompts := [line.strip() for text in texts for line in text.split("\n") if line.strip()]:
        metadata["prompts"] = prompts
    return Sample(name, key, members[suffix[1:]], suffix, metadata)


def name_hash(name: str) -> float:
    """A number in [0, 1) that belongs to a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
