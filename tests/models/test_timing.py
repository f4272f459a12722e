"""Timing tokens: interpolation, null entries, limits, and a start at which neighbouring seconds are alike."""

import math

import pytest
import torch
from torch.nn import functional as F

from models.timing import TimingConfig, TimingEmbedder

NAN = math.nan


@pytest.fixture
def embedder() -> TimingEmbedder:
    torch.manual_seed(0)
    return TimingEmbedder(TimingConfig(width=32))


def embed(embedder: TimingEmbedder, start: float, total: float) -> torch.Tensor:
    return embedder(torch.tensor([start]), torch.tensor([total]))[0]


def test_a_time_between_two_seconds_lies_between_their_rows(embedder: TimingEmbedder):
    low, high = embed(embedder, 3.0, 7.0), embed(embedder, 4.0, 8.0)
    torch.testing.assert_close(embed(embedder, 3.25, 7.25), 0.75 * low + 0.25 * high)
    assert not torch.equal(embed(embedder, 3.0, 8.0)[0], embed(embedder, 4.0, 8.0)[0])
    assert not torch.equal(embed(embedder, 3.0, 8.0)[1], embed(embedder, 3.0, 9.0)[1])


def test_paper_size():
    embedder = TimingEmbedder(TimingConfig())
    assert embedder(torch.zeros(2), torch.full((2,), 512.0)).shape == (2, 2, 768)
    assert embedder.seconds_start.weight.shape == (514, 768)  # 0 ... 512 and the null row


def test_each_value_has_its_own_null(embedder: TimingEmbedder):
    known, no_start, no_total = (embed(embedder, *pair) for pair in [(3.0, 8.0), (NAN, 8.0), (3.0, NAN)])
    torch.testing.assert_close(no_start[1], known[1])
    torch.testing.assert_close(no_total[0], known[0])
    torch.testing.assert_close(no_start[0], embedder.seconds_start.weight[-1])
    torch.testing.assert_close(no_total[1], embedder.seconds_total.weight[-1])


def test_a_batch_mixes_known_and_unknown(embedder: TimingEmbedder):
    batch = embedder(torch.tensor([1.0, NAN, 2.5]), torch.tensor([NAN, 9.0, 512.0]))
    rows = [embed(embedder, 1.0, NAN), embed(embedder, NAN, 9.0), embed(embedder, 2.5, 512.0)]
    torch.testing.assert_close(batch, torch.stack(rows))


@pytest.mark.parametrize(
    ("start", "total", "named"),
    [
        (-0.5, 8.0, "seconds_start must be 0 to 512 seconds, got -0.5"),
        (512.5, 8.0, "seconds_start must be 0 to 512 seconds, got 512.5"),
        (513.0, 8.0, "seconds_start must be 0 to 512 seconds, got 513"),
        (0.0, 512.5, "seconds_total must be 0 to 512 seconds, got 512.5"),
        (0.0, math.inf, "seconds_total must be 0 to 512 seconds, got inf"),
    ],
)
def test_seconds_outside_the_table_are_named(embedder: TimingEmbedder, start: float, total: float, named: str):
    with pytest.raises(ValueError, match=named):
        embed(embedder, start, total)


def test_neighbouring_seconds_start_alike(embedder: TimingEmbedder):
    table = embedder.seconds_total.weight[:-1].detach()
    near = F.cosine_similarity(table[10:60], table[11:61]).mean()
    far = F.cosine_similarity(table[10:60], table[40:90]).mean()
    assert near > 0.8
    assert near > far + 0.2
    assert 0.5 < table.square().mean() < 2.0


def test_rows_are_learned(embedder: TimingEmbedder):
    embed(embedder, 3.0, NAN).sum().backward()
    gradient = embedder.seconds_start.weight.grad
    assert gradient is not None
    assert gradient.abs().sum(dim=1).nonzero()[:, 0].tolist() == [3]
