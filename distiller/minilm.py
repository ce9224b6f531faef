"""all-MiniLM-L6-v2 in NumPy: what serves looks policy lines up without PyTorch.

PyTorch and sentence-transformers take seconds to import and hundreds of megabytes, for a model of six layers. Here
its file is mapped into memory, and of the token table, half of it, only the rows in use are read. Texts are packed end
to end: the linear layers see no padding, and attention is computed text by text.

Architecture: BERT (Devlin et al. 2019, arXiv:1810.04805), layer normalisation after each addition; the sentence
vector is the mean over its tokens, scaled to unit length (Reimers & Gurevych 2019, arXiv:1908.10084).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import numpy as np

from distiller.embedding import DEFAULT, Encoder, cannot_load, default_source

_FILES = ("config.json", "sentence_bert_config.json", "tokenizer.json", "model.safetensors")
#: Tokens in a batch. More is hardly faster, and takes memory: their feed-forward layer is four times as wide.
_BATCH_TOKENS = 256
_MAX_THREADS = 8


class MiniLM(Encoder):
    """May be asked from several threads; they are served one after another."""

    name = f"{DEFAULT} in NumPy"

    def __init__(self) -> None:
        """Raises ModelError where the model is neither installed nor on the Hub."""
        from threadpoolctl import ThreadpoolController
        from tokenizers import Tokenizer

        source = default_source()
        try:
            folder = _local_folder(source)
            config, sentence = (json.loads((folder / name).read_text("utf-8")) for name in _FILES[:2])
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self._weights = _Weights(folder / "model.safetensors")
        except Exception as error:  # the Hub's client and the tokenizer raise many types for: it is not there
            raise cannot_load(DEFAULT, source, error) from None
        self._layers: int = config["num_hidden_layers"]
        self._heads: int = config["num_attention_heads"]
        self._epsilon = np.float32(config["layer_norm_eps"])
        self._limit: int = sentence["max_seq_length"]
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        # From here on NumPy multiplies on the calling thread's core. Its BLAS would split every product over the cores and
        # wait for the slowest at each: where another process has one of them, that takes ten times as long. PyTorch
        # may have a BLAS too, which is left alone: NumPy's lies in numpy.libs/, on a Mac in numpy/.dylibs/.
        libraries = ThreadpoolController()
        paths = [library.filepath for library in libraries.lib_controllers]
        own = [path for path in paths if {"numpy", "numpy.libs"} & set(Path(path).parts[-3:-1])]
        libraries.select(filepath=own).limit(limits=1)
        self._lock = Lock()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        place: dict[str, int] = {}  # a text that comes twice is encoded once
        places = [place.setdefault(text, len(place)) for text in texts]
        batches = list(_batches([self._cut(ids) for ids in self._ids(list(place))]))
        if not batches:
            return np.empty((0, self._weights["embeddings.LayerNorm.bias"].size), np.float32)
        with self._lock:
            if len(batches) == 1:
                vectors = [self._forward(batches[0])]
            else:  # batches side by side, a core each
                with ThreadPoolExecutor(min(len(batches), _cores(), _MAX_THREADS)) as pool:
                    vectors = list(pool.map(self._forward, batches))
        return np.concatenate(vectors)[places]

    def truncated(self, texts: Sequence[str]) -> int:
        return sum(len(ids) > self._limit for ids in self._ids(texts))

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._tokenizer.encode(text).ids for text in texts]  # its encode_batch starts threads of its own

    def _cut(self, ids: list[int]) -> list[int]:
        """Beginning and [SEP]: what the model was trained on."""
        return ids if len(ids) <= self._limit else [*ids[: self._limit - 1], ids[-1]]

    def _forward(self, batch: Sequence[list[int]]) -> np.ndarray:
        """Token ids of n texts → (n, d), rows of unit length."""
        lengths = [len(ids) for ids in batch]
        ends = np.cumsum(lengths)
        spans = [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]
        positions = np.concatenate([np.arange(length) for length in lengths])
        # (tokens, d), all texts end to end
        x = self._weights.rows("embeddings.word_embeddings.weight", np.concatenate(batch))
        x += self._weights["embeddings.position_embeddings.weight"][positions]
        x += self._weights["embeddings.token_type_embeddings.weight"][0]
        x = self._normalised(x, "embeddings.LayerNorm")
        for layer in range(self._layers):
            name = f"encoder.layer.{layer}."
            x = self._normalised(
                x + self._attention(x, spans, name + "attention."), name + "attention.output.LayerNorm"
            )
            inner = _gelu(self._linear(x, name + "intermediate.dense"))  # (tokens, 4 d)
            x = self._normalised(x + self._linear(inner, name + "output.dense"), name + "output.LayerNorm")
        means = np.stack([x[span].mean(axis=0) for span in spans])
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def _attention(self, x: np.ndarray, spans: Sequence[slice], name: str) -> np.ndarray:
        """softmax(Q Kᵀ / √(d/heads)) V of each text by itself: (tokens, d) → (tokens, d)."""
        tokens, d = x.shape
        query, key, value = (
            self._linear(x, f"{name}self.{part}").reshape(tokens, self._heads, -1).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )  # (heads, tokens, d / heads) each
        query *= np.float32((d // self._heads) ** -0.5)
        mixed = np.empty_like(x)
        for span in spans:
            weights = query[:, span] @ key[:, span].transpose(0, 2, 1)  # (heads, length, length)
            weights -= weights.max(axis=-1, keepdims=True)
            np.exp(weights, out=weights)
            weights /= weights.sum(axis=-1, keepdims=True)
            mixed[span] = (weights @ value[:, span]).transpose(1, 0, 2).reshape(-1, d)
        return self._linear(mixed, name + "output.dense")

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self._weights[name + ".weight"].T + self._weights[name + ".bias"]

    def _normalised(self, x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(axis=1, keepdims=True)
        x /= np.sqrt((x * x).mean(axis=1, keepdims=True) + self._epsilon)
        return x * self._weights[name + ".weight"] + self._weights[name + ".bias"]


def _gelu(x: np.ndarray) -> np.ndarray:
    """x Φ(x), Φ the normal distribution's (Hendrycks & Gimpel 2016, arXiv:1606.08415), which NumPy lacks.

    Φ by formula 7.1.26 of Abramowitz & Stegun: 1 − Φ(|x|) ≈ ½ (a₁t + … + a₅t⁵) exp(−x²/2), t = 1 / (1 + p|x|/√2);
    its error is below 1e-7.
    """
    size = np.abs(x)
    t = 1 / (1 + np.float32(0.3275911 * 0.5**0.5) * size)
    tail = np.full_like(t, 1.061405429)
    for a in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        tail *= t
        tail += np.float32(a)
    tail *= t * np.exp(np.float32(-0.5) * size * size)
    return np.maximum(x, 0) - np.float32(0.5) * size * tail  # xΦ(x) = max(x, 0) − |x| (1 − Φ(|x|))


def _batches(texts: Sequence[list[int]]) -> Iterator[list[list[int]]]:
    """Texts in their order, in runs of at most `_BATCH_TOKENS` tokens; a longer text stands alone."""
    batch: list[list[int]] = []
    tokens = 0
    for ids in texts:
        if batch and tokens + len(ids) > _BATCH_TOKENS:
            yield batch
            batch, tokens = [], 0
        batch.append(ids)
        tokens += len(ids)
    if batch:
        yield batch


class _Weights:
    """A safetensors file: 8 bytes of length, a JSON header (name → type, shape, place), then the data.

    The library's own reader would copy all of it into memory.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        size = int.from_bytes(self._file.read(8), "little")
        header = json.loads(self._file.read(size))
        self._start = 8 + size
        self._entries = {name: entry for name, entry in header.items() if entry.get("dtype") == "F32"}
        data = np.asarray(np.memmap(path, np.uint8, mode="r", offset=self._start))
        self._views = {
            name: data[slice(*entry["data_offsets"])].view(np.float32).reshape(entry["shape"])
            for name, entry in self._entries.items()
        }

    def __getitem__(self, name: str) -> np.ndarray:
        return self._views[name]

    def rows(self, name: str, places: np.ndarray) -> np.ndarray:
        """(n,) → (n, d), a copy. Through the map, the system would put a row's neighbours in memory as well."""
        distinct, inverse = np.unique(places, return_inverse=True)
        first, size = self._start + self._entries[name]["data_offsets"][0], 4 * self._entries[name]["shape"][1]
        read = b"".join(os.pread(self._file.fileno(), size, first + size * int(place)) for place in distinct)
        return np.frombuffer(read, np.float32).reshape(len(distinct), -1)[inverse]


def _local_folder(source: str) -> Path:
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(source, allow_patterns=list(_FILES)))


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
