"""Tables of audio files: `.jsonl` (an object a line), `.json` (a list of objects), `.csv` and `.tsv` (with a header).

A column names the audio file (`PATH_FIELDS`), the others are metadata (`data.captions` says how they become prompts).
Columns' names are taken in any case; a separator other than the comma (semicolon, tab, bar) is recognised by the
header. What cannot be used is refused with its line.
"""

import csv
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.captions import check_metadata
from data.text_files import check_text, read_text
from models.errors import UserError

logger = logging.getLogger(__name__)

MANIFEST_NAMES = ("manifest.jsonl", "manifest.json", "manifest.csv", "manifest.tsv")
MANIFEST_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
PATH_FIELDS = ("path", "audio", "audio_path", "file", "file_name", "filename", "filepath")
_SEPARATORS = (",", ";", "\t", "|")

Row = dict[str, Any]


def read_manifest(manifest: Path) -> list[tuple[Path, Row]]:
    """Return the audio file of every line and its fields; relative paths lie beside the manifest.

    Raises:
        UserError: not a manifest, or a line that has no meaning.
    """
    suffix = manifest.suffix.lower()
    if suffix not in MANIFEST_SUFFIXES:
        raise UserError(
            f"{manifest} is no manifest: expected a folder, or a name ending in {', '.join(MANIFEST_SUFFIXES)}"
        )
    text = read_text(manifest)
    is_json = suffix in (".jsonl", ".json")
    rows = list(_json_rows(manifest, text) if is_json else _table_rows(manifest, text))
    entries = []
    for line, row in rows:
        where = f"{manifest}, line {line}"
        path = _path_of(row, where)
        check_text(json.dumps(row, ensure_ascii=False, default=str), where)
        check_metadata(row, where)
        entries.append((_resolve(manifest.parent, path), row))
    columns = list(dict.fromkeys(name for _, row in rows for name in row))
    logger.info("%s: %d lines with %s", manifest, len(rows), ", ".join(columns[:20]) or "nothing")
    return entries


def parse_object(text: str, where: str) -> Row:
    """Parse a JSON object.

    Raises:
        UserError: it is not one, saying `where`.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{where} must be a JSON object, got {type(value).__name__}")
    return value


def _json_rows(manifest: Path, text: str) -> Iterator[tuple[int, Row]]:
    if text.lstrip().startswith("["):  # one list, whatever the suffix
        try:
            rows = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{manifest} is not JSON: {error}") from None
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, dict):
                raise UserError(f"{manifest}, entry {number} must be a JSON object, got {type(row).__name__}")
            yield number, row
        return
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            yield line, parse_object(content, f"{manifest}, line {line}")


def _table_rows(manifest: Path, text: str) -> Iterator[tuple[int, Row]]:
    separator = _separator(manifest, text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    header: list[str] = []
    start = 1
    try:
        for cells in reader:
            line, start = start, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                continue
            if len(cells) > len(header) and any(cell.strip() for cell in cells[len(header) :]):
                raise UserError(
                    f"{manifest}, line {line} has {len(cells)} fields, the header has {len(header)}: "
                    f"put text that holds {separator!r} in quotes"
                )
            row = {name: cell.strip() for name, cell in zip(header, cells, strict=False) if name}
            yield line, row
    except csv.Error as error:
        raise UserError(f"{manifest}, line {reader.line_num} is not a line of a table: {error}") from None


def _separator(manifest: Path, text: str) -> str:
    """Return the separator with which the first line has a column for the audio file."""
    first = next((line for line in text.split("\n") if line.strip()), "")
    for separator in _SEPARATORS:
        columns = next(csv.reader([first], delimiter=separator, skipinitialspace=True), [])
        if any(column.strip().lower() in PATH_FIELDS for column in columns):
            return separator
    found = next(csv.reader([first]), [])
    raise UserError(
        f"{manifest}: no column for the audio file, expected one of {', '.join(PATH_FIELDS)} in the first line; "
        f"found {', '.join(column.strip()[:40] for column in found[:10]) or 'nothing'}"
    )


def _path_of(row: Row, where: str) -> str:
    by_lower_name = {str(name).strip().lower(): value for name, value in row.items()}
    path = next((by_lower_name[name] for name in PATH_FIELDS if by_lower_name.get(name)), None)
    if path is None:
        found = ", ".join(map(str, row)) or "nothing"
        raise UserError(f"{where}: no path to an audio file; expected a field 'path', found {found}")
    if not isinstance(path, str) or "\0" in path:
        raise UserError(f"{where}: the path to an audio file must be text, got {path!r}")
    return path.strip()


def _resolve(folder: Path, path: str) -> Path:
    """Return where a file lies; a path with backslashes that is not there is one of Windows."""
    place = folder / path
    return folder / path.replace("\\", "/") if "\\" in path and not place.exists() else place
