"""Reads an adapter's matrices, checked against the model that they are for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from penstock_worker.lora.config import (
    CONFIG,
    MLP,
    MODULES,
    WEIGHTS,
    AdapterConfig,
    UnsupportedAdapter,
    read_adapter_config,
)
from penstock_worker.model.config import ModelConfig

_TENSOR: Final = re.compile(
    r"base_model\.model\.model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)\.lora_([AB])\.weight"
)


@dataclass(frozen=True)
class LowRank:
    """What is added to a linear layer: x Aᵀ Bᵀ, in float32."""

    a: Tensor
    """[rank, inputs]"""
    b: Tensor
    """[outputs, rank], with the adapter's scale in it."""


@dataclass(frozen=True)
class Adapter:
    """A fine-tune of the base model."""

    name: str
    layers: tuple[Mapping[str, LowRank], ...]
    """By layer of the model, by the linear layer's name: one of MODULES."""


def load_adapter(name: str, folder: Path, model: ModelConfig) -> Adapter:
    """Return the adapter in `folder`, to be served as `name`.

    Raises:
        UnsupportedAdapter: it is damaged, does not fit the model, or is not computed here.
    """
    if model.latent:
        raise UnsupportedAdapter(
            "adapters of models with latent attention (DeepSeek) are not computed here: merge it "
            "into the model and serve that"
        )
    config = read_adapter_config(folder)
    try:
        with safe_open(str(folder / WEIGHTS), framework="pt") as opened:
            return Adapter(name, _layers(opened, config, model))
    except (OSError, SafetensorError) as error:
        raise UnsupportedAdapter(f"{WEIGHTS} is not a safetensors file: {error}") from error


def module_shapes(model: ModelConfig) -> dict[str, tuple[int, int]]:
    """Return (outputs, inputs) of the linear layers that adapters may change."""
    hidden, inner = model.hidden_size, model.intermediate_size
    query, kv = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    shapes = (
        (query, hidden),
        (kv, hidden),
        (kv, hidden),
        (hidden, query),
        (inner, hidden),
        (inner, hidden),
        (hidden, inner),
    )
    return dict(zip(MODULES, shapes, strict=True))


def _layers(
    opened: Any, config: AdapterConfig, model: ModelConfig
) -> tuple[dict[str, LowRank], ...]:
    shapes = module_shapes(model)
    names = {_place(name, model): name for name in opened.keys()}  # noqa: SIM118 - no mapping
    layers: list[dict[str, LowRank]] = [{} for _ in range(model.num_layers)]
    for layer, module in sorted({(layer, module) for layer, module, _ in names}):
        outputs, inputs = shapes[module]

        def take(side: str, *shape: int, layer: int = layer, module: str = module) -> Tensor:
            return _take(opened, names.get((layer, module, side)), (layer, module, side), shape)

        a, b = take("A", config.rank, inputs), take("B", outputs, config.rank)
        layers[layer][module] = LowRank(a, (b * config.scale).contiguous())
    missing = config.modules.difference(*layers)
    if missing or not names:
        raise UnsupportedAdapter(
            f"{WEIGHTS} has no tensors for {', '.join(sorted(missing)) or 'any layer'}, which "
            f"target_modules in {CONFIG} promises"
        )
    return tuple(layers)


def _place(name: str, model: ModelConfig) -> tuple[int, str, str]:
    """Return the layer, the linear layer and the side (A or B) that a tensor belongs to."""
    found = _TENSOR.fullmatch(name)
    if "expert" in name:
        raise UnsupportedAdapter(
            f"{WEIGHTS}: {name}: adapters do not change experts here: train the adapter on "
            "attention alone, or merge it into the model and serve that"
        )
    if found is None or found[2] not in MODULES:
        raise UnsupportedAdapter(
            f"{WEIGHTS}: {name} is not a low-rank matrix of {', '.join(MODULES)}: train the "
            "adapter on these alone, or merge it into the model and serve that"
        )
    layer = int(found[1])
    if layer >= model.num_layers:
        raise UnsupportedAdapter(
            f"{WEIGHTS}: {name}: the model has {model.num_layers} layers; use the adapter with the "
            "model that it was trained on"
        )
    sparse = model.experts is not None and model.experts.sparse[layer]
    if sparse and found[2] in MLP:
        raise UnsupportedAdapter(
            f"{WEIGHTS}: {name}: the model's layer {layer} has experts; use the adapter with the "
            "model that it was trained on"
        )
    return layer, found[2], found[3]


def _take(
    opened: Any, name: str | None, place: tuple[int, str, str], shape: tuple[int, ...]
) -> Tensor:
    if name is None:
        layer, module, side = place
        raise UnsupportedAdapter(f"{WEIGHTS}: layer {layer}, {module} has no lora_{side}")
    found = tuple(opened.get_slice(name).get_shape())
    if found != shape:
        raise UnsupportedAdapter(
            f"{WEIGHTS}: {name} has shape {found}; rank and model say {shape}: use the adapter "
            "with the model that it was trained on"
        )
    tensor: Tensor = opened.get_tensor(name)
    return tensor.to(torch.float32).contiguous()
