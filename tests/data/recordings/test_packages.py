"""Packages come through the machine's clients, here a stand-in for apt-get."""

import os

import pytest

from data.recordings import packages, table
from data.recordings.packages import PackageError, Packages

APT_GET = """#!/bin/sh
echo "$@" >> {log}
for last; do :; done
case "$*" in
*update*) exit 0 ;;
*renamed*|*good*) echo content > $last.deb ;;
*) echo "E: Unable to locate package $last" >&2; exit 100 ;;
esac
"""


@pytest.fixture
def log(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "apt-get"
    program.write_text(APT_GET.format(log=tmp_path / "log"))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "log"


def test_apt_gets_a_state_of_its_own(tmp_path, log):
    fetcher = Packages(tmp_path / "packages")
    assert fetcher.fetch("good").read_text() == "content\n"
    assert fetcher.fetch("good-2").name == "good-2.deb"
    calls = log.read_text().splitlines()
    assert [call.split()[8] for call in calls] == ["update", "download", "download"]
    assert all(f"Dir::State={(tmp_path / 'packages').resolve()}" in call for call in calls)


def test_other_names_are_tried(tmp_path, log, monkeypatch):
    monkeypatch.setitem(table.ALTERNATIVES, "gone", ("gone-too", "renamed"))
    assert Packages(tmp_path / "packages").fetch("gone").name == "renamed.deb"
    assert len(log.read_text().splitlines()) == 4


@pytest.mark.usefixtures("log")
def test_what_cannot_be_had_is_said(tmp_path):
    with pytest.raises(PackageError, match="Unable to locate package gone"):
        Packages(tmp_path / "packages").fetch("gone")


def test_a_machine_without_apt(tmp_path, monkeypatch):
    monkeypatch.setattr(packages.shutil, "which", lambda _: None)
    with pytest.raises(PackageError, match="no apt-get"):
        Packages(tmp_path / "packages").fetch("good")
