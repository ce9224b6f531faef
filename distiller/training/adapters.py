"""Low-rank adapters (LoRA): put on a model, and saved without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: Folder in a trained model's, where only adapters were trained.
ADAPTER = "adapter"


def with_adapters(model: Any, rank: int) -> Any:
    """Low-rank adapters on every linear layer of the decoder (Hu et al. 2021, arXiv:2106.09685)."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def save_adapter(model: Any, folder: Path) -> None:
    """The adapters alone, in bfloat16, as peft loads them."""
    import torch
    from peft import get_peft_model_state_dict

    state = {k: v.to(torch.bfloat16) for k, v in get_peft_model_state_dict(model).items()}
    model.save_pretrained(folder, state_dict=state)
