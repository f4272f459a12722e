import math

import torch

from infer.hosts.durator import Durator, own_names
from tests.infer.hosts.tiny_pipelines import PUBLISHED_DURATOR


def make_durator(frames_per_character: float | None = None) -> Durator:
    torch.manual_seed(0)
    durator = Durator(width=16).eval()
    if frames_per_character is not None:
        state = durator.state_dict()
        state["durations.proj.weight"].zero_()
        state["durations.proj.bias"].fill_(math.log(frames_per_character))
    return durator


def test_published_names_are_ours_key_for_key():
    assert sorted(own_names(dict.fromkeys(PUBLISHED_DURATOR, torch.zeros(())))) == sorted(make_durator().state_dict())


def test_published_sizes():
    with torch.device("meta"):
        durator = Durator()
    assert durator.attention[0].weight.shape == (4, 10)
    assert durator.from_context.weight.shape == (768, 8)


@torch.no_grad()
def test_a_text_is_as_long_as_its_durations():
    hidden, mask = torch.randn(1, 5, 16), torch.ones(1, 5, dtype=torch.bool)
    assert make_durator(3.0)(hidden, mask).shape == (1, 15, 16)
    assert make_durator(0.2)(hidden, mask).shape == (1, 5, 16), "at least a frame a character"
    assert make_durator(100.0)(hidden, mask).shape == (1, round(5 * 2.718281828**3.5), 16), "bounded"


@torch.no_grad()
def test_no_text_is_longer_than_the_bound():
    assert make_durator(30.0)(torch.randn(1, 50, 16), torch.ones(1, 50, dtype=torch.bool)).shape[1] == 1_000


@torch.no_grad()
def test_rows_of_a_batch_end_with_the_bias_and_padding_is_not_heard():
    durator = make_durator(2.0)
    hidden, mask = torch.randn(2, 6, 16), torch.ones(2, 6, dtype=torch.bool)
    mask[1, 3:] = False
    both = durator(hidden, mask)
    assert both.shape[1] == 12
    torch.testing.assert_close(both[1, 6:], durator.output.bias.expand(6, -1))
    other = hidden.clone()
    other[1, 5] += 1.0  # padding beyond the reach of a kernel of three
    torch.testing.assert_close(durator(other, mask)[1], both[1])


@torch.no_grad()
def test_weights_are_those_of_the_published_formula():
    """The attention of one head, written out for one frame."""
    durator = make_durator(2.0)
    hidden, mask = torch.randn(1, 4, 16), torch.ones(1, 4, dtype=torch.bool)
    t = 3.0  # the third frame counts from 1
    start = torch.tensor([0.0, 2.0, 4.0, 6.0])
    place = torch.stack((t - start, start + 2 - t), dim=-1)
    weights = durator.attention(torch.cat((place, durator.attention_features(hidden)[0]), dim=-1)).softmax(dim=0)
    context = durator.context(torch.cat((place, durator.context_features(hidden)[0]), dim=-1))
    expected = durator.from_hidden((weights.T @ hidden[0]).flatten()) + durator.from_context(
        (weights.T @ context).flatten()
    )
    expected = durator.output(durator.layer_norm(expected))
    torch.testing.assert_close(durator(hidden, mask)[0, 2], expected, atol=1e-5, rtol=1e-5)
