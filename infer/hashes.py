"""Hashes of weight files, for the record of a result."""

import hashlib
from pathlib import Path

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
