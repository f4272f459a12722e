"""Networks that embed sound, each with the preprocessing of its publication, behind one protocol (`embedder`)."""

from infer.embedders.embedder import Embedded, Embedder, Preprocessing
from infer.embedders.load import EMBEDDERS, load_embedder

__all__ = ["EMBEDDERS", "Embedded", "Embedder", "Preprocessing", "load_embedder"]
