"""The tensors of an EAGLE-3 head by their role, whatever computes it."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from penstock_worker.attention.latent import Expansion
from penstock_worker.model.config import ModelConfig, UnsupportedModel
from penstock_worker.model.expert_weights import MlpWeights, read_mlp
from penstock_worker.model.latent_config import LatentConfig
from penstock_worker.model.loader import Checkpoint
from penstock_worker.model.loading import ExecutionConfig
from penstock_worker.model.weights import LayerWeights
from penstock_worker.speculative.head_config import HeadConfig

EMBEDDINGS = "embed_tokens.weight"


class HeadWeights:
    """What a head computes with.

    Args:
        config: of the head.
        checkpoint: open until `layers` was called.
        target: the shape of its model.
        target_checkpoint: that of its model, whose embeddings it shares unless it has its own.

    Raises:
        UnsupportedModel: the tensors contradict the configuration.
    """

    def __init__(
        self,
        config: HeadConfig,
        checkpoint: Checkpoint,
        target: ModelConfig,
        target_checkpoint: Checkpoint,
    ) -> None:
        shape = config.shape
        self._shape = shape
        self._checkpoint = checkpoint
        self._layer = "midlayer." if "midlayer.hidden_norm.weight" in checkpoint else "layers.0."
        own = EMBEDDINGS in checkpoint
        self.embeddings = (checkpoint if own else target_checkpoint).take(
            EMBEDDINGS if own else f"model.{EMBEDDINGS}", (target.vocab_size, shape.hidden_size)
        )
        self.norm = self._norm("norm")
        self.head = checkpoint.take("lm_head.weight", (shape.vocab_size, shape.hidden_size))
        self.hidden_norm = self._norm(f"{self._layer}hidden_norm")
        self.says = _says(config, checkpoint, target.vocab_size)
        """The token that each of its own stands for, [vocab of the head]."""

    def layers(self) -> Iterator[LayerWeights]:
        """Yield its only layer, whose qkv is [.., 2 · hidden]; then refuse what nobody knows."""
        shape, prefix, take = self._shape, self._layer, self._checkpoint.take
        hidden, heads = shape.hidden_size, shape.num_heads * shape.head_dim
        kv = shape.num_kv_heads * shape.head_dim
        rows = (("q", heads), ("k", kv), ("v", kv))
        attention = f"{prefix}self_attn."
        yield LayerWeights(
            input_norm=self._norm(f"{prefix}input_layernorm"),
            qkv=torch.cat([take(f"{attention}{n}_proj.weight", (r, 2 * hidden)) for n, r in rows]),
            qkv_bias=torch.cat([take(f"{attention}{n}_proj.bias", (r,)) for n, r in rows])
            if shape.qkv_bias
            else None,
            query_key_norm=None,
            output=take(f"{attention}o_proj.weight", (hidden, heads)),
            output_bias=take(f"{attention}o_proj.bias", (hidden,))
            if f"{attention}o_proj.bias" in self._checkpoint
            else None,
            attention_post_norm=None,
            mlp_norm=self._norm(f"{prefix}post_attention_layernorm"),
            mlp_post_norm=None,
            mlp=self.mlp(),
        )
        self._checkpoint.refuse_leftovers("fc.weight", "t2d", "verifier_lm_head.weight")

    def mlp(self) -> MlpWeights:
        """Return its layer's MLP."""
        shape = self._shape
        return read_mlp(
            self._checkpoint, f"{self._layer}mlp.", shape.hidden_size, shape.intermediate_size
        )

    def expansion(self, layer: int, latent: LatentConfig) -> Expansion:
        """Heads have no latents."""
        raise NotImplementedError

    def _norm(self, name: str) -> Tensor:
        return self._checkpoint.take(f"{name}.weight", (self._shape.hidden_size,)).float()


def read_fusion(folder: Path, config: HeadConfig, how: ExecutionConfig) -> Tensor:
    """Return what makes features of the model's states, [hidden, 3 · hidden].

    Raises:
        UnsupportedModel: it is missing, or has another shape: an EAGLE head's has two parts.
    """
    hidden = config.shape.hidden_size
    with Checkpoint(folder, how.dtype, how.device) as checkpoint:
        return checkpoint.take("fc.weight", (hidden, 3 * hidden))


def _says(config: HeadConfig, checkpoint: Checkpoint, vocab: int) -> Tensor:
    own = torch.arange(config.shape.vocab_size)
    if "d2t" in checkpoint:
        own = own + checkpoint.take("d2t", (len(own),), torch.int64)
    elif len(own) != vocab:
        raise UnsupportedModel("the checkpoint has no tensor d2t, and says fewer tokens than exist")
    if int(own.min()) < 0 or int(own.max()) >= vocab:
        raise UnsupportedModel(f"d2t leads beyond the model's {vocab} tokens")
    return own
