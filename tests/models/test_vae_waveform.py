"""The Snake activation and its gradient."""

import torch

from models.vae_waveform import Snake, SnakeFunction


def test_snake_is_its_formula_and_its_gradient_is_right():
    x = torch.randn(2, 3, 20, dtype=torch.float64, requires_grad=True)
    alpha = (torch.rand(1, 3, 1, dtype=torch.float64) + 0.3).requires_grad_()
    expected = x + torch.sin(alpha * x).square() / alpha
    torch.testing.assert_close(SnakeFunction.apply(x, alpha), expected, rtol=0, atol=1e-7)
    assert torch.autograd.gradcheck(SnakeFunction.apply, (x, alpha))


def test_snake_keeps_half_precision():
    assert Snake(3)(torch.randn(1, 3, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_compiled_it_has_the_same_gradients():
    snake, x = Snake(3), torch.randn(2, 3, 20, requires_grad=True)
    snake.alpha.data.uniform_(0.5, 2.0)
    direction = torch.randn(2, 3, 20)
    gradients = []
    for call in (snake, torch.compile(snake, backend="aot_eager")):
        gradients.append(torch.autograd.grad(call(x), (x, snake.alpha), direction))
    torch.testing.assert_close(gradients[1], gradients[0])
