from pathlib import Path

import pytest
import torch

from infer.guidance import guide
from infer.hosts.voiceldm import VoiceLDM, read_published
from models.errors import UserError
from models.texts import Spoken

pytest.importorskip("diffusers")
pytest.importorskip("sentencepiece")
from tests.infer.hosts.tiny_pipelines import write_voiceldm

NOWHERE = (None, None)
SCENE = Spoken("a man in a hall", "the lazy dog")


@pytest.fixture(scope="module")
def networks_and_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts") / "voiceldm"
    return write_voiceldm(folder), folder


@pytest.fixture(scope="module")
def host(networks_and_folder) -> VoiceLDM:
    return VoiceLDM.load(networks_and_folder[1])


def test_the_file_is_loaded_key_for_key(networks_and_folder, host):
    networks, _ = networks_and_folder
    for name, part in (("unet", host.unet), ("durator", host.durator), ("text_encoder.encoder", host.content_encoder)):
        state, expected = part.state_dict(), networks[name].state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], expected[key]) for key in state), name


@torch.no_grad()
def test_dual_guidance_is_the_papers(networks_and_folder, host):
    """n1 + w_d (n2 - n4) + w_c (n3 - n4) of the unmodified U-Net, in eps, turned into v."""
    networks, _ = networks_and_folder
    x = torch.randn(1, 8, 16, 16)
    described, undescribed = host.vector(SCENE.description), host.vector("")
    spoken, silent = host.contents(SCENE.content)
    eps = networks["unet"](
        x.expand(4, -1, -1, -1),
        torch.tensor(300),
        encoder_hidden_states=torch.cat((spoken, silent, spoken, silent)),
        class_labels=torch.cat((described, described, undescribed, undescribed)),
    ).sample
    n1, n2, n3, n4 = eps.split(1)
    expected = n1 + 7 * (n2 - n4) + 5 * (n3 - n4)
    t = host.clock.t_of_timestep(torch.tensor([300.0])).float().expand(1, 16)
    latents = x.transpose(2, 3).flatten(1, 2)
    weighted = host.rows(SCENE, NOWHERE, 7.0, 5.0)
    rows = [host.network(latents, t, row) for row, _ in weighted]
    null = host.network(latents, t, host._row(undescribed, silent))
    v = guide(rows, null, [weight for _, weight in weighted])
    alpha, sigma = (torch.pi / 2 * t[0, 0]).cos(), (torch.pi / 2 * t[0, 0]).sin()
    expected = (expected.transpose(2, 3).flatten(1, 2) - sigma * latents) / alpha
    torch.testing.assert_close(v, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_rows_of_other_lengths_are_padded_as_in_training(host):
    short, long = host.contents("dog")[0], host.contents("the quick brown fox jumps")[0]
    vector = host.vector("a hall")
    joined = host._row(vector, short).cat(host._row(vector, long)).tensors["encoder_hidden_states"]
    assert joined.shape[1] == long.shape[1]
    torch.testing.assert_close(joined[0, short.shape[1]], host.durator.output.bias)


def test_a_prompt_without_words_says_none(host):
    spoken = host.rows("a hall", NOWHERE, 7.0, 5.0)[0][0].tensors["encoder_hidden_states"]
    assert torch.equal(spoken, host.contents("_")[0])


def test_what_is_missing_is_listed(tmp_path: Path):
    (tmp_path / "voiceldm-m.ckpt").touch()
    with pytest.raises(UserError, match=r"must hold .*audioldm-m-full.*clap-htsat-unfused.*speecht5_tts"):
        read_published(tmp_path)


def test_another_file_is_refused(networks_and_folder, tmp_path: Path):
    _, folder = networks_and_folder
    for part in ("audioldm-m-full", "clap-htsat-unfused", "speecht5_tts"):
        (tmp_path / part).symlink_to(folder / part)
    torch.save({"model.weight": torch.zeros(2)}, tmp_path / "voiceldm-m.ckpt")
    with pytest.raises(UserError, match="holds no VoiceLDM"):
        read_published(tmp_path)
    (tmp_path / "voiceldm-m.ckpt").write_bytes(b"\0" * 100)
    with pytest.raises(UserError, match="download it again"):
        read_published(tmp_path)
