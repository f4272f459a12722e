"""Streams that stop and go on: a file with everything the rest of the sound depends on but the model.

A stream that was saved and taken up again gives, sample for sample, what one gives that never stopped.
"""

import os
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from infer.fifo.stream import EndlessStream
from infer.fifo.stream_config import StreamConfig
from models.errors import UserError
from models.text_to_audio import TextToAudio

FORMAT = 1


def save_stream(path: str | Path, stream: EndlessStream) -> None:
    """Write a stream's state, atomically.

    Raises:
        UserError: the stream was broken off in the middle of a chunk.
        FileNotFoundError: the folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
    partial = path.with_name(path.name + ".partial")
    torch.save({"format": FORMAT, "model": _shape(stream.model), "stream": stream.state_dict()}, partial)
    os.replace(partial, path)


def load_stream(path: str | Path, model: TextToAudio) -> EndlessStream:
    """Take a stream up where `save_stream` left it.

    Raises:
        UserError: the file is no state, or one of another model.
        FileNotFoundError: there is no such file.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path} is not the state of a stream: {type(error).__name__}") from None
    if not isinstance(saved, dict) or saved.get("format") != FORMAT:
        raise UserError(f"{path} is not the state of a stream that this version reads")
    if saved["model"] != _shape(model):
        raise UserError(f"{path} is the state of a stream of another model")
    state = saved["stream"]
    stream = EndlessStream(model, state["cues"]["prompt"], StreamConfig.from_dict(state["config"]))
    stream.load_state_dict(state)
    return stream


def _shape(model: TextToAudio) -> dict[str, Any]:
    return {"unet": asdict(model.unet.config), "vae": asdict(model.vae.config)}
