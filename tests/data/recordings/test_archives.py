"""Packages are read without being unpacked; what points outside of them is refused."""

import shutil
import subprocess

import pytest

from data.recordings import archives
from data.recordings.archives import read_members
from models.errors import UserError
from tests.data.recordings.conftest import ar_member, cat_bytes, debian_package, zip_bytes


@pytest.mark.parametrize("compression", ["xz", "gz"])
def test_sounds_and_copyright_of_a_debian_package(tmp_path, wav, compression):
    files = {"./usr/share/a.wav": wav(440), "./usr/share/doc/p/copyright": b"free", "./usr/bin/tool": b"no sound"}
    package = debian_package(tmp_path / "p.deb", files, compression)
    assert dict(read_members(package)) == {name: files[name] for name in list(files)[:2]}


def test_a_wheel_is_a_zip(tmp_path, wav):
    (tmp_path / "p.whl").write_bytes(zip_bytes({"p/a.ogg": wav(440), "p/code.py": b"pass"}))
    assert dict(read_members(tmp_path / "p.whl")) == {"p/a.ogg": wav(440)}


def test_archives_inside_a_package(tmp_path, wav):
    sounds = {'"Cow". By A/B. License: CC0': wav(200), "Horse": wav(300, seconds=0.1)}
    files = {"./music.pk3": zip_bytes({"music/a.wav": wav(440)}), "./x.cat": cat_bytes(sounds)}
    members = list(read_members(debian_package(tmp_path / "p.deb", files)))
    assert [content for _, content in members] == [wav(440), *sounds.values()]
    assert members[1][0] == './x.cat/"Cow". By A B. License: CC0.wav'


@pytest.mark.parametrize("name", ["../../etc/a.wav", "/etc/a.wav", "./usr/../../a.wav"])
def test_names_that_point_outside_are_refused(tmp_path, wav, name):
    package = debian_package(tmp_path / "p.deb", {name: wav(440)})
    with pytest.raises(UserError, match="points outside"):
        list(read_members(package))


def test_links_are_not_followed(tmp_path):
    content = subprocess.run(
        ["sh", "-c", "ln -s /etc/hostname a.wav && tar -cJ a.wav"], cwd=tmp_path, capture_output=True, check=True
    ).stdout
    (tmp_path / "p.deb").write_bytes(b"!<arch>\n" + ar_member("data.tar.xz", content))
    assert list(read_members(tmp_path / "p.deb")) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no archive", "expected an ar archive"),
        (b"!<arch>\n" + ar_member("debian-binary", b"2.0\n"), "has no data.tar"),
        (b"!<arch>\n" + ar_member("data.tar.xz", b"damaged"), "cannot read the package"),
    ],
)
def test_damaged_packages_are_named(tmp_path, content, message):
    (tmp_path / "p.deb").write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_members(tmp_path / "p.deb"))


def test_a_truncated_package_is_named(tmp_path, wav):
    package = debian_package(tmp_path / "p.deb", {"./a.wav": wav(440), "./b.wav": wav(550)})
    package.write_bytes(package.read_bytes()[:-600])
    with pytest.raises(UserError, match=r"cannot read the package .*p\.deb"):
        list(read_members(package))


def test_zstandard_needs_dpkg(tmp_path, monkeypatch):
    (tmp_path / "p.deb").write_bytes(b"!<arch>\n" + ar_member("data.tar.zst", b"anything"))
    monkeypatch.setattr(archives.shutil, "which", lambda _: None)
    with pytest.raises(UserError, match="install dpkg"):
        list(read_members(tmp_path / "p.deb"))


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb")
def test_zstandard_through_dpkg(tmp_path, wav):
    (tmp_path / "p/DEBIAN").mkdir(parents=True)
    (tmp_path / "p/DEBIAN/control").write_text(
        "Package: p\nVersion: 1\nArchitecture: all\nMaintainer: m\nDescription: d\n"
    )
    (tmp_path / "p/a.wav").write_bytes(wav(440))
    subprocess.run(["dpkg-deb", "-Zzstd", "--build", "p", "p.deb"], cwd=tmp_path, check=True, capture_output=True)
    assert b"data.tar.zst" in (tmp_path / "p.deb").read_bytes()
    assert [content for _, content in read_members(tmp_path / "p.deb")] == [wav(440)]
