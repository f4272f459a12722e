"""The command from packages to a folder that trainings read."""

import hashlib
import json
import logging

import pytest

from data.audio import read_audio
from data.folder import list_entries
from data.recordings import __main__ as command
from data.recordings.packages import PackageError, Packages
from data.recordings.table import Recording
from models.errors import UserError
from tests.data.recordings.conftest import debian_package


@pytest.fixture
def table(tmp_path, wav, monkeypatch):
    """Two packages in a folder, and a table of what is wanted of them."""
    sounds = {f"{frequency}.wav": wav(frequency) for frequency in range(300, 1_500, 100)}
    sounds["music.wav"] = wav(250, seconds=17.0, channels=2, rate=22_050)
    first = {name: content for name, content in sounds.items() if name != "1400.wav"}
    (tmp_path / "debs" / "below").mkdir(parents=True)
    files = {f"./usr/share/{name}": content for name, content in first.items()}
    debian_package(tmp_path / "debs" / "first_1.0_all.deb", {**files, "./usr/share/doc/copyright": b"terms"})
    debian_package(tmp_path / "debs" / "below" / "second_1.0_all.deb", {"./other name.wav": sounds["1400.wav"]})
    recordings = []
    for name, content in sounds.items():
        kind, role = ("music", "") if name == "music.wav" else ("effect", "")
        if name in ("300.wav", "400.wav"):
            kind, role = "strum", f"E minor/{'down' if name == '300.wav' else 'up'}"
        package, sha256 = ("second" if name == "1400.wav" else "first"), hashlib.sha256(content).hexdigest()
        recordings.append(Recording(package, sha256, name, kind, "CC0-1.0", "someone", role, f"sound {name[:3]}"))
    recordings.append(Recording("third", "f" * 64, "b.wav", "effect", "CC-BY-SA-3.0", "someone", "", "shared sound"))
    recordings.append(Recording("third", "e" * 64, "c.wav", "effect", "CC-BY-3.0", "someone", "", "unavailable sound"))
    monkeypatch.setattr(command, "read_table", lambda: recordings)

    def fetch(_: Packages, package: str) -> None:
        raise PackageError(f"Unable to locate package {package}")

    monkeypatch.setattr(Packages, "fetch", fetch)
    monkeypatch.setattr("data.recordings.folder.RHYTHMS", 8)
    monkeypatch.setattr("data.recordings.folder.CLIPS_PER_CAPTION", {"effect": 2, "strum": 1})
    monkeypatch.setattr("data.recordings.table.HELD_OUT_SHARE", 0.35)
    return recordings


def test_from_packages_to_a_folder_with_captions(tmp_path, table, wav, caplog):
    out = tmp_path / "out"
    command.main(out, packages=tmp_path / "debs")
    available = table[:-2]
    assert all((out / recording.path).read_bytes() for recording in available)
    assert (out / "sources/second/1400.wav").read_bytes() == wav(1400)
    assert (out / "copyright" / "first.txt").read_text() == "terms"
    assert "third: 1 of 1 recordings could not be had: Unable to locate package third" in caplog.text
    assert "--packages DIR" in caplog.text
    assert "shared sound" not in caplog.text + (out / "ATTRIBUTION.md").read_text()
    entries = list_entries(out)
    assert all(read_audio(entry.path).shape[0] == 2 and entry.read_metadata()["captions"] for entry in entries)
    groups = [json.loads(line)["group"] for line in (out / "manifest.jsonl").read_text().splitlines()]
    held_out = {recording for recording in available if recording.held_out}
    music = next(recording for recording in available if recording.kind == "music")
    assert groups.count("music") == (0 if music in held_out else 6)
    assert groups.count("effects") == sum(len(list_entries(out / f"{name}.jsonl")) for name in ["effects"])


def test_held_out_recordings_are_in_no_other_manifest(tmp_path, table):
    out = tmp_path / "out"
    command.main(out, packages=tmp_path / "debs")
    held_out = [recording for recording in table[:-2] if recording.held_out]
    assert held_out
    stems = {recording.file[:-4] for recording in held_out if recording.kind == "effect"}
    training, evaluation = (out / "manifest.jsonl").read_text(), (out / "held_out.jsonl").read_text()
    assert stems
    for stem in stems:
        assert f"first-{stem}-" not in training
        assert f"sound {stem[:3]}" in evaluation


@pytest.mark.usefixtures("table")
def test_a_second_run_makes_nothing_again(tmp_path):
    out = tmp_path / "out"
    command.main(out, packages=tmp_path / "debs")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("*.flac")}
    manifest = (out / "manifest.jsonl").read_bytes()
    next(iter(before)).unlink()
    (out / "sources/first/500.wav").write_bytes(b"damaged")
    command.main(out, packages=tmp_path / "debs")
    assert (out / "manifest.jsonl").read_bytes() == manifest
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob("*.flac")}
    assert [content for _, content in after.values()] == [after[path][1] for path in after]
    assert {path: value[1] for path, value in before.items()} == {path: value[1] for path, value in after.items()}
    assert sum(before[path][0] != after[path][0] for path in before) == 1
    assert (out / "sources/first/500.wav").read_bytes() != b"damaged"


def test_a_rhythm_of_other_recordings_is_another_clip(tmp_path, table, monkeypatch):
    """With another tier in the same folder, an old file must not stand under a new caption."""
    out = tmp_path / "out"
    command.main(out, packages=tmp_path / "debs")
    before = {path.name: path.read_bytes() for path in (out / "clips/strumming").iterdir()}
    monkeypatch.setattr(command, "read_table", lambda: [r for r in table if r.file != "400.wav"])
    command.main(out, packages=tmp_path / "debs")
    listed = {entry.path.name for entry in list_entries(out) if "strumming" in str(entry.path)}
    assert listed
    assert not listed & before.keys()


@pytest.mark.usefixtures("table")
def test_loose_files_serve_as_well(tmp_path, wav):
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "any name.wav").write_bytes(wav(500))
    (tmp_path / "loose" / "unknown.wav").write_bytes(wav(5_000))
    command.main(tmp_path / "out", packages=tmp_path / "loose")
    assert [path.name for path in (tmp_path / "out/sources").rglob("*.wav")] == ["500.wav"]


@pytest.mark.usefixtures("table")
def test_share_alike_comes_with_a_warning(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    command.main(tmp_path / "out", tier="share-alike", packages=tmp_path / "debs")
    assert "CC-BY-SA licence" in caplog.text
    assert "third: 2 of 2 recordings" in caplog.text


@pytest.mark.usefixtures("table")
def test_nothing_at_all_is_an_error(tmp_path):
    with pytest.raises(UserError, match="none of the 14 recordings"):
        command.main(tmp_path / "out")
    with pytest.raises(UserError, match="no such folder of packages"):
        command.main(tmp_path / "out", packages=tmp_path / "nowhere")
