"""Streams that stop and go on: a file with everything the rest of the sound depends on but the model.

A stream that was saved and taken up again gives, sample for sample, what one gives that never stopped. The file is one
line of text with the format and the SHA-256 of the rest, then what `torch.save` writes; it names the model by the
fingerprint of its weights.
"""

import hashlib
import io
import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch

from infer.fifo.config import StreamConfig
from infer.fifo.stream import EndlessStream
from infer.hosts.host import Host
from infer.outputs import check_file
from models.errors import UserError
from models.files import replacing
from models.texts import text_from_plain

FORMAT = 2
_MAGIC = b"endless-audio stream"


def save_stream(path: str | Path, stream: EndlessStream) -> None:
    """Write a stream's state; an existing file is replaced as a whole.

    Raises:
        UserError: the stream was broken off in the middle of a chunk.
        FileNotFoundError: the folder does not exist.
        OSError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
    with replacing(path) as partial:
        partial.write_bytes(_contents(stream))


def _contents(stream: EndlessStream) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": stream.model.fingerprint(), "stream": stream.state_dict()}, buffer)
    payload = buffer.getvalue()
    return b"%s %d %s\n" % (_MAGIC, FORMAT, hashlib.sha256(payload).hexdigest().encode()) + payload


def check_state_file(path: Path, stream: EndlessStream | None = None, *, overwrite: bool = False) -> None:
    """Find out before any sound is made whether a state can be written; given a stream, by writing one beside.

    Raises:
        UserError: the path is a folder, or exists and may not be replaced.
        OSError: there is no such folder, it cannot be written, or the disk is full.
    """
    check_file(path, overwrite=overwrite)
    if stream is not None:
        with tempfile.TemporaryFile(dir=path.parent) as trial:
            trial.write(_contents(stream))


def load_stream(path: str | Path, model: Host) -> EndlessStream:
    """Take a stream up where `save_stream` left it.

    Raises:
        UserError: the file is no state, damaged, of an older version, or of another model.
        FileNotFoundError: there is no such file.
    """
    saved = read_state(Path(path))
    try:
        if saved["model"] != model.fingerprint():
            raise UserError(f"{path} is the state of a stream of another model: give it with --model")
        state = saved["stream"]
        prompts = [text_from_plain(sheet["text"]) for sheet in state["cues"]]
        stream = EndlessStream(model, prompts, StreamConfig.from_dict(state["config"]))
        stream.load_state_dict(state)
    except (KeyError, TypeError, IndexError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path} does not hold the whole state of a stream: {type(error).__name__} {error}") from error
    return stream


def read_state(path: Path) -> dict[str, Any]:
    """Read the contents of a state file, and check that they are whole; errors as above."""
    header, newline, payload = path.read_bytes().partition(b"\n")
    words = header.removeprefix(_MAGIC).split()
    if header[:2] == b"PK":
        raise UserError(
            f"{path} was saved by an older version, or is another kind of file: this one cannot go on with it"
        )
    if not header.startswith(_MAGIC) or not newline or len(words) != 2:
        raise UserError(f"{path} is not the state of a stream: expected a file of --save_state")
    if words[0] != str(FORMAT).encode():
        raise UserError(f"{path} has format {words[0].decode('ascii', 'replace')}, this version reads {FORMAT}")
    if hashlib.sha256(payload).hexdigest().encode() != words[1]:
        raise UserError(f"{path} is damaged: its contents do not have the checksum they were written with")
    try:
        saved = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is not the state of a stream: {type(error).__name__}") from error
    if not isinstance(saved, dict):
        raise UserError(f"{path} is not the state of a stream: it holds a {type(saved).__name__}")
    return saved
