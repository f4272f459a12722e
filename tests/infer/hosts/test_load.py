"""A published model behind the command: found, described, played, saved and resumed."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from data.cli import run
from infer.fifo.__main__ import collect_cues, main
from infer.fifo.config import QueueOptions, StreamConfig
from infer.fifo.stream import EndlessStream
from infer.hosts.audioldm import AudioLDM
from infer.hosts.load import default_config, host_class, load_model
from infer.hosts.voiceldm import VoiceLDM
from models.errors import UserError
from models.texts import Spoken

pytest.importorskip("sentencepiece")
from tests.infer.hosts.tiny_pipelines import write_audioldm, write_voiceldm

SMALL = ["--queue.context_frames", "8", "--queue.num_chunks", "2", "--queue.steps_per_shift", "1"]


@pytest.fixture(scope="module")
def audioldm(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hosts") / "audioldm"
    write_audioldm(folder)
    return folder


@pytest.fixture(scope="module")
def voiceldm(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hosts") / "voiceldm"
    write_voiceldm(folder)
    return folder


def play(*options: str | Path) -> int:
    """Run the command in this process; returns its exit code."""
    arguments = list(map(str, options))
    try:
        run(main, default_config(arguments), collect_cues(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_models_are_told_apart(audioldm, voiceldm, tiny_folder):
    assert host_class(audioldm) is AudioLDM
    assert host_class(voiceldm) is VoiceLDM
    assert host_class(tiny_folder) is None


def test_a_pipeline_that_cannot_be_played_says_which_can(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(
        UserError, match=r"StableDiffusionPipeline, which cannot be played: expected .*AudioLDM2Pipeline"
    ):
        load_model(tmp_path, torch.device("cpu"))


def test_each_kind_has_settings_of_its_own(audioldm, voiceldm, tiny_folder):
    assert str(default_config(["--prompt", "rain", "--model", str(audioldm)])).endswith("hosts/audioldm.yaml")
    assert str(default_config([f"--model={voiceldm}"])).endswith("hosts/voiceldm.yaml")
    assert default_config(["--model", str(tiny_folder)]) is None
    assert default_config(["--prompt", "rain"]) is None


def test_the_command_plays_a_published_pipeline(audioldm, tmp_path, caplog):
    out = tmp_path / "rain.wav"
    assert play("--model", audioldm, "--prompt", "heavy rain", "--seconds", "1.5", "--out", out, *SMALL) == 0
    assert "AudioLDM, a denoiser of" in caplog.text
    sound, rate = soundfile.read(out)
    assert (rate, sound.shape) == (44_100, (66_150, 2))
    assert np.isfinite(sound).all()


def test_the_settings_are_printed(audioldm, capsys):
    assert play("--model", audioldm, "--print_config") == 0
    printed = capsys.readouterr().out
    assert "scale: 2.5" in printed
    assert "method: partitioned" in printed


def test_a_model_that_speaks_plays_words_and_cues(voiceldm, tmp_path):
    out = tmp_path / "voice.wav"
    words = ["--content", "the lazy dog", "--cue", "1", "a hall | the quick fox"]
    assert play("--model", voiceldm, "--prompt", "a street", *words, "--seconds", "2", "--out", out, *SMALL) == 0
    assert soundfile.info(out).frames == 88_200


def test_words_for_a_model_that_does_not_speak_are_refused(audioldm, tmp_path, capsys):
    out = tmp_path / "a.wav"
    assert play("--model", audioldm, "--prompt", "rain", "--content", "words", "--out", out, *SMALL) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: this model does not speak: leave out --content"


@pytest.mark.parametrize(
    "options", [[], ["--method", "infinite-audio", "--sampling.focus", "last"]], ids=["own", "paper"]
)
def test_a_resumed_stream_is_what_would_have_come(audioldm, tmp_path, options):
    common = ["--model", audioldm]
    start = ["--prompt", "rain", "--cue", "0.6", "wind", *SMALL, *options]
    whole, first, second, state = (tmp_path / name for name in ("whole.wav", "a.wav", "b.wav", "state.pt"))
    for options in (
        [*common, *start, "--seconds", "2", "--out", whole],
        [*common, *start, "--seconds", "1", "--out", first, "--save_state", state],
        [*common, "--resume_state", state, "--seconds", "1", "--out", second],
    ):
        assert play(*options) == 0
    joined = np.concatenate((soundfile.read(first)[0], soundfile.read(second)[0]))
    expected = soundfile.read(whole)[0]
    assert np.abs(joined - expected)[:-1000].max() < 1e-3, "but for the fade at the end"


def test_streams_of_a_batch_sound_as_each_does_alone(voiceldm):
    host = load_model(voiceldm, torch.device("cpu"))
    config = StreamConfig(queue=QueueOptions(context_frames=8, num_chunks=2, steps_per_shift=1))
    scenes = [Spoken("a hall", "the dog"), Spoken("a street", "the dog")]
    both = EndlessStream(host, scenes, config, seeds=[0, 1]).next_latents()
    for index, scene in enumerate(scenes):
        alone = EndlessStream(host, [scene], config, seeds=[index]).next_latents()
        difference = (both[index] - alone[0]).abs().max()
        assert difference < 1e-3 * alone.abs().max()
