"""The commands of the documents: each has the options that it is shown with."""

import importlib.util
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import jsonargparse
import pytest

import data.cli
from tests.test_project import ROOT, project_files

DOCUMENTS = [path for path in project_files() if path.suffix == ".md" and path.name != "EXPERIMENTS.md"]


def commands(document: Path) -> Iterator[str]:
    """Commands of this project in the lines and the inline code of a document."""
    text = document.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^    (.*)$", text, re.MULTILINE) + re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", text)
    for line in lines:
        if not re.search(r"\b(python -m|bash) ", line) or "COMMAND" in line or "..." in line:
            continue
        words = shlex.split(line, comments=True)
        starts = [0, *(place + 1 for place, word in enumerate(words) if word in ("|", "&&"))]
        for start in starts:
            command = list(takewhile(lambda word: word not in ("|", "&&"), words[start:]))
            if command[:1] == ["bash"] or command[:2] == ["python", "-m"]:
                yield shlex.join(command)


CASES = sorted({(command, str(path.relative_to(ROOT))) for path in DOCUMENTS for command in commands(path)})


def test_documents_show_commands():
    assert len(CASES) > 30


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # runpy's, of modules that were imported before
@pytest.mark.parametrize(("command", "document"), CASES)
def test_a_command_parses_as_it_is_shown(command: str, document: str, monkeypatch: pytest.MonkeyPatch):
    program, *arguments = shlex.split(command)
    if program == "bash":
        assert (ROOT / arguments[0]).is_file()
        return
    parsed: list[object] = []

    def parse(main, args, **settings):
        parser = jsonargparse.auto_parser(main, as_positional=settings["as_positional"], allow_abbrev=False)
        parser.exit_on_error = False
        try:
            parsed.append(parser.parse_args(args))
        except jsonargparse.ArgumentError as error:
            pytest.fail(f"{document}: {error}")

    monkeypatch.setattr(data.cli, "auto_cli", parse)
    monkeypatch.setattr(sys, "argv", [arguments[1], *arguments[2:]])
    if not any(argument.startswith("-") for argument in arguments[1:]):  # a command that is named, not shown
        assert importlib.util.find_spec(arguments[1]) is not None
        return
    runpy.run_module(arguments[1], run_name="__main__", alter_sys=False)
    assert parsed
