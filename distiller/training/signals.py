"""Where the teacher's distributions come from: a live teacher, asked at the student's target positions.

The teacher reads each reply under the prompt that it had when it wrote it (with its policy text); the
student reads it without. Only the reply's tokens are shared, and they are matched one to one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distiller.chat.transformers_local import LOAD_ERRORS, choose_device, choose_dtype, render_messages
from distiller.errors import ModelError, TrainingError
from distiller.schema import Conversation, Message, history
from distiller.training.tokenize import Example

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
            self.model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=choose_dtype(precision, self.device))
        except LOAD_ERRORS as error:
            raise ModelError(f"{source}: cannot be loaded: {str(error).splitlines()[0]}") from None
        self.model.to(self.device).eval()
        ids = list(kept) if kept is not None else list(range(len(student_tokenizer)))
        self._check_vocabularies(student_tokenizer, ids)
        self.ids = ids
        self._index = torch.tensor(ids, device=self.device)
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

    def log_probs(self, conversation: Conversation, example: Example) -> torch.Tensor:
        """(target tokens of the example, student vocabulary), float16, over the student's tokens alone.

        Computed for one conversation at a time, so that the values do not depend on how batches are
        formed: a resumed training sees the same ones.
        """
        import torch

        if example.id in self._memory:
            return self._memory[example.id]
        sequences, starts, targets = self._sequences(conversation, example)
        longest = max(map(len, sequences))
        ids = torch.zeros(len(sequences), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        with torch.inference_mode():
            hidden = self.model.base_model(input_ids=ids.to(self.device), attention_mask=mask.to(self.device))
            chosen = torch.cat(
                [
                    hidden.last_hidden_state[row, start - 1 : start - 1 + count]
                    for row, (start, count) in enumerate(zip(starts, targets, strict=True))
                ]
            )
            logits = output_logits(self.model, chosen).float()[:, self._index]
            result = torch.log_softmax(logits, -1).to(torch.float16).cpu()
        result = result.clone()  # an ordinary tensor: inference tensors cannot enter autograd
        size = result.numel() * 2
        if self._memory_bytes + size <= MEMORY_BYTES:
            self._memory[example.id] = result
            self._memory_bytes += size
        return result

    def _sequences(self, conversation: Conversation, example: Example) -> tuple[list[list[int]], list[int], list[int]]:
        """For each trained turn: the teacher's ids up to the reply's end, where the reply starts, its length."""
        turns = conversation.turns()
        replies = [turn.reference or "" for turn in turns]
        systems = conversation.metadata.get("teacher_systems") or [conversation.system] * len(turns)
        sequences, starts, counts = [], [], []
        for turn, span in zip(turns, example.spans, strict=True):
            if span is None:
                continue
            messages = history(turns, replies, turn.index, systems[turn.index])
            prompt = render_messages(self.tokenizer, messages, add_generation_prompt=True)
            full = [*messages, Message(role="assistant", content=replies[turn.index])]
            reply = render_messages(self.tokenizer, full, add_generation_prompt=False)[len(prompt) :].rstrip()
            prompt_ids = self.tokenizer(prompt, add_special_tokens=False).input_ids
            reply_ids = self.tokenizer(reply, add_special_tokens=False).input_ids
            wanted = [self.ids[i] for i in example.ids[span[0] : span[1]]]
            if reply_ids != wanted:
                raise TrainingError(
                    f"{conversation.id}, turn {turn.index}: teacher and student split the reply differently, so their "
                    "distributions cannot be matched. Use hyperparameters.loss: sequence."
                )
            sequences.append(prompt_ids + reply_ids)
            starts.append(len(prompt_ids))
            counts.append(len(reply_ids))
        return sequences, starts, counts


def output_logits(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """(n, width) hidden states → (n, vocabulary) logits, with the soft cap of models that have one (Gemma)."""
    import torch

    logits = model.get_output_embeddings()(hidden)
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return torch.tanh(logits / cap) * cap if cap else logits
