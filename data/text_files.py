"""Text files as users have them: UTF-8 with or without a byte-order mark, UTF-16 with one, lines that end at \\n.

`str.splitlines` also splits at U+2028, U+0085 and others, which are part of a caption; nothing here uses it.
"""

import codecs
from pathlib import Path

from models.errors import UserError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path) -> str:
    """Return a file's text without its byte-order mark; lines end with \\n.

    Raises:
        UserError: it is not text in UTF-8 (or, with a byte-order mark, UTF-16 or UTF-32).
        OSError: it cannot be read.
    """
    content = path.read_bytes()
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"{readable(path)}, line {line} is not {encoding} text (byte {content[error.start]:#04x}); save it as UTF-8"
        ) from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not empty, without blanks around them (`read_text` says what raises)."""
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]


def readable(name: str | Path) -> str:
    """Return a file's name as text that can be written anywhere; bytes that are not UTF-8 are read as latin-1."""
    text = str(name)
    try:
        text.encode()
    except UnicodeEncodeError:  # Python keeps such bytes as lone surrogates, U+DC80 to U+DCFF
        return text.encode("utf-8", "surrogateescape").decode("latin-1")
    return text


def check_text(text: str, what: str) -> None:
    """Refuse text that cannot be encoded, because it holds half a surrogate pair.

    Raises:
        UserError: naming the text by `what`.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{what} holds {text[error.start]!a}, which is no character: half an emoji, or a byte that is not UTF-8"
        ) from None
