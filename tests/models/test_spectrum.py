"""The power spectrum is torch's, and so is its gradient."""

import pytest
import torch

from models.spectrum import power_spectrum


def reference(audio: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
    length = len(window)
    spectrum = torch.stft(audio, length, length // 4, window=window, normalized=True, return_complex=True)
    return spectrum.real.square() + spectrum.imag.square()


@pytest.mark.parametrize("length", [8, 32, 128])
@pytest.mark.parametrize("samples", [65, 128, 301])
def test_values_and_gradients_are_torchs(length: int, samples: int):
    window = torch.hann_window(length, dtype=torch.float64)
    audio = torch.randn(3, samples, dtype=torch.float64, requires_grad=True)
    ours, theirs = power_spectrum(audio, window), reference(audio, window)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=0)
    direction = torch.randn_like(theirs)
    gradients = [torch.autograd.grad(values, audio, direction)[0] for values in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_gradient_is_that_of_finite_differences():
    window = torch.hann_window(16, dtype=torch.float64)
    audio = torch.randn(2, 50, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: power_spectrum(x, window), audio)


def test_silence_has_no_gradient_and_no_nan():
    audio = torch.zeros(1, 64, requires_grad=True)
    power_spectrum(audio, torch.hann_window(16)).sum().backward()
    assert audio.grad is not None
    assert torch.equal(audio.grad, torch.zeros_like(audio))


def test_compiled_it_has_the_same_gradient():
    window, audio = torch.hann_window(16), torch.randn(2, 64, requires_grad=True)
    direction = torch.randn(2, 9, 17)
    eager, compiled = (
        torch.autograd.grad(call(audio, window), audio, direction)[0]
        for call in (power_spectrum, torch.compile(power_spectrum, backend="aot_eager"))
    )
    torch.testing.assert_close(compiled, eager)
