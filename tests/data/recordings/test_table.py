"""The committed table: every line can be used, and nothing is in it that the licences do not bear."""

import re
from collections import Counter

import pytest

from data.recordings.attribution import LICENCE_NAMES, attribution
from data.recordings.folder import GROUPS
from data.recordings.rhythms import GROOVES, NOTES, TABLA, pool
from data.recordings.table import TIER_OF_LICENCE, read_table, up_to

TABLE = read_table()
DOUBTFUL = ("amen", "breakbeat", "drum_kit", "krank", "searchandrescue", "ri-li", "drascula")


def test_hashes_and_places_are_unique():
    assert len(TABLE) > 400
    assert all(re.fullmatch("[0-9a-f]{64}", recording.sha256) for recording in TABLE)
    for values in ([recording.sha256 for recording in TABLE], [recording.path for recording in TABLE]):
        assert [value for value, count in Counter(values).items() if count > 1] == []


def test_files_stay_below_the_output_folder():
    assert not [r.file for r in TABLE if r.file.startswith("/") or ".." in r.file or "\\" in r.file]


def test_licences_and_kinds_are_known():
    assert {recording.licence for recording in TABLE} <= set(TIER_OF_LICENCE) == set(LICENCE_NAMES)
    assert {recording.kind for recording in TABLE} <= set(GROUPS)


def test_captions_read_like_prompts():
    for recording in TABLE:
        for caption in recording.captions:
            assert 4 < len(caption) < 120, recording
            assert not re.search(r"_|  |^\s|\s$|\.$|[a-z]\d", caption), recording


def test_authors_are_named_where_the_licence_asks_for_it():
    assert [r.file for r in TABLE if r.tier in ("attribution", "share-alike") and not r.author] == []


@pytest.mark.parametrize("name", DOUBTFUL)
def test_doubtful_recordings_are_left_out(name):
    assert [r.path for r in TABLE if name in r.path.lower()] == []


def test_no_hosts_are_named():
    assert [r for r in TABLE if re.search(r"https?:|www\.|\.(com|org|net)\b", r.author + r.caption)] == []


def test_tiers_add_up():
    free, attributed = up_to(TABLE, "free"), up_to(TABLE, "attribution")
    assert {r.licence for r in free} <= {"public-domain", "CC0-1.0", "MIT"}
    assert set(free) < set(attributed) <= set(up_to(TABLE, "gpl")) == set(TABLE)
    assert not [r for r in attributed if "SA" in r.licence or "GPL" in r.licence]


def test_about_an_eighth_is_held_out():
    assert 0.09 < sum(r.held_out for r in TABLE) / len(TABLE) < 0.16


def test_roles_are_what_the_rhythms_ask_for():
    chords, kits = pool(TABLE, "strum"), pool(TABLE, "drum")
    assert all(chord.rsplit(" ", 1)[0] in NOTES and set(takes) == {"down", "up"} for chord, takes in chords.items())
    pieces = {piece for groove in GROOVES for piece in groove.parts}
    assert pieces <= set(kits["acoustic"]) | set(kits["electronic"])
    assert set(TABLA.parts) == set(kits["tabla"])


def test_attribution_names_every_file_under_its_licence():
    page = attribution(TABLE)
    sections = dict(re.findall(r"\n## (.*?)\n(.*?)(?=\n## |\Z)", page, re.DOTALL))
    for recording in TABLE:
        section = sections[LICENCE_NAMES[recording.licence]]
        assert recording.file in section
        assert recording.author in section
