import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer

from models.clap import Clap, ClapConfig
from models.clap_audio import ClapAudioConfig, ClapAudioTower, LogMel, repeat_pad
from models.clap_text import ClapTextConfig, ClapTextTower, text_config_from_huggingface, text_state_from_huggingface
from models.text_encoder import TextEncoder
from models.tokenizer import save_tokenizer, train_tokenizer

TEXT = ClapTextConfig(vocab_size=300, width=16, num_layers=3, num_heads=2, feed_forward_width=24, num_positions=40)
AUDIO = ClapAudioConfig(
    sample_rate=8000,
    channels=2,
    clip_samples=8192,
    fft_size=512,
    hop_length=256,
    num_mels=32,
    max_hz=4000,
    spec_size=64,
    window_size=4,
    embed_width=8,
    depths=(1, 1),
    num_heads=(1, 2),
)
CONFIG = ClapConfig(text=TEXT, audio=AUDIO, max_tokens=20, embedding_width=12)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["a siren on the left", "rain at 120 bpm"] * 4, vocab_size=300)


@pytest.fixture
def clap(tokenizer: Tokenizer) -> Clap:
    torch.manual_seed(0)
    return Clap(CONFIG, tokenizer).eval()


def random_text_model(seed: int) -> tuple[transformers.ClapTextModel, ClapTextTower]:
    generator = torch.Generator().manual_seed(seed)
    draw = [int(x) for x in torch.randint(1, 5, (4,), generator=generator)]
    config = transformers.ClapTextConfig(
        vocab_size=60,
        hidden_size=draw[0] * 8,
        num_attention_heads=draw[0],
        num_hidden_layers=1 + draw[1],
        intermediate_size=16 * draw[2],
        max_position_embeddings=40,
        hidden_act=("gelu", "relu", "gelu_new", "silu")[draw[3] - 1],
    )
    torch.manual_seed(seed)
    reference = transformers.ClapTextModel(config).eval()
    for parameter in reference.parameters():  # biases and norms are trivial at the start
        parameter.data += 0.05 * torch.randn_like(parameter)
    ours = ClapTextTower(text_config_from_huggingface(config.to_dict())).eval()
    ours.load_state_dict(text_state_from_huggingface(reference.state_dict()))
    return reference, ours


@pytest.mark.parity
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("padding", ["right", "left", "holes"])
@torch.no_grad()
def test_text_tower_agrees_with_transformers(seed: int, padding: str) -> None:
    reference, ours = random_text_model(seed)
    num_tokens = int(torch.randint(1, 38, ()))
    token_ids = torch.randint(2, 60, (3, num_tokens))
    keep = torch.arange(num_tokens) < torch.randint(1, num_tokens + 1, (3, 1))
    mask = {"right": keep, "left": keep.flip(1), "holes": torch.rand(3, num_tokens) > 0.4}[padding]
    mask[0] = True
    mask[:, num_tokens // 2] = True
    if padding != "holes":
        token_ids[~mask] = 1
    expected = reference(token_ids, attention_mask=mask.long(), output_hidden_states=True)
    hidden_states = ours(token_ids, mask)
    assert len(hidden_states) == len(expected.hidden_states)
    for state, expected_state in zip(hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(state, expected_state, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.pool(hidden_states[-1]), expected.pooler_output, atol=1e-5, rtol=0)


def test_masked_tokens_have_no_influence() -> None:
    tower = ClapTextTower(TEXT).eval()
    token_ids = torch.randint(2, 300, (2, 9))
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, 5:] = mask[1, 3] = False
    changed = torch.where(mask, token_ids, torch.randint(2, 300, (2, 9)))
    for state, other in zip(tower(token_ids, mask), tower(changed, mask), strict=True):
        torch.testing.assert_close(state[mask], other[mask], atol=0, rtol=0)
    embedding = tower.tokens(token_ids).detach().requires_grad_()
    tower.tokens.register_forward_hook(lambda *_: embedding)
    tower(token_ids, mask)[-1][mask].square().sum().backward()
    assert embedding.grad is not None
    assert (embedding.grad[~mask] == 0).all()
    assert (embedding.grad[mask] != 0).any()


def test_too_many_tokens_are_refused() -> None:
    ids = torch.full((1, 39), 5)
    with pytest.raises(ValueError, match="got 39 tokens, the text tower holds 38"):
        ClapTextTower(TEXT)(ids, ids > 0)


@pytest.mark.parity
def test_log_mel_agrees_with_transformers() -> None:
    config = ClapAudioConfig()
    extractor = transformers.ClapFeatureExtractor(frequency_min=50, frequency_max=14_000, truncation="rand_trunc")
    audio = 0.1 * np.random.default_rng(0).standard_normal(130_000).astype(np.float32)
    expected = extractor(audio, sampling_rate=48_000, return_tensors="pt")["input_features"]
    padded = repeat_pad(torch.from_numpy(audio)[None, None], torch.tensor([len(audio)]), config.clip_samples)
    torch.testing.assert_close(LogMel(config)(padded), expected, atol=1e-3, rtol=0)


@pytest.mark.parity
@torch.no_grad()
def test_pretrained_folder_agrees_with_transformers(tmp_path, tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    audio_config = transformers.ClapAudioConfig(
        num_mel_bins=32,
        spec_size=64,
        window_size=4,
        patch_embeds_hidden_size=8,
        hidden_size=16,
        depths=[1, 1],
        num_attention_heads=[1, 2],
        num_hidden_layers=2,
    )
    text_config = transformers.ClapTextConfig(
        vocab_size=300, hidden_size=16, num_attention_heads=2, num_hidden_layers=2, intermediate_size=32
    )
    config = transformers.ClapConfig(
        text_config=text_config.to_dict(), audio_config=audio_config.to_dict(), projection_dim=12
    )
    reference = transformers.ClapModel(config).eval()
    reference.save_pretrained(tmp_path)
    save_tokenizer(tokenizer, tmp_path, 77)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"sampling_rate": 8000, "max_length_s": 1, "hop_length": 100, "frequency_max": 4000, "fft_window_size": 512}'
    )
    clap = Clap.load(tmp_path)
    audio = torch.randn(2, 1, 8000) * 0.1
    expected_audio: Any = reference.get_audio_features(clap.head.audio.log_mel(audio))
    torch.testing.assert_close(clap.embed_audio(audio), expected_audio.pooler_output, atol=1e-5, rtol=0)
    ids = torch.tensor([tokenizer.encode("rain on the left").ids])
    expected_text: Any = reference.get_text_features(ids, torch.ones_like(ids))
    torch.testing.assert_close(clap.embed_text(["rain on the left"]), expected_text.pooler_output, atol=1e-5, rtol=0)


def test_repeat_pad_repeats_whole_and_ends_in_silence() -> None:
    audio = torch.tensor([[[1.0, 2, 3, 9, 9]], [[1, 2, 3, 4, 5]]])
    padded = repeat_pad(audio, torch.tensor([3, 5]), 8)
    assert padded.tolist() == [[[1, 2, 3, 1, 2, 3, 0, 0]], [[1, 2, 3, 4, 5, 0, 0, 0]]]


@torch.no_grad()
def test_audio_embedding_ignores_padding_and_averages_clips(clap: Clap) -> None:
    audio = torch.randn(1, 2, 20_000) * 0.1
    length = AUDIO.clip_samples
    whole = clap.embed_audio(audio)
    parts = [clap.embed_audio(audio[..., i * length : (i + 1) * length]) for i in range(3)]
    weights = (1.0, 1.0, (20_000 - 2 * length) / length)
    mean = sum(weight * part for weight, part in zip(weights, parts, strict=True))
    torch.testing.assert_close(whole, torch.nn.functional.normalize(torch.as_tensor(mean), dim=-1))
    padded = torch.cat((torch.nn.functional.pad(audio, (0, 9_000)), torch.randn(1, 2, 29_000)))
    torch.testing.assert_close(clap.embed_audio(padded, torch.tensor([20_000, 29_000]))[:1], whole)


@torch.no_grad()
def test_two_channels_tell_left_from_right_and_one_does_not(clap: Clap) -> None:
    left = torch.zeros(1, 2, 8192)
    left[:, 0] = torch.randn(8192) * 0.1
    assert (clap.embed_audio(left) - clap.embed_audio(left.flip(1))).abs().max() > 1e-3
    mono = ClapAudioTower(dataclasses.replace(AUDIO, channels=1)).eval()
    samples = torch.tensor([8192])
    torch.testing.assert_close(mono(left, samples), mono(left.flip(1), samples))


@torch.no_grad()
def test_save_and_load_give_the_same_embeddings(clap: Clap, tmp_path) -> None:
    clap.save(tmp_path)
    loaded = Clap.load(tmp_path)
    audio = torch.randn(2, 2, 8192) * 0.1
    assert loaded.config == CONFIG
    torch.testing.assert_close(loaded.embed_audio(audio), clap.embed_audio(audio), atol=2e-3, rtol=0)
    prompts = ["a siren", "rain on the left"]
    torch.testing.assert_close(loaded.embed_text(prompts), clap.embed_text(prompts), atol=2e-3, rtol=0)
    state = torch.random.get_rng_state()
    clap.save(tmp_path)
    assert torch.equal(state, torch.random.get_rng_state())


@torch.no_grad()
def test_the_diffusion_model_gets_the_configured_layer(tokenizer: Tokenizer, tmp_path) -> None:
    clap = Clap(dataclasses.replace(CONFIG, text_layer=0), tokenizer).eval()
    clap.save(tmp_path)
    embeddings, mask = TextEncoder.load(tmp_path).encode(["a siren"])
    hidden_states = clap.text(torch.tensor([tokenizer.encode("a siren").ids]), mask)
    torch.testing.assert_close(embeddings, hidden_states[0], atol=1.5e-3, rtol=0)
    assert not torch.allclose(hidden_states[0], hidden_states[-2], atol=3e-3)
    with pytest.raises(ValueError, match="text_layer must be within"):
        dataclasses.replace(CONFIG, text_layer=CONFIG.text.num_layers + 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_mels": 30}, "num_mels must divide spec_size 64, got 30"),
        ({"clip_samples": 80_000}, "at most 128 fit into spec_size"),
        ({"depths": (1, 1, 1)}, "equally long"),
        ({"window_size": 16}, "too small"),
        ({"channels": 6}, "channels must be 1 or 2, got 6"),
    ],
)
def test_impossible_audio_configurations_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(AUDIO, **changes)
