"""The training loop.

Batches of like length; the output layer is computed only where a reply is trained on; the loss is
normalised by the global number of target tokens of a step, also under gradient accumulation; the
learning rate is a function of the step alone. A checkpoint holds everything that the rest of the run
depends on, so a killed training resumes to the same student.
"""

from __future__ import annotations

import copy
import ctypes
import gc
import json
import math
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distiller.errors import TrainingError
from distiller.export.gguf_file import ROUNDED_TO
from distiller.job import Hyperparameters
from distiller.progress import Progress
from distiller.schema import Conversation
from distiller.student import KEPT_TOKENS, kept_tokens
from distiller.training import losses
from distiller.training.adapters import ADAPTER, save_adapter, with_adapters
from distiller.training.rounding import rounded
from distiller.training.schedule import learning_rate_at, length_grouped_batches
from distiller.training.signals import LiveTeacher, output_logits
from distiller.training.tokenize import IGNORE, Example, tokenize_all

if TYPE_CHECKING:
    import torch

CHECKPOINT_EVERY_S = 60.0
SHOW_EVERY_S = 5.0


@dataclass(frozen=True)
class TrainingData:
    """Conversations as the student sees them; their assistant messages are what it learns to say.

    With `teacher`, a folder of weights, its logits are a signal too; `teacher_views` holds by id each conversation as
    the teacher saw it, with the same replies.
    """

    training: Sequence[Conversation]
    validation: Sequence[Conversation]
    teacher: str | None = None
    teacher_views: Mapping[str, Conversation] = field(default_factory=dict)


@dataclass
class History:
    """One entry an epoch. Losses are means over target tokens."""

    train: list[dict[str, float]] = field(default_factory=list)
    validation: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = -1
    tokens: int = 0
    seconds: float = 0.0


@dataclass
class _Place:
    """How far the training has come."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0
    #: Of the loss that was shown last: what came since is the next point of its curve.
    shown_sum: float = 0.0
    shown_count: int = 0


def forget_checkpoint(folder: Path) -> None:
    """Once the result is recorded elsewhere."""
    folder.with_name(f".{folder.name}.checkpoint").unlink(missing_ok=True)


def train(
    start: Path,
    folder: Path,
    data: TrainingData,
    settings: Hyperparameters,
    *,
    precision: str,
    seed: int,
    progress: Progress,
    label: str,
) -> History:
    """Trains the model in `start` and leaves the best epoch's in `folder`. Resumes from `folder`'s checkpoint.

    Raises TrainingError for data without targets, vocabularies that do not match, and a loss that is not finite.
    """
    try:
        return _Trainer(start, folder, data, settings, precision, seed).run(progress, label)
    finally:
        # Model, gradients and optimizer hang in cycles; the next stage needs their memory now.
        gc.collect()
        _give_back_memory()


class _Trainer:
    def __init__(
        self, start: Path, folder: Path, data: TrainingData, settings: Hyperparameters, precision: str, seed: int
    ) -> None:
        import torch
        from accelerate import Accelerator
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from distiller.chat.transformers_local import choose_device, choose_dtype

        torch.manual_seed(seed)
        self.settings, self.seed, self.folder = settings, seed, folder
        self.start = start
        self.checkpoint = folder.with_name(f".{folder.name}.checkpoint")
        self.best = folder.with_name(f".{folder.name}.best")
        mixed = choose_dtype(precision, choose_device()) == torch.bfloat16
        self.accelerator = Accelerator(mixed_precision="bf16" if mixed else "no")
        self.tokenizer = AutoTokenizer.from_pretrained(start)
        self.examples = {
            "train": tokenize_all(data.training, self.tokenizer, settings.max_length),
            "validation": tokenize_all(data.validation, self.tokenizer, settings.max_length),
        }
        model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
        model.config.use_cache = False
        self.views = data.teacher_views
        self.teacher: LiveTeacher | None = None
        if data.teacher is not None:
            self.teacher = LiveTeacher(data.teacher, self.tokenizer, kept_tokens(start), precision)
            self.divergence = losses.DIVERGENCES[settings.loss](settings.jsd_beta, settings.skew_alpha)
        if settings.lora_rank is not None:
            model = with_adapters(model, settings.lora_rank)
        trainable = [p for p in model.parameters() if p.requires_grad]
        matrices = [p for p in trainable if p.ndim >= 2]
        vectors = [p for p in trainable if p.ndim < 2]
        optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": settings.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
            betas=(0.9, 0.95),
            fused=True,  # in place: foreach would hold copies of all weights
        )
        self.model, self.optimizer = self.accelerator.prepare(_at_targets(model), optimizer)
        self.history, self.place = History(), _Place()

    @property
    def plain_model(self) -> Any:
        return self.accelerator.unwrap_model(self.model).model

    def run(self, progress: Progress, label: str) -> History:
        settings = self.settings
        self._resume()
        lengths = [len(example.ids) for example in self.examples["train"]]
        steps_an_epoch = math.ceil(len(lengths) / settings.batch_size)
        total = steps_an_epoch * settings.num_epochs
        targets = sum(example.target_tokens for example in self.examples["train"]) * settings.num_epochs
        saved_at = shown_at = time.monotonic()
        with progress.track(label, targets, "tokens") as tracker:
            tracker.advance(self.history.tokens)
            while self.place.epoch < settings.num_epochs and not self._should_stop():
                epoch = self.place.epoch
                batches = length_grouped_batches(lengths, settings.batch_size, self.seed * 1_000_003 + epoch)
                for k in range(self.place.step_in_epoch, len(batches)):
                    began = time.perf_counter()
                    rate = learning_rate_at(self.place.step, total, settings.learning_rate, settings.warmup_ratio)
                    count = self._step([self.examples["train"][i] for i in batches[k]], rate)
                    self.history.seconds += time.perf_counter() - began
                    self.history.tokens += count
                    self.place.step += 1
                    self.place.step_in_epoch = k + 1
                    tracker.advance(count)
                    if time.monotonic() - shown_at > SHOW_EVERY_S:
                        self._show(progress, label)
                        shown_at = time.monotonic()
                    if time.monotonic() - saved_at > CHECKPOINT_EVERY_S:
                        self._save()
                        saved_at = time.monotonic()
                self._end_epoch(progress, label)
                self._save()
                saved_at = time.monotonic()
        self._finish()
        return self.history

    def _show(self, progress: Progress, label: str) -> None:
        """The mean loss since the last time: a curve within the epoch."""
        place = self.place
        total, count = self._total(place.sums) - place.shown_sum, place.count - place.shown_count
        place.shown_sum, place.shown_count = self._total(place.sums), place.count
        progress.event("loss", label=label, step=place.step, loss=total / count)

    def _should_stop(self) -> bool:
        done = len(self.history.validation)
        return done > 0 and done - 1 - self.history.best_epoch >= self.settings.early_stopping_patience

    def _step(self, batch: list[Example], rate: float) -> int:
        """One optimizer step. The gradients of its parts are summed; the division by the count is done once."""
        import torch

        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        count = sum(example.target_tokens for example in batch)
        mine = batch[rank::world] or batch[:1]
        weight = 1.0 if batch[rank::world] else 0.0  # a process without work still takes part in the exchange
        parts = min(self.settings.gradient_accumulation_steps, len(mine))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with rounded(self.plain_model, self.settings.quantization):
            for part in range(parts):
                sums = self._losses(mine[part::parts])
                loss = weight * self._total(sums) / count
                if not torch.isfinite(loss):
                    raise TrainingError(
                        f"The loss became {loss.item()} at step {self.place.step} (epoch {self.place.epoch + 1}). "
                        f"Lower hyperparameters.learning_rate (now {self.settings.learning_rate:g}) and start again."
                    )
                # Averaging over processes is undone, so that every target token weighs the same.
                self.accelerator.backward(loss * world)
                for name, value in sums.items():
                    self.place.sums[name] = self.place.sums.get(name, 0.0) + float(value.detach())
        self.place.count += count
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        _give_back_memory()
        return count

    def _losses(self, batch: Sequence[Example]) -> dict[str, torch.Tensor]:
        """Sums over the target tokens of the batch, by name."""
        import torch

        longest = max(len(example.ids) for example in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        labels = torch.full_like(ids, IGNORE)
        for row, example in enumerate(batch):
            ids[row, : len(example.ids)] = torch.tensor(example.ids)
            mask[row, : len(example.ids)] = 1
            labels[row, : len(example.ids)] = torch.tensor(example.labels)
        device = self.accelerator.device
        labels = labels[:, 1:]
        targets = labels != IGNORE  # position i predicts the token at i + 1
        with self.accelerator.autocast():
            logits = self.model(ids.to(device), mask.to(device), targets.to(device)).float()
        chosen = labels[targets].to(device)
        sums = {"ce": losses.cross_entropy(logits, chosen)}
        if self.teacher is not None:
            signal = torch.cat([self.teacher.log_probs(self.views[e.id], e) for e in batch]).to(device)
            # Some models pad their output beyond the tokenizer; the padding has no counterpart.
            common = logits[:, : signal.shape[-1]]
            sums[self.settings.loss] = losses.divergence_loss(
                self.divergence, common, signal, chosen, self.settings.temperature
            )
        return sums

    def _total(self, sums: dict[str, Any]) -> Any:
        weight = self.settings.kd_weight
        loss = self.settings.loss
        return (1 - weight) * sums["ce"] + weight * sums[loss] if loss in sums else sums["ce"]

    def _end_epoch(self, progress: Progress, label: str) -> None:
        import torch

        self.model.eval()
        sums: dict[str, float] = {}
        examples = sorted(self.examples["validation"], key=lambda example: len(example.ids))
        with torch.no_grad(), rounded(self.plain_model, self.settings.quantization):
            for start in range(0, len(examples), self.settings.batch_size):
                for name, value in self._losses(examples[start : start + self.settings.batch_size]).items():
                    sums[name] = sums.get(name, 0.0) + float(value)
        self.model.train()
        count = sum(example.target_tokens for example in examples)
        means = {name: value / count for name, value in sums.items()}
        means["loss"] = self._total(means)
        if not math.isfinite(means["loss"]):
            raise TrainingError(
                f"The validation loss is {means['loss']} after epoch {self.place.epoch + 1}. "
                f"Lower hyperparameters.learning_rate (now {self.settings.learning_rate:g}) and start again."
            )
        seen = {name: value / max(1, self.place.count) for name, value in self.place.sums.items()}
        seen["loss"] = self._total(seen)
        best = min((entry["loss"] for entry in self.history.validation), default=math.inf)
        self.history.train.append(seen)
        self.history.validation.append(means)
        if means["loss"] < best:
            self.history.best_epoch = self.place.epoch
            self._save_model(self.best)
        progress.event(
            "epoch", label=label, epoch=self.place.epoch + 1, step=self.place.step, train=seen, validation=means
        )
        self.place = _Place(epoch=self.place.epoch + 1, step=self.place.step)

    def _save_model(self, folder: Path) -> None:
        """Whole or not at all: in bfloat16; rounded weights as they were trained, in float32, which holds them exactly."""
        import torch

        if not self.accelerator.is_main_process:
            return
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        model = self.plain_model
        if self.settings.lora_rank is not None:
            save_adapter(model, partial / ADAPTER)
            model = copy.deepcopy(model).merge_and_unload()
        # A tied output layer is the embedding itself: cast, it would be saved a second time.
        tied = set(getattr(model, "all_tied_weights_keys", None) or {})
        quant = self.settings.quantization
        dtype = torch.bfloat16 if quant is None else torch.float32
        model.config.use_cache, model.config.dtype = True, dtype
        if quant is not None:
            setattr(model.config, ROUNDED_TO, quant)
        with rounded(model, quant):
            state = {k: v.to(dtype) for k, v in model.state_dict().items() if k not in tied}
            model.save_pretrained(partial, state_dict=state)
        model.config.use_cache = False
        self.tokenizer.save_pretrained(partial)
        if (self.start / KEPT_TOKENS).exists():
            shutil.copy(self.start / KEPT_TOKENS, partial / KEPT_TOKENS)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)

    def _save(self) -> None:
        import torch

        if not self.accelerator.is_main_process:
            return
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(
            {
                "model": self._trained_state(),
                "optimizer": self.optimizer.state_dict(),
                "history": json.dumps(asdict(self.history)),
                "place": json.dumps(asdict(self.place)),
            },
            partial,
        )
        partial.replace(self.checkpoint)

    def _trained_state(self) -> dict[str, torch.Tensor]:
        """What training changes: with adapters, these alone."""
        state = self.plain_model.state_dict()
        return {k: v for k, v in state.items() if self.settings.lora_rank is None or "lora_" in k}

    def _resume(self) -> None:
        import torch

        if not self.checkpoint.exists():
            return
        saved = torch.load(self.checkpoint, weights_only=True, map_location="cpu")
        self.plain_model.load_state_dict(saved["model"], strict=self.settings.lora_rank is None)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.history = History(**json.loads(saved["history"]))
        self.place = _Place(**json.loads(saved["place"]))

    def _finish(self) -> None:
        # Without a best one there, it was moved already, before the process was killed.
        if self.accelerator.is_main_process and self.best.exists():
            shutil.rmtree(self.folder, ignore_errors=True)
            self.best.rename(self.folder)
        self.accelerator.wait_for_everyone()


def _give_back_memory() -> None:
    """Returns free blocks to the system. Batches of ever new lengths leave glibc's heap full of holes, which would
    grow by gigabytes in an epoch."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _at_targets(model: Any) -> Any:
    """A module whose forward gives logits at the target positions alone.

    ids, mask (batch, length), targets (batch, length − 1) boolean → (targets.sum(), vocabulary).
    """
    import torch

    class AtTargets(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor, mask: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            causal = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
            hidden = causal.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
            return output_logits(causal, hidden[:, :-1][targets])

    return AtTargets()
