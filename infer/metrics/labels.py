"""Metrics on the class probabilities of a tagging network, and on embeddings shared with text.

logits (clips, classes) before softmax; row i of the generated and of the reference set belong to the same prompt.

Sources: Kreuk et al. 2022 and Evans et al. 2024 (KL of PaSST); Liu et al. 2023 (AudioLDM: KL of PANNs, the other way
round); Salimans et al. 2016, section 4 (inception score); Wu et al. 2022 (CLAP).
"""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Direction = Literal["generated || reference", "reference || generated"]
Activation = Literal["softmax", "sigmoid"]

PROBABILITY_FLOOR = 1e-6  # added to the second distribution, as published


def label_divergence(
    generated: Tensor, reference: Tensor, direction: Direction, activation: Activation = "softmax"
) -> Tensor:
    """KL divergence between the labels of each pair, in nats: (clips,).

    Published numbers run in both directions: "generated || reference" is Stable Audio's, "reference || generated"
    AudioLDM's.

    Args:
        activation: softmax, one label a clip; or sigmoid, a sum over classes that are there or not (AudioLDM's code
            reports both, the second without the terms of absent classes).
    """
    if generated.shape != reference.shape:
        raise ValueError(f"both sets must have one shape, got {tuple(generated.shape)} and {tuple(reference.shape)}")
    act = torch.sigmoid if activation == "sigmoid" else (lambda logits: logits.softmax(dim=-1))
    p, q = act(generated.double()), act(reference.double())
    if direction == "reference || generated":
        p, q = q, p
    return (torch.special.xlogy(p, p) - p * (q + PROBABILITY_FLOOR).log()).sum(dim=-1)


def inception_score(logits: Tensor, num_splits: int = 1, seed: int = 0) -> tuple[float, float]:
    """Mean and standard deviation over random splits of exp(mean KL(labels of a clip || labels of all)).

    Between 1 (all clips alike, or none with a clear label) and the number of classes.
    """
    if not 1 <= num_splits <= len(logits):
        raise ValueError(f"num_splits must lie between 1 and the {len(logits)} clips, got {num_splits}")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(logits)))
    scores = []
    for part in logits[order].double().log_softmax(dim=-1).tensor_split(num_splits):
        marginal = part.logsumexp(dim=0) - np.log(len(part))
        scores.append((part.exp() * (part - marginal)).sum(dim=-1).mean().exp())
    values = torch.stack(scores)
    return float(values.mean()), float(values.std(correction=0))


def clap_scores(audio: Tensor, text: Tensor) -> Tensor:
    """Cosine between the embedding of each clip and that of its prompt: (clips,)."""
    if audio.shape != text.shape:
        raise ValueError(f"there must be a text for each clip, got {tuple(audio.shape)} and {tuple(text.shape)}")
    return F.cosine_similarity(audio.double(), text.double(), dim=-1)
