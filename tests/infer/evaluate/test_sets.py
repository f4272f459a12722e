"""Manifests as published, folders, statistics, and embeddings kept on disk."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data.audio_writer import write_audio
from infer.embedders import load_embedder
from infer.evaluate.embeddings import embed_clips
from infer.evaluate.sets import corpus_items, read_folder, read_items, read_statistics, write_statistics
from infer.metrics.distances import fit_gaussian, gaussian_distance


def write_sounds(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(names):
        noise = torch.randn(2, 22_050, generator=torch.Generator().manual_seed(seed))
        write_audio(folder / name, 0.1 * noise * (1 + seed))


MUSICCAPS = (
    "ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id,is_balanced_subset,is_audioset_eval",
    '-0Gj8-vB1q4,30,40,"/m/0140xf,/m/02cjck","[\'low quality\']","A song, slow",4,False,True',
)
SONG_DESCRIBER = (
    "caption_id,track_id,caption,is_valid_subset,familiarity,artist_id,album_id,path,duration",
    "1063,1004034,A twisty track,True,0,2003,2,34/1004034.mp3,227",
)
AUDIOCAPS = ("audiocap_id,youtube_id,start_time,caption", "91139,r1nicOVtvkQ,130,A woman talks")


@pytest.mark.parametrize(
    ("lines", "file", "name", "caption"),
    [
        (AUDIOCAPS, "Yr1nicOVtvkQ.wav", "91139", "A woman talks"),
        (MUSICCAPS, "-0Gj8-vB1q4.wav", "-0Gj8-vB1q4", "A song, slow"),
        (SONG_DESCRIBER, "1004034.wav", "1063", "A twisty track"),
        (("path,prompt", "some/where/rain.wav,Heavy rain"), "rain.wav", "rain", "Heavy rain"),
    ],
    ids=["audiocaps", "musiccaps", "song describer", "other"],
)
def test_manifests(tmp_path: Path, lines: tuple[str, str], file: str, name: str, caption: str):
    manifest = tmp_path / "set.csv"
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_sounds(tmp_path / "audio", file, "other.wav")
    (item,) = read_items(manifest, tmp_path / "audio")
    assert (item.name, item.caption) == (name, caption)
    assert item.path == tmp_path / "audio" / file
    assert read_items(manifest)[0].path is None


def test_lists_and_folders(tmp_path: Path):
    (tmp_path / "prompts.txt").write_text("rain\n\n wind \n")
    assert [item.caption for item in read_items(tmp_path / "prompts.txt")] == ["rain", "wind"]
    write_sounds(tmp_path / "audio", "b.wav", "a.flac")
    assert [item.name for item in read_folder(tmp_path / "audio")] == ["a", "b"]
    (tmp_path / "bad.csv").write_text("one,two\n1,2\n")
    with pytest.raises(ValueError, match="expected those of AudioCaps"):
        read_items(tmp_path / "bad.csv")
    with pytest.raises(FileNotFoundError):
        read_items(tmp_path / "none.csv")
    write_sounds(tmp_path / "audio", "a.wav")
    with pytest.raises(ValueError, match="two clips of the name a"):
        read_folder(tmp_path / "audio")


def test_statistics_of_stable_audio_metrics(tmp_path: Path):
    rows = torch.randn(50, 4, dtype=torch.float64)
    np.savez(tmp_path / "theirs.npz", mu_ref=rows.mean(0).numpy(), sigma_ref=np.cov(rows.numpy(), rowvar=False))
    theirs = read_statistics(tmp_path / "theirs.npz")
    assert gaussian_distance(theirs, fit_gaussian(rows)) == pytest.approx(0, abs=1e-9)
    write_statistics(tmp_path / "ours.npz", fit_gaussian(rows))
    ours = read_statistics(tmp_path / "ours.npz")
    torch.testing.assert_close(ours.covariance, theirs.covariance)
    assert ours.num == 50
    np.savez(tmp_path / "bad.npz", something=np.ones(2))
    with pytest.raises(ValueError, match="expected mu_ref"):
        read_statistics(tmp_path / "bad.npz")
    np.savez(tmp_path / "bad.npz", mu=np.ones(2), sigma=np.ones((3, 3)))
    with pytest.raises(ValueError, match="a covariance of"):
        read_statistics(tmp_path / "bad.npz")


def test_corpus_items_are_written_once(tmp_path: Path):
    items = corpus_items(2, 2.0, tmp_path)
    assert all(item.caption and item.path and item.path.exists() for item in items)
    times = [item.path.stat().st_mtime_ns for item in items if item.path]
    again = corpus_items(2, 2.0, tmp_path)
    assert again == items
    assert [item.path.stat().st_mtime_ns for item in again if item.path] == times


def test_embeddings_are_kept_and_pooled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_sounds(tmp_path / "audio", "a.wav", "b.wav", "c.wav")
    paths = [item.path for item in read_folder(tmp_path / "audio") if item.path]
    embedder = load_embedder("mel", device="cpu")
    clips = embed_clips(embedder, paths, tmp_path)
    assert clips.windows().shape == (3, 208)
    np.testing.assert_allclose(clips.windows(), clips.means().numpy(), rtol=1e-6)
    np.testing.assert_array_equal(clips.take([2, 2]).windows(), clips.windows()[[2, 2]])
    monkeypatch.setattr(embedder, "network", None)  # from now on nothing can be embedded
    np.testing.assert_array_equal(embed_clips(embedder, paths[::-1], tmp_path).windows(), clips.windows()[::-1])
    with pytest.raises(ValueError, match="gives no logits"):
        clips.logits()
