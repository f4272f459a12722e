"""The U-Net's promises: size, per-frame t, masks, any length, guidance in one batch, checkpointing, compilation."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from models.checkpoint import without_weights
from models.unet import UNet, UNetConfig
from models.unet_layers import FrameNorm

TINY = UNetConfig(
    latent_channels=6,
    widths=(16, 16, 32),
    factors=(1, 2, 4),
    num_blocks=1,
    attention_depths=(1, 0, 1),
    bottleneck_depth=1,
    num_heads=2,
    context_width=12,
    time_width=16,
    num_frequencies=8,
    num_groups=4,
    global_context=True,
)
NORMS = ["group", "layer"]


def build(**changes: Any) -> UNet:
    """A small U-Net in double precision whose zero-initialised layers are filled, so that everything acts."""
    torch.manual_seed(0)
    unet = UNet(dataclasses.replace(TINY, **changes)).double()
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return unet


def inputs(batch: int = 2, frames: int = 24, tokens: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "latents": torch.randn(batch, 6, frames, generator=generator, dtype=torch.float64),
        "t": torch.rand(batch, generator=generator, dtype=torch.float64),
        "context": torch.randn(batch, tokens, 12, generator=generator, dtype=torch.float64),
        "context_mask": torch.arange(tokens) < torch.tensor([[tokens], [2]] * batch)[:batch],
    }


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    """Compare; the noise time is embedded in float32 steps of the mask, everything else is double."""
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=tolerance)


def test_paper_size():
    with without_weights():
        unet = UNet(UNetConfig())
        num_parameters = sum(parameter.numel() for parameter in unet.parameters())
    assert num_parameters == pytest.approx(906_679_744, rel=0.01)
    assert unet.config.time_stride == 16


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("frames", [24, 21])
def test_constant_t_per_frame_equals_scalar_t(norm: str, frames: int):
    unet, batch = build(norm=norm), inputs(frames=frames)
    expected = unet(**batch)
    assert_close(unet(**batch | {"t": batch["t"][:, None].expand(-1, frames)}), expected)


def test_t_of_one_frame_matters_there_first():
    unet, batch = build(norm="layer"), inputs(frames=64)
    t = batch["t"][:, None].repeat(1, 64)
    changed = t.clone()
    changed[:, 32] = 1 - changed[:, 32]
    difference = (unet(**batch | {"t": changed}) - unet(**batch | {"t": t})).abs().mean(dim=(0, 1))
    assert difference[32] > 0
    assert difference[24:41].mean() > 3 * difference[[*range(16), *range(48, 64)]].mean()


@pytest.mark.parametrize("frames", [1, 7, 8, 9, 30])
def test_any_length(frames: int):
    unet, batch = build(), inputs(frames=frames)
    out = unet(**batch)
    assert out.shape == (2, 6, frames)
    assert out.isfinite().all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("real", [24, 21, 5])
def test_padding_frames_do_not_reach_real_ones(norm: str, real: int):
    unet = build(norm=norm)
    batch = inputs(frames=40)
    t = torch.rand(2, 40, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    mask = torch.arange(40) < torch.tensor([[real], [40]])
    out = unet(**batch | {"t": t, "frame_mask": mask})

    alone = {name: value[:1] for name, value in batch.items()}
    assert_close(out[:1, :, :real], unet(**alone | {"latents": batch["latents"][:1, :, :real], "t": t[:1, :real]}))

    other = batch["latents"].clone()
    other[0, :, real:] = torch.nan
    other_t = t.clone()
    other_t[0, real:] = 0.9
    again = unet(**batch | {"latents": other, "t": other_t, "frame_mask": mask})
    assert_close(again[:1, :, :real], out[:1, :, :real], 1e-12)
    assert_close(again[1:], out[1:], 1e-12)


def test_an_all_true_mask_changes_nothing():
    unet, batch = build(), inputs()
    assert_close(unet(**batch, frame_mask=torch.ones(2, 24, dtype=torch.bool)), unet(**batch))


def test_masked_tokens_get_no_attention():
    unet, batch = build(), inputs()
    batch["context"].requires_grad_()
    out = unet(**batch)
    out.square().sum().backward()
    gradient = batch["context"].grad
    assert gradient is not None
    masked = ~batch["context_mask"]
    assert (gradient[masked] == 0).all()
    assert (gradient[~masked].abs().sum(dim=-1) > 0).all()

    assert_close(unet(**{name: value[1:] for name, value in batch.items()} | {"context": batch["context"][1:, :2]}
                 | {"context_mask": None}), out[1:])  # fmt: skip


def test_global_context_reaches_blocks_without_attention():
    unattended = {"attention_depths": (0, 0, 0), "bottleneck_depth": 0}
    batch = inputs()
    other = batch | {"context": batch["context"] + 1 + batch["context"].flip(2)}
    for global_context in (False, True):
        unet = build(**unattended, global_context=global_context)
        assert torch.equal(unet(**batch), unet(**other)) != global_context


def test_global_context_starts_without_effect():
    torch.manual_seed(0)
    unet = UNet(TINY)
    assert unet.context_mlp is not None
    pooled = unet.context_mlp(torch.randn(3, TINY.context_width))
    assert torch.equal(pooled, torch.zeros_like(pooled))


def test_a_sample_without_any_token_is_safe():
    unet, batch = build(), inputs()
    batch["context"].requires_grad_()
    mask = batch["context_mask"].clone()
    mask[0] = False
    out = unet(**batch | {"context_mask": mask})
    out.square().sum().backward()
    gradient = batch["context"].grad
    assert gradient is not None
    assert out.isfinite().all()
    assert gradient.isfinite().all()
    assert (gradient[0] == 0).all()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in unet.parameters())


def test_guidance_in_one_batch_equals_two_passes():
    unet, batch = build(), inputs()
    first, second = ({name: value[i : i + 1] for name, value in batch.items()} for i in range(2))
    assert_close(unet(**batch), torch.cat([unet(**first), unet(**second)]))


def test_checkpointing_gives_the_same_gradients():
    unet, batch = build(), inputs()
    gradients = []
    for flag in (False, True):
        unet.activation_checkpointing = flag
        unet.zero_grad()
        unet(**batch).square().mean().backward()
        gradients.append({name: p.grad.clone() for name, p in unet.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == {name for name, _ in unet.named_parameters()}
    for name, gradient in gradients[0].items():
        assert_close(gradients[1][name], gradient, 1e-12)


def test_checkpointing_keeps_less():
    unet, batch = build(), inputs()
    kept = []
    for flag in (False, True):
        unet.activation_checkpointing = flag
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x):
            unet(**batch)
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 2


def test_every_parameter_learns_from_the_start():
    torch.manual_seed(0)
    unet = UNet(TINY)
    batch = {name: value.float() if value.is_floating_point() else value for name, value in inputs().items()}
    optimiser = torch.optim.SGD(unet.parameters(), lr=0.1)
    for _ in range(3):  # the last layer of a branch moves first, then what lies before it
        optimiser.zero_grad()
        (unet(**batch) - 1).square().mean().backward()
        optimiser.step()
    idle = [name for name, p in unet.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_bfloat16_is_near_float32():
    unet, batch = build().float(), inputs()
    batch = {name: value.float() if value.is_floating_point() else value for name, value in batch.items()}
    expected = unet(**batch)
    with torch.autocast("cpu", torch.bfloat16):
        actual = unet(**batch).float()
    assert (actual - expected).norm() < 0.03 * expected.norm()


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_compiles_to_one_graph(masked: bool):
    unet, batch = build(num_blocks=1, attention_depths=(1, 0, 0), bottleneck_depth=0), inputs()
    frame_mask = torch.arange(24) < torch.tensor([[24], [20]]) if masked else None
    t = torch.rand(2, 24, dtype=torch.float64)
    compiled = torch.compile(unet, fullgraph=True, backend="aot_eager")
    assert_close(compiled(**batch | {"t": t}, frame_mask=frame_mask), unet(**batch | {"t": t}, frame_mask=frame_mask))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"factors": (1, 2)}, "one entry a level"),
        ({"num_heads": 3}, "widths must be multiples of 2 \\* num_heads = 6, got 16"),
        ({"num_groups": 5}, "num_groups must divide every width, got 5"),
        ({"norm": "batch"}, "norm must be one of group, layer, got 'batch'"),
    ],
)
def test_configuration_errors(changes: dict[str, Any], named: str):
    with pytest.raises(ValueError, match=named):
        UNet(dataclasses.replace(TINY, **changes))


def test_input_errors():
    unet, batch = build(), inputs()
    with pytest.raises(ValueError, match="latents must have 6 channels, got 5"):
        unet(**batch | {"latents": batch["latents"][:, :5]})
    with pytest.raises(ValueError, match=r"t must be \(batch,\) or \(batch, frames\) = \(2, 24\), got \(2, 23\)"):
        unet(**batch | {"t": torch.zeros(2, 23)})


def test_lists_from_json_are_taken():
    config = UNetConfig(**{**dataclasses.asdict(TINY), "widths": [16, 16, 32], "factors": [1, 2, 4]})
    assert config == TINY


def test_masked_group_norm_is_group_norm_of_the_real_frames():
    torch.manual_seed(0)
    norm = FrameNorm(12, "group", 3).double()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = 5 + 3 * torch.randn(3, 12, 20, dtype=torch.float64)
    lengths = [20, 7, 0]
    out = norm(x, torch.arange(20) < torch.tensor(lengths)[:, None, None])
    for index, length in enumerate(lengths[:2]):
        expected = torch.nn.functional.group_norm(x[index : index + 1, :, :length], 3, norm.weight, norm.bias)
        assert_close(out[index : index + 1, :, :length], expected)
    assert out.isfinite().all()
