"""The command line's contract: one line and exit code 2 for a user's error, 130 for Ctrl-C, configs never merged."""

import dataclasses
import errno
import importlib
import os
import sys
from pathlib import Path

import pytest

from data.cli import run
from models.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Widths:
    width: int = 3
    """Width (channels)."""
    depth: int = 1
    wrap: bool = False
    cut: bool | None = None

    def __post_init__(self) -> None:
        if self.width < 0:
            raise UserError(f"net.width must be at least 0, got {self.width}")


def _capture(argv: list[str], default_config: Path | None = None) -> list[tuple[Widths, int, str]]:
    calls: list[tuple[Widths, int, str]] = []

    def main(net: Widths = Widths(), steps: int = 7, name: str = "x") -> None:
        calls.append((net, steps, name))

    run(main, default_config, argv)
    return calls


def test_options_reach_the_function() -> None:
    assert _capture(["--net.width", "5", "--name", "rain"]) == [(Widths(width=5), 7, "rain")]


def test_flags_need_no_value_and_positionals_no_name() -> None:
    calls = []

    def main(source: str, destination: str, loud: bool = False, steps: int = 1) -> None:
        calls.append((source, destination, loud, steps))

    named = ["a", "--destination", "b", "--loud=true"]
    for argv in (["a", "b", "--loud"], ["--loud", "a", "--steps", "2", "b"], named):
        run(main, argv=argv, positionals=("source", "destination"))
    run(main, argv=["a", "b", "--loud", "false"], positionals=("source", "destination"))
    assert calls == [("a", "b", True, 1), ("a", "b", True, 2), ("a", "b", True, 1), ("a", "b", False, 1)]


def test_flags_of_a_group_need_no_value() -> None:
    assert _capture(["--net.wrap", "--net.width", "5"]) == [(Widths(wrap=True, width=5), 7, "x")]
    assert _capture(["--net.cut", "--net.wrap", "false"]) == [(Widths(cut=True), 7, "x")]


def test_values_may_look_like_options() -> None:
    assert _capture(["--name", "-wind", "--steps", "-3"]) == [(Widths(), -3, "-wind")]


def test_default_config_only_without_config(tmp_path: Path) -> None:
    default, own = tmp_path / "default.yaml", tmp_path / "own.yaml"
    default.write_text("net: {width: 11}\nsteps: 12\n")
    own.write_text("steps: 13\n")
    assert _capture(["--name", "y"], default) == [(Widths(width=11), 12, "y")]
    assert _capture(["--config", str(own)], default) == [(Widths(), 13, "x")]
    assert _capture([f"--config={own}", "--net.width", "4"], default) == [(Widths(width=4), 13, "x")]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("net: {widht: 3}", "widht"),
        ("stpes: 3", "stpes"),
        ("net: {width: wide}", "net.width"),
        ("net: {width: 3", "config"),
    ],
)
def test_a_bad_yaml_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str, expected: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(config)
    with pytest.raises(SystemExit) as stop:
        _capture(["--config", str(path)])
    assert stop.value.code == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert expected in stderr


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--nme", "x"], "--nme"),
        (["--nam", "x"], "--nam"),
        (["--net.wid", "3"], "--net.wid"),
        (["--name", "--steps", "3"], "--name"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--steps", "many"], "steps"),
    ],
)
def test_a_bad_option_is_one_line(capsys: pytest.CaptureFixture[str], argv: list[str], expected: str) -> None:
    with pytest.raises(SystemExit) as stop:
        _capture(argv)
    assert stop.value.code == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert expected in stderr


def _raise_user_error() -> None:
    raise UserError("got 0 seconds,\n expected more than 0")


def _raise_our_os_error() -> None:
    raise FileNotFoundError("no model in here")


def _raise_full_disk() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _import_optional() -> None:
    importlib.import_module("no_such_package")


def _raise_os_error() -> None:
    with open("no/such/file", encoding="utf-8"):
        pass


def _interrupt() -> None:
    raise KeyboardInterrupt


def _interrupt_as_lightning() -> None:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)


def _wrong_value() -> None:
    _first, _second = [1, 2, 3]


def _wrong_descriptor() -> None:
    os.close(10**6)


def _import_own() -> None:
    importlib.import_module("models.no_such_module")


def _runtime_error() -> None:
    raise RuntimeError("a bug")


@pytest.mark.parametrize(
    ("main", "code", "message"),
    [
        (_raise_user_error, 2, "error: got 0 seconds, expected more than 0\n"),
        (_raise_our_os_error, 2, "error: no model in here\n"),
        (_raise_full_disk, 2, "error: No space left on device\n"),
        (_import_optional, 2, "error: No module named 'no_such_package'\n"),
        (_raise_os_error, 2, "error: No such file or directory: no/such/file\n"),
        (_interrupt, 130, "interrupted\n"),
        (_interrupt_as_lightning, 130, "interrupted\n"),
    ],
)
def test_errors_and_interrupts(capsys: pytest.CaptureFixture[str], main, code: int, message: str) -> None:
    with pytest.raises(SystemExit) as stop:
        run(main, argv=[])
    assert stop.value.code == code
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("main", "error"),
    [
        (_wrong_value, ValueError),
        (_wrong_descriptor, OSError),
        (_import_own, ModuleNotFoundError),
        (_runtime_error, RuntimeError),
    ],
)
def test_a_fault_of_ours_keeps_its_traceback(main, error: type[Exception]) -> None:
    with pytest.raises(error):
        run(main, argv=[])


def test_a_group_that_refuses_its_values_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _capture(["--net.width", "-2"])
    assert capsys.readouterr().err == "error: net.width must be at least 0, got -2\n"


def test_help_shows_field_docstrings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        _capture(["--help"])
    assert stop.value.code == 0
    assert "Width (channels)." in capsys.readouterr().out
