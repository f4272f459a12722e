"""Texts that a model is asked for: a prompt, or a blend of prompts.

A blend is interpolated between embeddings, on the sphere, so that it is as strong as a prompt alone.

Tensors: embedded text (1, tokens, width).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.errors import UserError


@dataclass(frozen=True)
class Blend:
    """A text between two others."""

    start: "Text"
    end: "Text"
    weight: float
    """0 at the start to 1 at the end."""


@dataclass(frozen=True)
class Spoken:
    """A description of a scene with words to say in it, for models that speak (VoiceLDM)."""

    description: str
    content: str


Text = str | Blend | Spoken


NOT_SPEAKING = "this model does not speak: leave out --content"


def check_prompt(prompt: str) -> None:
    """Refuse a prompt without a word, or with characters that are no text (parts of undecodable bytes)."""
    if not prompt.strip():
        raise UserError('the prompt is empty, describe a sound: --prompt "heavy rain with distant thunder"')
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        readable = prompt.encode("utf-8", "replace").decode("utf-8")
        raise UserError(f"the prompt {readable!r} holds what is no character: half an emoji, or bytes not in UTF-8")


def weighted_blend(weights: Mapping[str, float]) -> Text:
    """Blend several prompts by weights of at least 0, of which only the ratios matter; one alone is the prompt itself.

    Raises:
        UserError: a prompt is empty, a weight is negative, or none is above 0.
    """
    result: Text | None = None
    total = 0.0
    for prompt, weight in weights.items():
        check_prompt(prompt)
        if not 0 <= weight < float("inf"):
            raise UserError(f"weights of prompts must be finite numbers of at least 0, got {weight} for {prompt!r}")
        if weight:
            total += weight
            result = prompt if result is None else Blend(result, prompt, weight / total)
    if result is None:
        raise UserError(f"a blend needs a prompt with a weight above 0, got {dict(weights)}")
    return result


def blend_tokens(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """Interpolate two embedded texts (1, tokens, width), token by token, on the sphere; norms change linearly.

    The shorter text is brought to the length of the longer by repeating tokens: attention to a sequence in which every
    token is there twice is attention to the sequence. A weight of 0 or 1 gives one of the texts as it is.
    """
    if weight in (0, 1):
        return end if weight else start
    length = max(start.shape[1], end.shape[1])
    first, second = (
        tokens[:, (torch.arange(length, device=tokens.device) * tokens.shape[1]) // length] for tokens in (start, end)
    )
    norms = first.norm(dim=-1, keepdim=True), second.norm(dim=-1, keepdim=True)
    directions = first / norms[0].clamp(min=1e-8), second / norms[1].clamp(min=1e-8)
    cosine = (directions[0] * directions[1]).sum(dim=-1, keepdim=True).clamp(-1 + 1e-6, 1 - 1e-6)
    angle = cosine.acos()
    mixed = ((1 - weight) * angle).sin() * directions[0] + (weight * angle).sin() * directions[1]
    return mixed / angle.sin() * torch.lerp(norms[0], norms[1], weight)


def plain_text(text: Text) -> Any:
    """Return a text as strings, numbers and lists, for files."""
    if isinstance(text, str):
        return text
    if isinstance(text, Spoken):
        return {"description": text.description, "content": text.content}
    return [plain_text(text.start), plain_text(text.end), text.weight]


def text_from_plain(value: Any) -> Text:
    """Return the text that `plain_text` wrote."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return Spoken(**value)
    start, end, weight = value
    return Blend(text_from_plain(start), text_from_plain(end), float(weight))
