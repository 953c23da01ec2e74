"""Random LoRA adapters as PEFT saves them, and the same merged into a transformers model."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
ALL = ATTENTION + MLP


def make(
    folder: Path,
    model: Any,
    *,
    modules: tuple[str, ...] = ALL,
    rank: int = 4,
    alpha: float = 8.0,
    rslora: bool = False,
    seed: int = 1,
    size: float = 0.1,
) -> Any:
    """Write an adapter for a model into `folder`; return the model with it merged in.

    Merged as PEFT does: W + scale · B A, where scale is alpha / r, or alpha / √r with rsLoRA.
    """
    generator = torch.Generator().manual_seed(seed)
    merged = copy.deepcopy(model)
    tensors = {}
    for name, linear in merged.named_modules():
        if name.rpartition(".")[2] not in modules or not isinstance(linear, torch.nn.Linear):
            continue
        outputs, inputs = linear.weight.shape
        a = size * torch.randn(rank, inputs, generator=generator)
        b = size * torch.randn(outputs, rank, generator=generator)
        tensors[f"base_model.model.{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{name}.lora_B.weight"] = b
        scale = alpha / (rank**0.5 if rslora else rank)
        with torch.no_grad():
            linear.weight += scale * (b.double() @ a.double()).to(linear.weight.dtype)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config(folder, r=rank, lora_alpha=alpha, use_rslora=rslora, target_modules=list(modules))
    return merged


def config(folder: Path, **fields: Any) -> None:
    """Write `adapter_config.json` as PEFT does, with these fields in the place of others."""
    found: dict[str, Any] = {
        "alpha_pattern": {},
        "auto_mapping": None,
        "base_model_name_or_path": "somewhere/else",
        "bias": "none",
        "corda_config": None,
        "eva_config": None,
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layer_replication": None,
        "layers_pattern": None,
        "layers_to_transform": None,
        "loftq_config": {},
        "lora_bias": False,
        "lora_dropout": 0.05,
        "megatron_config": None,
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "peft_type": "LORA",
        "qalora_group_size": 16,
        "r": 4,
        "rank_pattern": {},
        "revision": None,
        "lora_alpha": 8,
        "target_modules": list(ALL),
        "target_parameters": None,
        "task_type": "CAUSAL_LM",
        "trainable_token_indices": None,
        "use_dora": False,
        "use_qalora": False,
        "use_rslora": False,
    }
    (folder / "adapter_config.json").write_text(json.dumps({**found, **fields}))
