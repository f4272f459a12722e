"""The recipes of configs/*/train.sh: tiny's runs, and the others' commands are those that the programs take."""

import importlib
import os
import subprocess
from pathlib import Path

import jsonargparse
import pytest

from models.text_to_audio import TextToAudio
from tests.train.conftest import CONFIGS as TINY

ROOT = TINY.parents[1]


def recipe(scale: str, folder: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"RUN": str(folder), "OMP_NUM_THREADS": "1"} | variables
    command = ["bash", str(ROOT / f"configs/{scale}/train.sh")]
    # From another folder: a recipe finds the repository by itself.
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder.parent, check=False)


def test_the_tiny_recipe_makes_a_model_and_leaves_out_what_is_done(tmp_path: Path):
    run = tmp_path / "run"
    done = recipe("tiny", run)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line for line in done.stdout.splitlines() if line.startswith("==")] == [
        "== vae", "== clap", "== latents", "== diffusion", "== model"
    ]  # fmt: skip
    assert TextToAudio.load(run / "model").config.window_frames == 32
    (run / "diffusion.done").unlink()  # as if it had been stopped: it goes on, and is at its end
    again = recipe("tiny", run)
    assert again.returncode == 0, again.stderr[-2000:]
    assert [line for line in again.stdout.splitlines() if line.startswith("==")] == ["== diffusion"]


def stub(folder: Path) -> Path:
    """Programs that write down how they were called and leave what a stage leaves; the folder they are in."""
    programs = folder / "programs"
    programs.mkdir()
    lines = [
        "#!/usr/bin/env bash",
        f'printf "%s\\t" "$@" >> "{folder}/calls"; echo >> "{folder}/calls"',
        'while [ $# -gt 0 ]; do if [ "$1" = --run ]; then mkdir -p "$2/export"; touch "$2/last.ckpt"; fi; shift; done',
    ]
    for name in ("python", "torchrun"):
        path = programs / name
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o755)
    return programs


STAGES = ["train.vae", "data.latent_statistics", "train.clap", "data.latents", "train.diffusion"]
RECIPES = [
    ("demo", {}, ["data.recordings", *STAGES]),
    ("demo", {"BUDGET": "gpu", "MIXTURE": "{synthetic: 1}"}, STAGES),
    ("stable_audio", {"DATA": "."}, STAGES),
    ("tiny", {}, [stage for stage in STAGES if stage != "data.latent_statistics"]),
]


@pytest.mark.parametrize(("scale", "variables", "modules"), RECIPES)
def test_every_command_of_a_recipe_is_one_that_there_is(
    scale: str, variables: dict[str, str], modules: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = f"{stub(tmp_path)}{os.pathsep}{os.environ['PATH']}"
    done = recipe(scale, tmp_path / "run", PATH=path, **variables)
    assert done.returncode == 0, done.stderr
    calls = [line.rstrip("\t").split("\t") for line in (tmp_path / "calls").read_text().splitlines()]
    assert [call[call.index("-m") + 1] for call in calls] == modules
    monkeypatch.chdir(ROOT)
    for call in calls:
        module, arguments = call[call.index("-m") + 1], call[call.index("-m") + 2 :]
        if module == "data.recordings":
            module += ".__main__"
        parser = jsonargparse.auto_parser(importlib.import_module(module).main, as_positional=False)
        parser.instantiate_classes(parser.parse_args(arguments))
    assert recipe(scale, tmp_path / "run", PATH=path, **variables).stdout == ""  # everything is done


def test_a_stage_that_fails_ends_the_recipe(tmp_path: Path):
    programs = stub(tmp_path)
    (programs / "python").write_text("#!/usr/bin/env bash\nexit 3\n")
    done = recipe("tiny", tmp_path / "run", PATH=f"{programs}{os.pathsep}{os.environ['PATH']}")
    assert done.returncode == 3
    assert not list((tmp_path / "run").glob("*.done"))


@pytest.mark.parametrize(("scale", "variables", "told"), [
    ("demo", {"BUDGET": "tpu"}, "BUDGET must be cpu or gpu, got tpu"),
    ("stable_audio", {}, "give a folder or manifest of captioned audio, as DATA=folder"),
])  # fmt: skip
def test_a_wrong_variable_is_one_line(scale: str, variables: dict[str, str], told: str, tmp_path: Path):
    done = recipe(scale, tmp_path / "run", **variables)
    assert done.returncode != 0
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
