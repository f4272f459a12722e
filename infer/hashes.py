"""Hashes of weights, for the record of a result, and of source files, so that no cache outlives a change of code."""

import hashlib
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

NUM_DIGITS = 16
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".tar")


def file_hash(path: Path) -> str:
    """First 16 digits of the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()[:NUM_DIGITS]


def folder_hashes(folder: Path) -> dict[str, str]:
    """Hashes of a model's weights and of its config.json, by file name.

    Raises:
        FileNotFoundError: the folder holds no weights.
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix in WEIGHT_SUFFIXES or path.name == "config.json")
    if not paths:
        raise FileNotFoundError(f"no model in {folder}: expected a folder with config.json and safetensors")
    return {path.name: file_hash(path) for path in paths}


@lru_cache
def source_hash(*places: str, without: tuple[str, ...] = ()) -> str:
    """Hash of the source of modules and of all modules in packages, given as paths in the project.

    Coarse on purpose: another comment is another hash, so that nothing has to say what depends on what.

    Args:
        without: packages in them that are left out.

    Raises:
        FileNotFoundError: there is nothing at a place.
    """
    digest = hashlib.sha256()
    for place in places:
        found = [ROOT / place] if place.endswith(".py") else sorted((ROOT / place).rglob("*.py"))
        if not found:
            raise FileNotFoundError(f"no source in {place}")
        for path in found:
            name = path.relative_to(ROOT).as_posix()
            if place.endswith(".py") or not name.startswith(tuple(f"{package}/" for package in without)):
                digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:NUM_DIGITS]


def code_of_sound() -> str:
    """Hash of all source that generated sound depends on."""
    measuring = ("infer/evaluate", "infer/metrics", "infer/embedders", "infer/live")
    return source_hash("models", "infer", "infer/evaluate/methods.py", "data/audio_writer.py", without=measuring)
