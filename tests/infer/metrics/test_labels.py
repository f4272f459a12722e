"""Label metrics on distributions whose values are known."""

import math

import pytest
import torch

from infer.metrics.labels import clap_scores, inception_score, label_divergence


def test_divergence_in_both_directions_by_hand():
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.1]])
    expected_pq = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    expected_qp = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    forward = label_divergence(p.log(), q.log(), "generated || reference")
    backward = label_divergence(p.log(), q.log(), "reference || generated")
    assert forward.item() == pytest.approx(expected_pq, rel=1e-4)
    assert backward.item() == pytest.approx(expected_qp, rel=1e-4)
    assert forward.item() != pytest.approx(backward.item(), rel=0.1)
    assert label_divergence(q.log() + 7, q.log(), "generated || reference").item() == pytest.approx(0, abs=1e-5)


def test_divergence_against_torch():
    generated, reference = torch.randn(4, 9), torch.randn(4, 9)
    expected = torch.nn.functional.kl_div(
        reference.log_softmax(-1), generated.log_softmax(-1), reduction="none", log_target=True
    ).sum(-1)
    actual = label_divergence(generated, reference, "generated || reference").float()
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="one shape"):
        label_divergence(generated, reference[:2], "generated || reference")


def test_inception_score_at_its_ends():
    sure = 50 * torch.eye(6).repeat(4, 1)
    assert inception_score(sure) == pytest.approx(6, rel=1e-6)
    assert inception_score(torch.zeros(10, 6)) == pytest.approx(1)
    assert inception_score(sure[:1].expand(8, -1)) == pytest.approx(1)
    assert 1 < inception_score(torch.randn(40, 6, generator=torch.Generator().manual_seed(0))) < 6


def test_clap_score_is_a_cosine():
    audio = torch.tensor([[2.0, 0], [0, 3.0], [1.0, 1.0]])
    text = torch.tensor([[1.0, 0], [1.0, 0], [1.0, 0]])
    torch.testing.assert_close(clap_scores(audio, text), torch.tensor([1.0, 0.0, 0.5**0.5]).double())
    with pytest.raises(ValueError, match="text for each clip"):
        clap_scores(audio, text[:1])
