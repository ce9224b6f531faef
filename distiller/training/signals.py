"""Where the teacher's distributions come from: a live teacher, asked at the student's target positions.

The teacher reads each reply under the prompt that it had when it wrote it, policy text included; the
student may read it without. Only the reply's tokens are shared, and they are matched one to one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distiller.chat.transformers_local import LOAD_ERRORS, choose_device, choose_dtype
from distiller.errors import ModelError, TrainingError
from distiller.schema import Conversation
from distiller.training.tokenize import Example, tokenize_conversation

if TYPE_CHECKING:
    import torch

#: Distributions kept in memory instead of being computed again each epoch.
MEMORY_BYTES = 1 << 30


class LiveTeacher:
    def __init__(self, source: str, student_tokenizer: Any, kept: Sequence[int] | None, precision: str) -> None:
        """`kept`: the student's id → teacher's id; None where the vocabularies are one.

        Raises TrainingError when the two vocabularies do not name the same tokens.
        """
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.device = choose_device()
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(source)
            dtype = choose_dtype(precision, self.device)
            self.model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
        except LOAD_ERRORS as error:
            raise ModelError(f"{source}: cannot be loaded: {str(error).splitlines()[0]}") from None
        self.model.eval().to(self.device)
        ids = list(kept) if kept is not None else list(range(len(student_tokenizer)))
        self._check_vocabularies(student_tokenizer, ids)
        self.ids = ids
        self._index = torch.tensor(ids, device=self.device)
        self.context = getattr(self.model.config.get_text_config(), "max_position_embeddings", 2048)
        self._memory: dict[str, torch.Tensor] = {}
        self._memory_bytes = 0

    def _check_vocabularies(self, student_tokenizer: Any, ids: Sequence[int]) -> None:
        mine = self.tokenizer.get_vocab()
        for token, index in student_tokenizer.get_vocab().items():
            if index >= len(ids) or mine.get(token) != ids[index]:
                raise TrainingError(
                    f"Teacher and student have different vocabularies (the student's token {token!r} is "
                    f"{mine.get(token)} for the teacher). Use hyperparameters.loss: sequence, or a student cut from "
                    "the teacher."
                )

    def log_probs(self, view: Conversation, example: Example) -> torch.Tensor:
        """(target tokens of the example, student vocabulary), float16, over the student's tokens alone.

        `view` is the conversation as the teacher saw it. One conversation at a time, so that the values do
        not depend on how batches are formed: a resumed training sees the same ones.
        """
        import torch

        if example.id in self._memory:
            return self._memory[example.id]
        mine = tokenize_conversation(view, self.tokenizer, self.context)
        positions: list[int] = []
        for turn, span in enumerate(example.spans):
            if span is None:
                continue
            my_span = mine.spans[turn]
            wanted = tuple(self.ids[i] for i in example.ids[slice(*span)])
            if my_span is None or mine.ids[slice(*my_span)] != wanted:
                raise TrainingError(
                    f"{view.id}, turn {turn}: teacher and student split the reply differently, so their "
                    "distributions cannot be matched. Use hyperparameters.loss: sequence."
                )
            positions += range(my_span[0] - 1, my_span[1] - 1)  # position i predicts the token at i + 1
        with torch.inference_mode():
            ids = torch.tensor([mine.ids], device=self.device)
            hidden = self.model.base_model(input_ids=ids).last_hidden_state[0, positions]
            logits = output_logits(self.model, hidden).float()[:, self._index]
            result = torch.log_softmax(logits, -1).to(torch.float16).cpu()
        result = result.clone()  # an ordinary tensor: inference tensors cannot enter autograd
        size = result.numel() * 2
        if self._memory_bytes + size <= MEMORY_BYTES:
            self._memory[example.id] = result
            self._memory_bytes += size
        return result


def output_logits(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """(n, width) hidden states → (n, vocabulary) logits, with the soft cap of models that have one (Gemma)."""
    import torch

    logits = model.get_output_embeddings()(hidden)
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return torch.tanh(logits / cap) * cap if cap else logits
