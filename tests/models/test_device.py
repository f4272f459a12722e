import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from models.device import SMALL_NETWORK, compile_network, spare_threads

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("package", ["models", "data", "infer", "train"])
@pytest.mark.parametrize(("given", "expected"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_wait_without_spinning_before_torch_loads_unless_the_user_says_otherwise(package, given, expected):
    code = f"import sys, os, {package}; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, check=True)
    assert result.stdout.split() == [expected, "False"]


@pytest.mark.parametrize(("num_parameters", "expected"), [(SMALL_NETWORK - 1, 1), (SMALL_NETWORK, 2)])
def test_a_small_network_on_a_cpu_takes_one_thread(num_parameters, expected):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1).expand(num_parameters), requires_grad=False)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        spare_threads(Network(), torch.device("cpu"))
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_compiling_without_a_compiler_is_one_clear_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ValueError, match=r"--compile needs a C\+\+ compiler"):
        compile_network(torch.nn.Linear(2, 2))


def test_compiling_is_in_place(monkeypatch: pytest.MonkeyPatch):
    compiled = []
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    network = torch.nn.Linear(2, 2)
    compile_network(network)
    assert compiled == [network]
