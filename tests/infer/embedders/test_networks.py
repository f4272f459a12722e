"""Every architecture with random weights: shapes, published parameter names, what it must and must not depend on."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
import torchaudio
from torch import Tensor, nn

from infer.embedders import EMBEDDERS, Embedder, load_embedder
from infer.embedders.clap import LaionClap
from infer.embedders.load import FETCH, read_weights
from infer.embedders.openl3 import PREPROCESSING as OPENL3_PREPROCESSING
from infer.embedders.openl3 import OpenL3
from infer.embedders.panns import Cnn14
from infer.embedders.passt import Attention, Passt, PasstConfig
from infer.embedders.vggish import Vggish, mel_bank
from models.tokenizer import train_tokenizer

Network = TypeVar("Network", bound=nn.Module)


def noise(*shape: int) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def fill(module: Network) -> Network:
    """Parameters that start at zero get values, so that they matter."""
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("network", "expected"),
    [(Cnn14, 80_753_615), (Vggish, 72_141_184), (lambda: Passt(PasstConfig()), 86_153_758)],
    ids=["panns", "vggish", "passt"],
)
def test_published_sizes(network: Callable[[], nn.Module], expected: int):
    """Parameters of PANNs' table and of the published files of VGGish and PaSST (86 M)."""
    assert sum(parameter.numel() for parameter in network().parameters()) == expected


def test_passt():
    config = PasstConfig(width=16, depth=2, num_heads=2, num_classes=7)
    net = fill(Passt(config))
    assert {"cls_token", "dist_token", "new_pos_embed", "freq_new_pos_embed", "time_new_pos_embed"} < set(
        net.state_dict()
    )
    assert {"blocks.1.attn.qkv.weight", "blocks.0.mlp.fc1.bias", "patch_embed.proj.weight", "head.1.bias"} < set(
        net.state_dict()
    )
    assert net.state_dict()["time_new_pos_embed"].shape == (1, 16, 1, 99)
    assert net.state_dict()["freq_new_pos_embed"].shape == (1, 16, 12, 1)
    audio = noise(2, 1, 320_000)
    result = net(audio)
    assert result.vectors.shape == (2, 16)
    assert result.logits.shape == (2, 7)
    assert not torch.allclose(result.vectors, net(audio.flip(-1)).vectors)
    torch.testing.assert_close(net(audio[:1]).logits, result.logits[:1], rtol=1e-3, atol=1e-4)


def test_passt_attention_is_torchs():
    ours, theirs = Attention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.proj.weight,
            "out_proj.bias": ours.proj.bias,
        }
    )
    x = noise(2, 5, 12)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0])


def test_openl3():
    net = fill(OpenL3(width=2))
    embedder = Embedder("openl3", OPENL3_PREPROCESSING, net, batch_size=4)
    audio = noise(2, 66_150)
    result = embedder(audio)
    assert result.vectors.shape == (3, 2 * 16)
    swapped = embedder(audio.flip(0)).vectors
    torch.testing.assert_close(swapped, result.vectors.roll(16, dims=1))
    torch.testing.assert_close(
        embedder(0.125 * audio).vectors, result.vectors
    )  # peak is set; a power of 2 scales exactly
    assert net.spectrogram(noise(1, 48_000)).shape == (1, 1, 256, 199)
    assert {"batch_normalization_8.running_var", "conv2d_7.weight", "audio_embedding_layer.bias"} < set(
        net.state_dict()
    )


def test_openl3_spectrogram_of_a_tone():
    net = OpenL3(width=1)
    tone = torch.sin(2 * math.pi * 3000 * torch.arange(48_000) / 48_000)[None]
    level_db = net.spectrogram(tone)[0, 0]
    slaney = {hz: 15 + 27 * math.log(hz / 1000) / math.log(6.4) for hz in (3000, 24_000)}
    assert float(level_db[:, 100].argmax()) == pytest.approx(slaney[3000] / slaney[24_000] * 257 - 1, abs=1)
    assert float(level_db.max()) == 0
    short = torch.cat((tone[:, :4000], torch.zeros(1, 44_000)), dim=1)
    assert float(net.spectrogram(short)[0, 0, :, 20:].max()) == -80  # 80 dB under the loudest at most


@pytest.mark.parity
def test_openl3_spectrogram_agrees_with_torchaudio():
    """Mel of the magnitude, as kapre has it since 0.3, with zeros after the end alone."""
    reference = torchaudio.transforms.MelSpectrogram(
        48_000, 2048, hop_length=242, n_mels=256, power=1.0, center=False, norm="slaney", mel_scale="slaney"
    )
    audio = noise(1, 48_000)
    amplitude = reference(torch.nn.functional.pad(audio, (0, 2048)))[..., :199].clamp_min(1e-10)
    expected = (10 * (amplitude / amplitude.amax()).log10()).clamp_min(-80)
    torch.testing.assert_close(OpenL3(width=1).spectrogram(audio)[:, 0], expected, rtol=1e-3, atol=1e-2)


def test_panns():
    net = fill(Cnn14(width=2, num_classes=7))
    clips = noise(2, 1, 32_000)
    result = net(clips)
    assert result.vectors.shape == (2, 64)
    assert result.logits.shape == (2, 7)
    assert float(result.vectors.min()) >= 0
    assert {"bn0.weight", "conv_block6.bn2.running_mean", "conv_block1.conv2.weight", "fc_audioset.bias"} < set(
        net.state_dict()
    )
    torch.testing.assert_close(net(clips[1:]).logits, result.logits[1:], rtol=1e-3, atol=1e-4)


@pytest.mark.parity
def test_panns_spectrogram_agrees_with_torchaudio():
    reference = torchaudio.transforms.MelSpectrogram(
        16_000, 512, hop_length=160, f_min=50.0, f_max=8000.0, n_mels=64, norm="slaney", mel_scale="slaney"
    )
    audio = noise(1, 16_000)
    expected = 10 * reference(audio).clamp_min(1e-10).log10()
    torch.testing.assert_close(Cnn14(width=1).spectrogram(audio), expected, rtol=1e-4, atol=1e-3)


def test_vggish():
    net = fill(Vggish(width=2, hidden=8, out=5))
    result = net(noise(3, 1, 15_600))
    assert result.vectors.shape == (3, 5)
    assert net.spectrogram(noise(1, 15_600)).shape == (1, 96, 64)
    bank = mel_bank()
    assert bank.shape == (257, 64)
    assert not bank[:4].any()  # below 125 Hz
    assert float(bank.max()) <= 1
    assert (bank[8:200].sum(dim=1) - 1).abs().max() < 1e-5  # the triangles of neighbours add up to one
    names = set(net.state_dict())
    assert {"features.0.weight", "features.13.bias", "embeddings.4.weight"} < names


def make_laion(folder: Path) -> None:
    """A tiny CLAP with fusion, saved as `transformers` saves it."""
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, PreTrainedTokenizerFast

    tokenizer = train_tokenizer(["heavy rain", "a clock ticks"], vocab_size=300)
    audio = {
        "spec_size": 256,
        "num_mel_bins": 64,
        "patch_size": 8,
        "patch_stride": [8, 8],
        "patch_embeds_hidden_size": 8,
        "depths": [1, 1],
        "num_attention_heads": [1, 2],
        "hidden_size": 16,
        "window_size": 4,
        "enable_fusion": True,
        "enable_patch_fusion": True,
        "fusion_type": "aff_2d",
        "num_hidden_layers": 2,
        "projection_dim": 8,
    }
    text = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 82,
        "projection_dim": 8,
    }
    torch.manual_seed(0)
    ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=8)).save_pretrained(folder)
    ClapFeatureExtractor(
        feature_size=64, sampling_rate=48_000, hop_length=480, max_length_s=2, fft_window_size=1024, truncation="fusion"
    ).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def test_laion_clap_from_a_folder(tmp_path: Path):
    make_laion(tmp_path)
    embedder = load_embedder("laion-clap", str(tmp_path), device="cpu")
    for seconds in (1, 5):  # repeated, and fused from excerpts
        audio = noise(2, seconds * 44_100)
        vectors = embedder(audio).vectors
        assert vectors.shape == (1, 8)
        assert float(vectors.norm()) == pytest.approx(1, abs=1e-5)
        torch.testing.assert_close(embedder(audio).vectors, vectors)  # the same excerpts every time
    text = embedder.embed_text(["heavy rain", "a clock"])
    assert text.shape == (2, 8)
    assert not torch.allclose(text[0], text[1])
    assert "model.safetensors" in embedder.weights
    assert isinstance(embedder.network, LaionClap)


@pytest.mark.parametrize("name", sorted(FETCH))
def test_missing_weights_say_what_to_fetch(name: str, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="fetch"):
        load_embedder(name, str(tmp_path / "nothing.pt"))


def test_wrong_weights_and_names(tmp_path: Path):
    path = tmp_path / "weights.pt"
    torch.save({"model": {"bn0.weight": torch.ones(64)}}, path)
    assert list(read_weights(path)) == ["bn0.weight"]
    with pytest.raises(ValueError, match="do not fit"):
        load_embedder("vggish", str(path))
    path.write_text(json.dumps({}))
    with pytest.raises(ValueError, match=r"weights.pt is not a valid pt file"):
        load_embedder("vggish", str(path))
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="holds a list, expected a dictionary of tensors"):
        load_embedder("vggish", str(path))
    with pytest.raises(ValueError, match="expected one of aisfx, clap"):
        load_embedder("other")
    assert set(FETCH) < set(EMBEDDERS)


def test_the_models_text_tower_is_no_clap(tiny_folder: Path):
    with pytest.raises(FileNotFoundError, match=r"train\.clap exported"):
        load_embedder("clap", str(tiny_folder))


@pytest.mark.parametrize(
    "name", ["spectrogram_extractor.stft.conv_real.weight", "speclayer.mel_basis", "logmel_extractor.melW"]
)
def test_front_ends_in_published_files_are_left_out(tmp_path: Path, name: str):
    net = Cnn14(width=1, num_classes=3)
    torch.save({"model": dict(net.state_dict()) | {name: torch.zeros(1)}}, tmp_path / "cnn.pth")
    loaded = read_weights(tmp_path / "cnn.pth")
    assert set(loaded) == set(net.state_dict())


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_arrays_beside_the_weights_are_no_hindrance(tmp_path: Path, module: bytes):
    """PANNs' file holds the state of its sampler, int64 arrays that numpy 1 pickled."""
    path = tmp_path / "cnn.pth"
    sampler = {"indexes": np.arange(3), "pointer": 1}
    torch.save(
        {"iteration": 1, "model": {"bn0.weight": torch.ones(64)}, "sampler": sampler},
        path,
        _use_new_zipfile_serialization=False,
    )
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", module))
    assert list(read_weights(path)) == ["bn0.weight"]
