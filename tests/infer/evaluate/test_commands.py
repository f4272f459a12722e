"""The other commands end to end on a tiny model and tiny judges with random weights."""

from pathlib import Path

import pytest
import torch

from data.audio_writer import write_audio
from data.cli import run
from infer.embedders import Embedder
from infer.embedders import load as loading
from infer.embedders.openl3 import PREPROCESSING as OPENL3
from infer.embedders.openl3 import OpenL3
from infer.embedders.panns import PREPROCESSING as PANNS
from infer.embedders.panns import Cnn14
from infer.embedders.passt import PREPROCESSING as PASST
from infer.embedders.passt import Passt, PasstConfig
from infer.embedders.vggish import PREPROCESSING as VGGISH
from infer.embedders.vggish import Vggish
from infer.evaluate import protocol, text, timing, vae
from infer.evaluate.results import Results

SMALL = PasstConfig(width=16, depth=1, num_heads=2, num_classes=7)


@pytest.fixture
def tiny_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network of the papers, tiny and random; agreement by hashing captions."""
    torch.manual_seed(0)

    def with_text(name: str, _: str, device: torch.device) -> Embedder:
        def embed(prompts: list[str]) -> torch.Tensor:
            return torch.stack([torch.randn(64, generator=torch.Generator().manual_seed(len(p))) for p in prompts])

        return Embedder(name, PANNS, Cnn14(width=2, num_classes=7), text=embed, device=device)

    judges = {
        "openl3": lambda _, d: Embedder("openl3", OPENL3, OpenL3(width=1), device=d),
        "passt": lambda _, d: Embedder("passt", PASST, Passt(SMALL), device=d),
        "panns": lambda _, d: Embedder("panns", PANNS, Cnn14(width=2, num_classes=7), device=d),
        "vggish": lambda _, d: Embedder("vggish", VGGISH, Vggish(width=1, hidden=4, out=3), device=d),
        "laion-clap": lambda w, d: with_text("laion-clap", w, d),
        "clap": lambda w, d: with_text("clap", w, d),
    }
    for name, load in judges.items():
        monkeypatch.setitem(loading.EMBEDDERS, name, load)


def options(tiny_folder: Path, tmp_path: Path) -> list[str]:
    making = ["--generation.model", str(tiny_folder), "--generation.num_steps", "2", "--generation.device", "cpu"]
    return [*making, "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache"), "--report_clips", "1"]


@pytest.mark.usefixtures("tiny_judges")
@pytest.mark.parametrize(
    ("name", "measures"),
    [
        ("stable-audio", {"FD openl3", "KAD openl3", "KL passt (generated || reference)", "CLAP score laion-clap"}),
        (
            "audioldm",
            {"FD panns", "FD vggish", "KL panns (reference || generated)", "IS panns"},
        ),
        ("own", {"FD mel", "FD clap", "CLAP score clap"}),
    ],
)
def test_protocols(name: str, measures: set[str], tiny_folder: Path, tmp_path: Path):
    argv = [name, "--corpus", "3", "--seconds", "1", *options(tiny_folder, tmp_path)]
    run(protocol.main, argv=argv, positionals=protocol.POSITIONALS)
    results = Results.load(tmp_path / "out")
    found = {score.measure: score for score in results.scores if score.subject == "generated"}
    assert measures <= set(found)
    assert all(score.value == score.value for score in found.values())
    assert (tmp_path / "out" / "report.html").exists()
    doubted = {note.split(":")[0] for note in results.notes if "not compared with published numbers" in note}
    assert doubted == set(protocol.PROTOCOLS[name].networks) & set(loading.UNVERIFIED)


@pytest.mark.usefixtures("tiny_judges")
def test_the_real_clips_themselves_are_at_no_distance(tiny_folder: Path, tmp_path: Path):
    first = ["stable-audio", "--corpus", "3", "--seconds", "1", *options(tiny_folder, tmp_path)]
    run(protocol.main, argv=first, positionals=protocol.POSITIONALS)
    (corpus,) = (tmp_path / "cache").glob("corpus-1s-*")
    argv = [*first, "--generated", str(corpus)]
    run(protocol.main, argv=argv, positionals=protocol.POSITIONALS)
    scores = {score.measure: score.value for score in Results.load(tmp_path / "out").scores}
    assert scores["FD openl3"] == pytest.approx(0, abs=1e-3)
    assert scores["KL passt (generated || reference)"] == pytest.approx(0, abs=1e-4)


def test_nothing_is_made_where_nobody_can_judge(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    argv = ["stable-audio", "--corpus", "2", "--weights.laion_clap", str(tmp_path), *options(tiny_folder, tmp_path)]
    with pytest.raises(SystemExit) as stop:
        run(protocol.main, argv=argv, positionals=protocol.POSITIONALS)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "none of the judging networks" in error
    assert "fetch torchopenl3" in error
    assert not (tmp_path / "cache" / "clips").exists()


def test_vae(tiny_folder: Path, tmp_path: Path):
    folders = ["--model", str(tiny_folder), "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    run(vae.main, argv=["--corpus", "4", "--seconds", "1", "--device", "cpu", "--report_clips", "1", *folders])
    results = Results.load(tmp_path / "out")
    scores = {(score.measure, score.subject): score.value for score in results.scores}
    assert scores["stft_distance", vae.CODED] > 0.5  # a random network
    assert len(list((tmp_path / "out" / "coded").glob("*.flac"))) == 4
    assert scores["FD mel", vae.CODED] > scores["FD mel", vae.REAL]
    assert any(name.startswith("vae") for name in results.weights)


def test_timing(tiny_folder: Path, tmp_path: Path):
    argv = ["--lengths", "2", "--seconds", "2", "--prompts", "[rain]", *options(tiny_folder, tmp_path)]
    run(timing.main, argv=argv)
    results = Results.load(tmp_path / "out")
    assert [clip["asked"] for clip in results.clips] == results.settings["lengths"] == [1.0, 2.0]
    assert (tmp_path / "out" / timing.FIGURE).stat().st_size > 1000
    with pytest.raises(ValueError, match="lengths must be at least 2"):
        timing.main(lengths=1)


def test_end_of_a_clip(tmp_path: Path):
    audio = torch.zeros(2, 88_200)
    audio[:, 30_000:44_100] = 0.1
    write_audio(tmp_path / "clip.wav", audio)
    assert timing.active_end(tmp_path / "clip.wav", -50.0) == pytest.approx(1.0, abs=0.03)


@pytest.mark.usefixtures("tiny_judges")
def test_text(tmp_path: Path):
    folders = ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    run(text.main, argv=["--corpus", "3", "--seconds", "1", "--device", "cpu", *folders])
    scores = {(score.measure, score.subject): score.value for score in Results.load(tmp_path / "out").scores}
    assert scores["R@5 of 3", "text to audio"] == 1.0
    assert 0 <= scores["R@1 of 3", "audio to text"] <= 1
