import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer

from models.clap_text import ClapTextConfig
from models.t5 import T5EncoderConfig
from models.text_encoder import TextEncoder, TextEncoderConfig
from models.tokenizer import save_tokenizer, train_tokenizer

CAPTIONS = [
    f"{sound} at {tempo} bpm on the {side}, note {note}"
    for sound in ("drum loop", "siren")
    for tempo in (60, 120)
    for side in ("left", "right")
    for note in ("a4", "f#3")
]
CLAP = ClapTextConfig(vocab_size=400, width=16, num_layers=3, num_heads=2, feed_forward_width=24, num_positions=30)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(CAPTIONS, vocab_size=400)


@pytest.fixture
def encoder(tokenizer: Tokenizer) -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(TextEncoderConfig(max_tokens=20, cache_size=3, clap=CLAP), tokenizer)


def test_tokenizer_keeps_terms_whole_and_loses_nothing(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("  Siren at 120 BPM, note F#3 and A4 ").tokens
    for term in ("siren", "120", "bpm", "f#3", "a4"):
        assert f"Ġ{term}" in tokens
    assert tokens[0] == "<s>"
    assert tokens[-1] == "</s>"
    strange = "zürich 音 🎵 97.5 hz!"
    assert tokenizer.decode(tokenizer.encode(strange).ids) == " " + strange
    assert train_tokenizer(CAPTIONS, vocab_size=400).to_str() == tokenizer.to_str()


def test_tokenizer_folder_is_read_by_transformers(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path, 20)
    wrapped = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = wrapped(["a siren", "a"], padding=True)["input_ids"]
    assert ids[0] == tokenizer.encode("a siren").ids
    assert ids[1][-1] == wrapped.pad_token_id == 1


def test_embeddings_do_not_depend_on_the_batch(encoder: TextEncoder) -> None:
    prompts = ["a siren on the left", "drum", "a siren on the left"]
    embeddings, mask = encoder.encode(prompts)
    lengths = mask.sum(dim=1)
    assert embeddings.shape == (3, max(lengths), encoder.width)
    assert (embeddings[~mask] == 0).all()
    assert torch.equal(embeddings[0], embeddings[2])
    encoder._cache.clear()
    alone, alone_mask = encoder.encode(["drum"])
    assert alone_mask.all()
    torch.testing.assert_close(alone[0], embeddings[1, : lengths[1]], atol=1e-5, rtol=0)


def test_next_to_last_layer_is_used(encoder: TextEncoder) -> None:
    embeddings, mask = encoder.encode(["siren"])
    token_ids = torch.tensor([encoder.tokenizer.encode("siren").ids])
    hidden_states = encoder.tower(token_ids, mask)
    torch.testing.assert_close(embeddings, hidden_states[-2])
    assert not torch.allclose(embeddings, hidden_states[-1])


def test_cache_is_bounded_used_and_cleared(encoder: TextEncoder) -> None:
    calls = []
    encoder.tower.register_forward_hook(lambda _module, args, _output: calls.append(len(args[0])))
    encoder.encode(["a", "b", "a"])
    encoder.encode(["b", "c"])
    assert calls == [2, 1]
    encoder.encode(["d"])  # drops "a", the one not used for the longest time
    encoder.encode(["b", "c", "d"])
    assert calls == [2, 1, 1]
    encoder.encode(["a"])
    assert calls == [2, 1, 1, 1]
    encoder.double()
    embeddings, _ = encoder.encode(["a"])
    assert embeddings.dtype == torch.float32
    assert len(calls) == 5
    encoder.load_state_dict(encoder.state_dict())
    assert not encoder._cache


def test_encoder_is_frozen(tokenizer: Tokenizer) -> None:
    encoder = TextEncoder(TextEncoderConfig(clap=CLAP, max_tokens=20), tokenizer)
    encoder.train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.encode(["a"])[0].requires_grad


def test_long_prompts_are_cut_with_a_warning(encoder: TextEncoder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        embeddings, _ = encoder.encode(["siren " * 50])
    assert embeddings.shape[1] == 20
    assert "longer than 20 tokens" in caplog.text


@pytest.mark.parametrize("kind", ["clap", "t5"])
def test_save_and_load(kind: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    t5 = T5EncoderConfig(vocab_size=400, width=12, num_layers=2, num_heads=2, head_width=4, feed_forward_width=16)
    config = TextEncoderConfig(kind=kind, max_tokens=20, clap=CLAP if kind == "clap" else None, t5=t5)
    encoder = TextEncoder(config, tokenizer)
    encoder.save(tmp_path, dtype=torch.float32)
    loaded = TextEncoder.load(tmp_path)
    assert loaded.config == config
    assert torch.equal(loaded.encode(CAPTIONS)[0], encoder.encode(CAPTIONS)[0])


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["t5", "clap", "clap_text_model"])
def test_hugging_face_folders_are_read(kind: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    torch.manual_seed(0)
    text = transformers.ClapTextConfig(
        vocab_size=400, hidden_size=16, num_attention_heads=2, num_hidden_layers=3, intermediate_size=20
    )
    t5 = transformers.T5Config(vocab_size=400, d_model=16, d_kv=4, d_ff=20, num_layers=2, num_heads=3, pad_token_id=1)
    if kind == "t5":
        model = transformers.T5EncoderModel(t5)
    elif kind == "clap_text_model":
        model = transformers.ClapTextModel(text)
    else:
        audio = transformers.ClapAudioConfig(patch_embeds_hidden_size=8, hidden_size=16, depths=[1, 1])
        audio.num_attention_heads = [1, 2]
        model = transformers.ClapModel(
            transformers.ClapConfig(text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=8)
        )
    model.eval().save_pretrained(tmp_path)
    save_tokenizer(tokenizer, tmp_path, 20)
    encoder = TextEncoder.load(tmp_path, max_tokens=20)
    embeddings, mask = encoder.encode(["a siren on the left", "drum"])
    batch = transformers.AutoTokenizer.from_pretrained(tmp_path)(["a siren on the left", "drum"], padding=True)
    tower: Any = model.text_model if kind == "clap" else model
    expected = tower(
        torch.tensor(batch["input_ids"]), torch.tensor(batch["attention_mask"]), output_hidden_states=True
    ).hidden_states[-1 if kind == "t5" else -2]
    torch.testing.assert_close(embeddings[mask], expected[mask], atol=1e-5, rtol=1e-6)


def test_missing_models_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="no model in"):
        TextEncoder.load(tmp_path / "nothing")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="hf download google-t5/t5-absent --local-dir t5-absent"):
        TextEncoder.load("google-t5/t5-absent")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(FileNotFoundError, match=r"no weights in .* expected model.safetensors"):
        TextEncoder.load(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "config.json"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    (tmp_path / name).write_bytes(b"neither weights nor JSON")
    with pytest.raises(ValueError, match=f"{name} is not (a )?valid"):
        TextEncoder.load(tmp_path)


def test_impossible_configurations_are_refused() -> None:
    with pytest.raises(ValueError, match='must be "clap" or "t5"'):
        TextEncoderConfig(kind="bert")
    with pytest.raises(ValueError, match="needs the configuration 't5'"):
        TextEncoderConfig(kind="t5")
    with pytest.raises(ValueError, match="max_tokens must be at most 28"):
        TextEncoderConfig(clap=CLAP, max_tokens=77)


def test_loading_imports_neither_transformers_nor_the_compiler(encoder: TextEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path)
    code = (
        "import sys\nfrom models.text_encoder import TextEncoder\n"
        f"TextEncoder.load({str(tmp_path)!r}).encode(['a'])\n"
        "sys.exit(any(name in sys.modules for name in ('transformers', 'torch._dynamo')))"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
