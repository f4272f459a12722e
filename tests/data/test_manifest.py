"""Manifests as users have them: separators, capitals, marks and quotes are understood, the rest is refused by line."""

import json
import logging
from pathlib import Path

import pytest

from data.captions import find_captions
from data.manifest import read_manifest
from models.errors import UserError


def _captions(path: Path) -> list[tuple[str, list[str]]]:
    return [(audio.name, find_captions(row)) for audio, row in read_manifest(path)]


RAIN = [("a.wav", ["rain on a roof"]), ("b.wav", ["wind"])]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "path,caption\na.wav,rain on a roof\nb.wav,wind\n"),
        ("a.csv", "\ufeffpath;caption\r\na.wav;rain on a roof\r\nb.wav;wind\r\n"),
        ("a.csv", "path\tcaption\na.wav\train on a roof\nb.wav\twind\n"),
        ("a.tsv", "caption\tpath\nrain on a roof\ta.wav\nwind\tb.wav"),
        ("a.csv", "Path, Caption\na.wav, rain on a roof\nb.wav, wind\n"),
        ("a.csv", 'path,caption\na.wav,"rain\non a roof"\n\nb.wav,"wind"\n'),
        ("a.csv", "FILE_NAME|Prompt\na.wav|rain on a roof\nb.wav|wind\n"),
        ("a.csv", "path,caption\n.\\a.wav,rain on a roof\nb.wav,wind,\n"),
        ("a.jsonl", '\ufeff{"path":"a.wav","caption":"rain on a roof"}\r\n\r\n{"path":"b.wav","caption":"wind"}\r\n'),
        ("a.jsonl", '{"path":"a.wav","caption":"rain\u2028on a roof"}\n{"path":"b.wav","caption":"wind\x85"}\n'),
        ("a.json", '[{"path":"a.wav","caption":["rain on a roof", null, ""]},\n {"path":"b.wav","caption":"wind"}]'),
        ("a.jsonl", '[{"path":"a.wav","text":"rain on a roof"}, {"path":"b.wav","Text":"wind"}]'),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_what_is_common_is_read(tmp_path: Path, name: str, text: str, encoding: str) -> None:
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert _captions(tmp_path / name) == RAIN


def test_what_was_found_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.csv").write_text("path;caption;bpm\na.wav;rain;120\n")
    with caplog.at_level(logging.INFO):
        read_manifest(tmp_path / "a.csv")
    assert "a.csv: 1 lines with path, caption, bpm" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "sound,caption\na.wav,rain\n", "no column for the audio file, .*; found sound, caption$"),
        ("a.csv", "", "no column for the audio file"),
        ("a.csv", "path,caption\na.wav,wind, then rain\n", r"line 2 has 3 fields, the header has 2: put text that"),
        ("a.csv", 'path,caption\na.wav,"x\ny"\nb.wav,1,2\n', "line 4 has 3 fields"),
        ("a.csv", "path,caption\n,rain\n", "line 2: no path to an audio file"),
        ("a.csv", "path,caption\na.wav," + "x" * 200_000 + "\n", "line 2 is not a line of a table: field larger"),
        ("a.jsonl", '{"caption": "x"}', "line 1: no path to an audio file; expected a field 'path', found caption"),
        ("a.jsonl", '{"path": 7}', "line 1: the path to an audio file must be text, got 7"),
        ("a.jsonl", '{"path": "a\\u0000.wav"}', "line 1: the path to an audio file must be text"),
        ("a.jsonl", "\n{broken", "line 2 is not JSON"),
        ("a.jsonl", "[" * 100_000, "is not JSON"),
        ("a.jsonl", '{"path": "a.wav", "x": ' + "[" * 100_000, "line 1 is not JSON"),
        ("a.jsonl", "7", "line 1 must be a JSON object, got int"),
        ("a.json", "[7]", "entry 1 must be a JSON object, got int"),
        ("a.jsonl", '{"path": "a.wav", "caption": true}', "caption must be text or a list of texts, got true or false"),
        ("a.jsonl", '{"path": "a.wav", "caption": {"en": "rain"}}', "caption must be text .* got an object"),
        ("a.jsonl", '{"path": "a.wav", "captions": ["x", {"k": 1}]}', "captions must be text .* got an object"),
        ("a.jsonl", '{"path": "a.wav", "caption": "rain \\ud83c half"}', r"line 1 holds '\\ud83c', which is no char"),
        ("a.xml", "", "is no manifest: expected a folder, or a name ending in .jsonl, .json, .csv, .tsv"),
    ],
)
def test_what_has_no_meaning_is_refused_by_line(tmp_path: Path, name: str, text: str, expected: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=expected) as caught:
        read_manifest(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("caption", [None, "", "  ", float("nan"), [], [None, ""]])
def test_no_caption_is_none(tmp_path: Path, caption) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"path": "a.wav", "caption": caption}))
    assert _captions(tmp_path / "a.jsonl") == [("a.wav", [])]


def test_a_number_is_a_caption(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"path": "a.wav", "caption": 7}')
    assert _captions(tmp_path / "a.jsonl") == [("a.wav", ["7"])]
