"""Small random pipelines in the published shapes, written by diffusers' and transformers' own classes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    ClapTextConfig,
    ClapTextModelWithProjection,
    RobertaTokenizer,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
)

diffusers: Any = pytest.importorskip("diffusers")

EMBEDDING = 24

AFFINE, NORM = ("weight", "bias"), ("gamma", "beta")
BATCH_NORM = (*AFFINE, "running_mean", "running_var", "num_batches_tracked")
FEATURES = {"conv_layer.0": AFFINE, "conv_layer.1": BATCH_NORM, "layer_norm": AFFINE}
UPSAMPLER = {
    **{f"conv_{head}.{module}": names for head in "wc" for module, names in FEATURES.items()},
    **{f"swish_{head}.layer.{layer}": AFFINE for head in "wc" for layer in (0, 2, 4)},
    **dict.fromkeys(("linear_w", "linear_einsum", "layer_norm", "proj_o"), AFFINE),
}
DURATOR_MODULES = {
    **{f"dp.{name}": AFFINE for name in ("conv_1", "conv_2", "proj")},
    **{f"dp.{name}": NORM for name in ("norm_1", "norm_2")},
    **{f"learnable_upsampler.{module}": names for module, names in UPSAMPLER.items()},
}
PUBLISHED_DURATOR = [f"{module}.{name}" for module, names in DURATOR_MODULES.items() for name in names]
"""Names of the durator's weights in the published file, without their prefix."""


def byte_tokenizer(folder: Path) -> RobertaTokenizer:
    """A tokenizer of single bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    symbols = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet()), "<mask>"]
    (folder / "vocab.json").write_text(json.dumps({symbol: index for index, symbol in enumerate(symbols)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return RobertaTokenizer.from_pretrained(folder, model_max_length=77)


def clap_text_encoder(vocabulary: int) -> ClapTextModelWithProjection:
    return ClapTextModelWithProjection(
        ClapTextConfig(
            vocab_size=vocabulary,
            hidden_size=16,
            intermediate_size=20,
            num_attention_heads=2,
            num_hidden_layers=2,
            projection_dim=EMBEDDING,
            max_position_embeddings=100,
        )
    )


def unet(**changes: Any) -> Any:
    """AudioLDM's U-Net: four levels, time stride 8, 8 x 16 latents."""
    config = {
        "sample_size": 128,
        "in_channels": 8,
        "out_channels": 8,
        "layers_per_block": 1,
        "block_out_channels": (8, 16, 24, 32),
        "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 3,
        "up_block_types": ("CrossAttnUpBlock2D",) * 3 + ("UpBlock2D",),
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "norm_num_groups": 8,
        "attention_head_dim": 4,
        "cross_attention_dim": (8, 16, 24, 32),
        "class_embed_type": "simple_projection",
        "projection_class_embeddings_input_dim": EMBEDDING,
        "class_embeddings_concat": True,
    }
    return diffusers.UNet2DConditionModel(**(config | changes))


def scheduler() -> Any:
    """AudioLDM's noise schedule."""
    return diffusers.DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def mel_vae() -> Any:
    """AutoencoderKL over log-mel spectrograms: 4 mel frames and 4 mel bins a cell."""
    return diffusers.AutoencoderKL(
        in_channels=1,
        out_channels=1,
        latent_channels=8,
        block_out_channels=(8, 8, 16),
        norm_num_groups=8,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        scaling_factor=0.41,
    )


def vocoder() -> SpeechT5HifiGan:
    """HiFi-GAN at 16 kHz, 160 samples a mel frame, loud enough to be compared."""
    network = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=64,
            sampling_rate=16_000,
            upsample_initial_channel=32,
            upsample_rates=[5, 4, 2, 2, 2],
            upsample_kernel_sizes=[16, 16, 8, 4, 4],
            resblock_kernel_sizes=[3, 7],
            resblock_dilation_sizes=[[1, 3]] * 2,
            normalize_before=False,
        )
    )
    for parameter in network.parameters():
        if parameter.ndim == 3:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return network


def write_audioldm(folder: Path, seed: int = 0) -> Any:
    """Write an AudioLDM as the hub has it; returns the pipeline."""
    torch.manual_seed(seed)
    tokenizer = byte_tokenizer(folder.with_name(f"{folder.name}-tokenizer"))
    pipeline = diffusers.AudioLDMPipeline(
        vae=mel_vae(),
        text_encoder=clap_text_encoder(len(tokenizer)),
        tokenizer=tokenizer,
        unet=unet(),
        scheduler=scheduler(),
        vocoder=vocoder(),
    )
    return _written(pipeline, folder)


def _written(pipeline: Any, folder: Path) -> Any:
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def t5_tokenizer() -> Any:
    """A tokenizer of whole words that every text can be written with, for T5."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{chr(97 + i): 3 + i for i in range(26)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=40
    )


def t5_encoder(width: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=29, d_model=width, d_kv=4, d_ff=20, num_layers=2, num_heads=2))


def write_audioldm2(folder: Path, seed: int = 0) -> Any:
    """Write an AudioLDM2 as the hub has it; returns the pipeline."""
    from transformers import ClapAudioConfig, ClapConfig, ClapFeatureExtractor, ClapModel, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    tokenizer = byte_tokenizer(folder.with_name(f"{folder.name}-tokenizer"))
    text = clap_text_encoder(len(tokenizer)).config
    audio = ClapAudioConfig(
        spec_size=32,
        num_mel_bins=8,
        patch_size=4,
        patch_stride=[4, 4],
        window_size=2,
        patch_embeds_hidden_size=8,
        depths=[1, 1],
        num_attention_heads=[1, 1],
        hidden_size=16,
        projection_dim=EMBEDDING,
        enable_fusion=False,
    )
    network = diffusers.AudioLDM2UNet2DConditionModel(
        sample_size=128,
        in_channels=8,
        out_channels=8,
        layers_per_block=1,
        block_out_channels=(8, 16, 24, 32),
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3 + ("UpBlock2D",),
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=((None, 12, None, 20),) * 4,
    )
    pipeline = diffusers.AudioLDM2Pipeline(
        vae=mel_vae(),
        text_encoder=ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=EMBEDDING)),
        text_encoder_2=t5_encoder(20),
        projection_model=diffusers.AudioLDM2ProjectionModel(EMBEDDING, 20, 12),
        language_model=GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=99, n_embd=12, n_layer=2, n_head=2)),
        tokenizer=tokenizer,
        tokenizer_2=t5_tokenizer(),
        feature_extractor=ClapFeatureExtractor(),
        unet=network,
        scheduler=scheduler(),
        vocoder=vocoder(),
    )
    return _written(pipeline, folder)


def character_tokenizer(folder: Path) -> Any:
    """SpeechT5's tokenizer of characters, from a model that is trained here."""
    import sentencepiece
    from transformers import SpeechT5Tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "text.txt"
    text.write_text("\n".join(["the quick brown fox jumps over the lazy dog _"] * 5))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "spm_char"),
        model_type="char",
        vocab_size=32,
        bos_id=0,
        pad_id=1,
        eos_id=2,
        unk_id=3,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return SpeechT5Tokenizer(str(folder / "spm_char.model"))


def write_voiceldm(folder: Path, seed: int = 0) -> dict[str, Any]:
    """Write a VoiceLDM and what it was built on; returns the networks that its file holds."""
    from transformers import ClapAudioConfig, ClapConfig, ClapModel, SpeechT5Config
    from transformers.models.speecht5.modeling_speecht5 import SpeechT5EncoderWithTextPrenet

    from infer.hosts.durator import Durator, own_names

    torch.manual_seed(seed)
    width = 16
    write_audioldm(folder / "audioldm-m-full", seed)
    tokenizer = byte_tokenizer(folder / "clap-htsat-unfused")
    tokenizer.save_pretrained(folder / "clap-htsat-unfused")
    audio = ClapAudioConfig(patch_embeds_hidden_size=8, depths=[1, 1], num_attention_heads=[1, 1], hidden_size=16)
    text = clap_text_encoder(len(tokenizer)).config
    clap = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=EMBEDDING)).eval()
    clap.save_pretrained(folder / "clap-htsat-unfused")
    characters = character_tokenizer(folder.with_name(f"{folder.name}-characters"))
    config = SpeechT5Config(
        vocab_size=len(characters) + 8,
        hidden_size=width,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=20,
    )
    config.save_pretrained(folder / "speecht5_tts")
    characters.save_pretrained(folder / "speecht5_tts")
    long_config = SpeechT5Config.from_pretrained(folder / "speecht5_tts", max_text_positions=1000)
    networks = {
        "unet": unet(
            block_out_channels=(32, 32, 64, 64), norm_num_groups=32, attention_head_dim=8, cross_attention_dim=width
        ),
        "durator": Durator(width),
        "text_encoder.encoder": SpeechT5EncoderWithTextPrenet(long_config),
    }
    weights = {}
    for prefix, network in networks.items():
        network.eval()
        state = network.state_dict()
        if prefix == "durator":
            own = own_names({name: torch.tensor(index) for index, name in enumerate(PUBLISHED_DURATOR)})
            state = {PUBLISHED_DURATOR[int(index)]: state[name] for name, index in own.items()}
        weights |= {f"{prefix}.{name}": tensor for name, tensor in state.items()}
    weights["text_encoder.encoder.prenet.encode_positions.pe"] = torch.zeros(1, 1000, width)
    torch.save(weights, folder / "voiceldm-m.ckpt")
    return networks


def write_stable_audio(folder: Path, seed: int = 0) -> Any:
    """Write a Stable Audio Open as the hub has it, with an autoencoder of hop 16; returns the pipeline."""
    torch.manual_seed(seed)
    pipeline = diffusers.StableAudioPipeline(
        vae=diffusers.AutoencoderOobleck(
            encoder_hidden_size=12,  # twice the latent channels
            downsampling_ratios=[2, 2, 4],
            channel_multiples=[1, 2, 4],
            decoder_channels=4,
            decoder_input_channels=6,
            audio_channels=2,
            sampling_rate=44_100,
        ),
        text_encoder=t5_encoder(20),
        projection_model=diffusers.StableAudioProjectionModel(20, 16, 0, 512),
        tokenizer=t5_tokenizer(),
        transformer=diffusers.StableAudioDiTModel(
            sample_size=64,
            in_channels=6,
            out_channels=6,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            num_key_value_attention_heads=1,
            cross_attention_dim=16,
            time_proj_dim=8,
            global_states_input_dim=32,
            cross_attention_input_dim=16,
        ),
        scheduler=diffusers.EDMDPMSolverMultistepScheduler(solver_order=2, prediction_type="v_prediction"),
    )
    return _written(pipeline, folder)
