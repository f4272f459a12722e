"""Prompts for audio files: a caption where there is one, else a sentence made of metadata, else the file's name.

In this order:
1. a field `prompt`, `caption`, `text` (or `prompts`, `captions`: a list, of which one is drawn);
2. a random subset of the other fields in random order, lists shuffled; half the time with the fields' names
   ("Instruments: Guitar, Drums|Moods: Uplifting"), half without ("Guitar, Drums, Uplifting");
3. words of the file's name ("03_heavy-rain.wav" -> "heavy rain"), or of its folder's, if it has none.

Source: Evans et al. 2024 (2402.04825), section 4.
"""

import importlib
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import UserError

CAPTION_FIELDS = ("prompt", "caption", "text", "prompts", "captions")

# Fields about the file rather than the sound.
# fmt: off
_TECHNICAL_FIELDS = frozenset({
    *CAPTION_FIELDS,
    "path", "audio", "audio_path", "file", "file_name", "filename", "filepath", "id", "uuid", "track_id", "url",
    "link", "md5", "sha256", "hash", "size", "bytes", "split", "subset", "license", "licence", "copyright",
    "seconds", "seconds_start", "seconds_total", "duration", "length", "start", "end", "sample_rate", "samplerate",
    "sr", "channels", "bitrate", "bit_rate", "codec", "format", "num_samples", "num_frames", "seed",
})
# fmt: on


class CaptionError(UserError):
    """A user's own rule for captions fails: the run stops, whatever share of files may be unreadable."""


class Captioner:
    """Makes a clip's prompt: `make_prompt`, or by a rule of the user's own.

    Args:
        rule: "module:function"; the function takes a clip's metadata (with its name in the data set as "name") and
            returns a prompt, a list of prompts of which one is drawn, or None to leave the clip out.

    Raises:
        UserError: there is no such function.
    """

    def __init__(self, rule: str | None = None) -> None:
        self.rule = rule
        self._load()

    def __call__(self, metadata: Mapping[str, Any], generator: np.random.Generator, name: Path) -> str | None:
        """Return the prompt of a clip, None to leave it out.

        Raises:
            CaptionError: the rule fails, naming the clip.
        """
        function = self._load()
        if function is None:
            return make_prompt(metadata, generator, name)
        try:
            made = function({**metadata, "name": name.as_posix()})
        except Exception as error:
            raise CaptionError(
                f"data.captions {self.rule} fails for {name}: {type(error).__name__}: {error}"
            ) from error
        prompts = [made] if isinstance(made, str) else made
        if prompts is None:
            return None
        if not isinstance(prompts, list) or not prompts or not all(isinstance(p, str) and p.strip() for p in prompts):
            raise CaptionError(
                f"data.captions {self.rule} must return a prompt, a list of prompts or None, for {name} got {made!r}"
            )
        return prompts[int(generator.integers(len(prompts)))]

    def _load(self) -> Callable[[dict[str, Any]], Any] | None:
        """Find the function; in every process anew, so that this can be pickled."""
        if self.rule is None:
            return None
        module, _, function = self.rule.partition(":")
        if not module or not function:
            raise UserError(f"data.captions must be module:function, got {self.rule!r}")
        try:
            found = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise UserError(f"data.captions {self.rule}: {error}") from error
        if not callable(found):
            raise UserError(f"data.captions {self.rule} is no function")
        return found


def make_prompt(metadata: Mapping[str, Any], generator: np.random.Generator, path: Path | None = None) -> str:
    """Return a prompt for a file.

    Args:
        metadata: field name -> string, number, or list of strings; a string may be a list with ";" or "|" between.
        generator: draws the caption, the fields and their order.
        path: the file, for the last resort; relative to the data set's folder, if its folders' names may serve too.
    """
    if captions := find_captions(metadata):
        return captions[int(generator.integers(len(captions)))]
    fields = {str(name).strip(): value for name, value in metadata.items()}
    described = {name: values for name in fields if (values := _values(name, fields[name]))}
    if described:
        return _compose(described, generator)
    return "" if path is None else prompt_from_path(path)


def find_captions(metadata: Mapping[str, Any]) -> list[str]:
    """Return the captions of the first caption field that has some."""
    by_lower_name = {str(name).strip().lower(): value for name, value in metadata.items()}
    for name in CAPTION_FIELDS:
        if captions := _as_strings(by_lower_name.get(name), split=False):
            return captions
    return []


def check_metadata(metadata: Mapping[str, Any], where: str) -> None:
    """Refuse captions that have no meaning; null, NaN and empty text mean that there is none.

    Raises:
        UserError: a caption is true or false, an object or a list of such, saying `where`.
    """
    for name, value in metadata.items():
        if str(name).strip().lower() not in CAPTION_FIELDS:
            continue
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, bool) or not isinstance(one, str | int | float | None):
                kinds = {bool: "true or false", dict: "an object", list: "a list in a list"}
                got = kinds.get(type(one), type(one).__name__)
                raise UserError(f"{where}: {name} must be text or a list of texts, got {got}")


def prompt_from_path(path: Path) -> str:
    """Return the words of a file's name without its track number, or of the nearest folder that has words."""
    for part in (path.stem, *reversed(path.parent.parts)):
        words = re.sub(r"[\s_\-.]+", " ", part).strip()
        words = re.sub(r"^\d+ +", "", words)
        if re.search(r"[^\W\d_]{2}", words):
            return words
    return "sound"


def _compose(described: dict[str, list[str]], generator: np.random.Generator) -> str:
    names = list(described)
    chosen = generator.permutation(len(names))[: generator.integers(1, len(names), endpoint=True)]
    with_names = generator.random() < 0.5
    parts = []
    for index in chosen:
        name = names[index]
        values = [described[name][k] for k in generator.permutation(len(described[name]))]
        joined = ", ".join(values)
        parts.append(f"{_title(name)}: {joined}" if with_names else joined)
    return ("|" if with_names else ", ").join(parts)


def _values(name: str, value: Any) -> list[str]:
    """Return what a field says, as the strings a prompt can hold; nothing for technical or empty fields."""
    if name.startswith("_") or name.lower() in _TECHNICAL_FIELDS:
        return []
    if isinstance(value, bool):
        return [name.replace("_", " ")] if value else []
    values = _as_strings(value, split=True)
    if name.lower() in ("bpm", "tempo", "tempo_bpm"):
        return [f"{text} BPM" if re.fullmatch(r"[\d.]+", text) else text for text in values]
    return values


def _as_strings(value: Any, split: bool) -> list[str]:
    if isinstance(value, str):
        parts = re.split(r"[;|]", value) if split else [value]
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        parts = [f"{value:g}"]
    elif isinstance(value, list | tuple):
        return [text for part in value for text in _as_strings(part, split=False)]
    else:
        return []
    return [" ".join(part.split()) for part in parts if part.strip()]


def _title(name: str) -> str:
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]
