"""Metrics on the class probabilities of a tagging network, and on embeddings shared with text.

logits (clips, classes) before softmax; row i of the generated and of the reference set belong to the same prompt.

Sources: Kreuk et al. 2022 and Evans et al. 2024 (KL of PaSST); Liu et al. 2023 (AudioLDM: KL of PANNs, the other way
round); Salimans et al. 2016, section 4 (inception score); Wu et al. 2022 (CLAP).
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Direction = Literal["generated || reference", "reference || generated"]

PROBABILITY_FLOOR = 1e-6  # added to the second distribution, as published


def label_divergence(generated: Tensor, reference: Tensor, direction: Direction) -> Tensor:
    """KL divergence between the labels (softmax) of each pair, in nats: (clips,).

    Published numbers run in both directions: "generated || reference" is Stable Audio's, "reference || generated"
    AudioLDM's.
    """
    if generated.shape != reference.shape:
        raise ValueError(f"both sets must have one shape, got {tuple(generated.shape)} and {tuple(reference.shape)}")
    p, q = generated.double().softmax(dim=-1), reference.double().softmax(dim=-1)
    if direction == "reference || generated":
        p, q = q, p
    return (torch.special.xlogy(p, p) - p * (q + PROBABILITY_FLOOR).log()).sum(dim=-1)


def inception_score(logits: Tensor) -> float:
    """exp(mean KL(labels of a clip || labels of all)).

    Between 1 (all clips alike, or none with a clear label) and the number of classes.
    """
    labels = logits.double().log_softmax(dim=-1)
    marginal = labels.logsumexp(dim=0) - math.log(len(labels))
    return float((labels.exp() * (labels - marginal)).sum(dim=-1).mean().exp())


def clap_scores(audio: Tensor, text: Tensor) -> Tensor:
    """Cosine between the embedding of each clip and that of its prompt: (clips,)."""
    if audio.shape != text.shape:
        raise ValueError(f"there must be a text for each clip, got {tuple(audio.shape)} and {tuple(text.shape)}")
    return F.cosine_similarity(audio.double(), text.double(), dim=-1)
