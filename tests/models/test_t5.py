import pytest
import torch
import transformers

from models.t5 import (
    T5Encoder,
    T5EncoderConfig,
    relative_position_buckets,
    t5_config_from_huggingface,
    t5_state_from_huggingface,
)


@pytest.mark.parity
@pytest.mark.parametrize("seed", range(9))
@torch.no_grad()
def test_encoder_agrees_with_transformers(seed: int) -> None:
    torch.manual_seed(seed)
    draw = [int(x) for x in torch.randint(1, 5, (5,))]
    config = transformers.T5Config(
        vocab_size=60,
        d_model=7 * draw[0],
        d_kv=3 * draw[1],
        d_ff=16 * draw[2],
        num_layers=draw[3],
        num_heads=draw[4],
        relative_attention_num_buckets=8 * draw[0],
        relative_attention_max_distance=20 * draw[1],
        feed_forward_proj=("relu", "gated-gelu", "gated-silu")[seed % 3],
    )
    reference = transformers.T5EncoderModel(config).eval()
    for parameter in reference.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    ours = T5Encoder(t5_config_from_huggingface(config.to_dict())).eval()
    ours.load_state_dict(t5_state_from_huggingface(reference.state_dict()))
    num_tokens = int(torch.randint(1, 150, ()))
    token_ids = torch.randint(1, 60, (3, num_tokens))
    mask = torch.rand(3, num_tokens) > 0.3
    mask[0] = True
    mask[:, num_tokens // 2] = True
    expected = reference(token_ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states
    hidden_states = ours(token_ids, mask)
    assert len(hidden_states) == len(expected)
    for state, expected_state in zip(hidden_states, expected, strict=True):
        torch.testing.assert_close(state, expected_state, atol=1e-5, rtol=1e-6)


def test_masked_tokens_have_no_influence() -> None:
    config = T5EncoderConfig(
        vocab_size=40, width=12, num_layers=2, num_heads=3, head_width=4, feed_forward_width=20, gated=True
    )
    encoder = T5Encoder(config).eval()
    token_ids = torch.randint(1, 40, (2, 8))
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[0, 6:] = mask[1, 0] = False
    changed = torch.where(mask, token_ids, torch.randint(1, 40, (2, 8)))
    for state, other in zip(encoder(token_ids, mask), encoder(changed, mask), strict=True):
        torch.testing.assert_close(state[mask], other[mask], atol=0, rtol=0)


def test_position_buckets_by_hand() -> None:
    buckets = relative_position_buckets(40, num_buckets=8, max_distance=16, device=torch.device("cpu"))
    # Two exact steps a side, then 2 <= distance < sqrt(2 * 16), then the rest; keys after the query from 4 on.
    assert buckets[20, [20, 19, 18, 15, 14, 0]].tolist() == [0, 1, 2, 2, 3, 3]
    assert buckets[20, [21, 22, 25, 26, 39]].tolist() == [5, 6, 6, 7, 7]
