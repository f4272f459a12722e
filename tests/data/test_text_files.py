"""Users' text: marks, line ends, encodings, names."""

from pathlib import Path

import pytest

from data.text_files import check_text, read_lines, readable
from models.errors import UserError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path: Path, encoding: str, end: str) -> None:
    lines = ["heavy rain", "", "  a slow clock  ", "café 🎹", "rain\u2028on a roof", "next\x85line", "form\x0cfeed"]
    (tmp_path / "prompts.txt").write_bytes(end.join(lines).encode(encoding))
    assert read_lines(tmp_path / "prompts.txt") == [line.strip() for line in lines if line]


def test_other_encodings_are_named_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("rain\ncafé\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"a\.txt, line 2 is not utf-8 text \(byte 0xe9\); save it as UTF-8"):
        read_lines(tmp_path / "a.txt")


def test_names_and_texts_that_cannot_be_encoded() -> None:
    name = b"caf\xe9.wav".decode("utf-8", "surrogateescape")
    assert readable(name) == "café.wav"
    assert readable("雨の音.wav") == "雨の音.wav"
    with pytest.raises(UserError, match=r"the prompt holds '\\ud83c', which is no character"):
        check_text("rain \ud83c", "the prompt")
