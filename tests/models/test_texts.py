"""Blends of prompts: the ends are the prompts alone, norms stay, weights count by their ratios."""

import pytest
import torch

from models.texts import Blend, blend_tokens, plain_text, text_from_plain, weighted_blend


def test_blended_tokens_keep_the_ends_and_the_norms():
    generator = torch.Generator().manual_seed(0)
    start, end = torch.randn(1, 4, 32, generator=generator), 3 * torch.randn(1, 6, 32, generator=generator)
    assert torch.equal(blend_tokens(start, end, 0.0), start)
    assert torch.equal(blend_tokens(start, end, 1.0), end)
    halfway = blend_tokens(start, end, 0.5)
    assert halfway.shape == end.shape
    norms = [tokens.norm(dim=-1) for tokens in (start[:, [0, 0, 1, 2, 2, 3]], halfway, end)]
    assert torch.allclose(norms[1], (norms[0] + norms[2]) / 2, rtol=1e-4)
    assert torch.allclose(blend_tokens(start, start, 0.3), start, atol=1e-3)


def test_weights_count_by_their_ratios():
    assert weighted_blend({"rain": 3.0}) == "rain"
    assert weighted_blend({"rain": 0.0, "wind": 0.2}) == "wind"
    assert weighted_blend({"rain": 6.0, "wind": 2.0}) == Blend("rain", "wind", 0.25)
    three = weighted_blend({"rain": 1.0, "wind": 1.0, "birds": 2.0})
    assert three == Blend(Blend("rain", "wind", 0.5), "birds", 0.5)
    for weights in ({}, {"rain": 0.0}, {"rain": -1.0}, {"rain": float("nan")}, {" ": 1.0}):
        with pytest.raises(ValueError, match=r"weight|prompt"):
            weighted_blend(weights)


def test_texts_as_plain_values():
    text = Blend(Blend("rain", "wind", 0.5), "birds", 0.25)
    assert text_from_plain(plain_text(text)) == text
    assert plain_text("rain") == "rain"
