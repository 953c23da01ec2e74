"""Random-weight checkpoints of every supported family, made by transformers itself."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

SHAPE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 144,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.25,  # far from uniform, so that equal greedy tokens mean something
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": None,
}

NARROW = {"initializer_range": 0.06}
"""For models whose tied embeddings are scaled up, or every token would only repeat itself."""

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}

YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}

DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}

LATENT: dict[str, Any] = {
    **SHAPE,
    "num_key_value_heads": 4,
    "kv_lora_rank": 24,
    "q_lora_rank": None,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 20,
    "first_k_dense_replace": 3,
    "num_experts_per_tok": 2,
}
"""Latent attention, as DeepSeek has it; every layer has a plain MLP."""

STRETCHED_LATENT = {**YARN, "mscale": 0.8, "mscale_all_dim": 1.2}

WINDOW = 20
"""Shorter than a chunk of the kernels' and than most prompts of the tests."""

EXPERTS = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 40}

LATENT_EXPERTS: dict[str, Any] = {
    **LATENT,
    "first_k_dense_replace": 1,
    "n_routed_experts": 12,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 40,
    "routed_scaling_factor": 1.5,
    "n_group": 4,
    "topk_group": 2,
}
"""Latent attention and experts, the first layer having a plain MLP."""

FAMILIES: dict[str, Any] = {
    "llama-gqa": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "llama-mha": lambda: LlamaForCausalLM(LlamaConfig(**{**SHAPE, "num_key_value_heads": 4})),
    "llama-mqa-tied": lambda: LlamaForCausalLM(
        LlamaConfig(**{**SHAPE, "num_key_value_heads": 1}, tie_word_embeddings=True)
    ),
    "llama-head-dim": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, head_dim=32)),
    "llama3-rope": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=LLAMA3_ROPE)),
    "linear-rope": lambda: LlamaForCausalLM(
        LlamaConfig(
            **SHAPE,
            rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
        )
    ),
    "llama-bias": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, attention_bias=True)),
    "yarn-rope": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=YARN)),
    "dynamic-rope": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=DYNAMIC)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=None)),
    "mistral-window": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=WINDOW)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "qwen2-window": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1)
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=16)),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SHAPE, num_local_experts=5)),
    "mixtral-window": lambda: MixtralForCausalLM(
        MixtralConfig(**SHAPE, num_local_experts=4, sliding_window=WINDOW)
    ),
    "qwen2-moe": lambda: Qwen2MoeForCausalLM(
        Qwen2MoeConfig(**SHAPE, **EXPERTS, shared_expert_intermediate_size=72, mlp_only_layers=[1])
    ),
    "qwen3-moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SHAPE, **EXPERTS, head_dim=16, norm_topk_prob=True)
    ),
    "qwen3-moe-mixed": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(**SHAPE, **EXPERTS, head_dim=16, decoder_sparse_step=2)
    ),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**{**SHAPE, **NARROW}, head_dim=16)),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(
            **{**SHAPE, **NARROW, "initializer_range": 0.15},
            head_dim=16,
            query_pre_attn_scalar=24,
            sliding_window=WINDOW,
            attn_logit_softcapping=3.0,
            final_logit_softcapping=5.0,
            attn_implementation="eager",  # the only one of transformers' that caps on a CPU
        )
    ),
    "deepseek-v2": lambda: DeepseekV2ForCausalLM(DeepseekV2Config(**LATENT)),
    "deepseek-v2-query-rank": lambda: DeepseekV2ForCausalLM(
        DeepseekV2Config(**{**LATENT, "q_lora_rank": 28, "rope_parameters": STRETCHED_LATENT})
    ),
    "deepseek-v3": lambda: DeepseekV3ForCausalLM(
        DeepseekV3Config(**{**LATENT, "q_lora_rank": 28, "rope_parameters": STRETCHED_LATENT})
    ),
    "deepseek-v3-halved": lambda: DeepseekV3ForCausalLM(
        DeepseekV3Config(**LATENT, rope_interleave=False)
    ),
    "deepseek-v2-experts": lambda: DeepseekV2ForCausalLM(DeepseekV2Config(**LATENT_EXPERTS)),
    "deepseek-v2-grouped": lambda: DeepseekV2ForCausalLM(
        DeepseekV2Config(**LATENT_EXPERTS, topk_method="group_limited_greedy")
    ),
    "deepseek-v3-experts": lambda: DeepseekV3ForCausalLM(DeepseekV3Config(**LATENT_EXPERTS)),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(
            **{**SHAPE, **NARROW},
            head_dim=16,
            query_pre_attn_scalar=24,
            sliding_window=WINDOW,
            sliding_window_pattern=2,
        )
    ),
}


def make(family: str, folder: Path) -> Any:
    """Write a checkpoint of a family into `folder` and return the transformers model."""
    torch.manual_seed(1)
    model = FAMILIES[family]().eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
        elif "norm" in name:
            torch.nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.2)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            torch.nn.init.normal_(buffer, std=0.3)
    model.save_pretrained(folder)
    return model
