"""What kernels/interface.h declares, mirrored, and the library's functions, typed."""

import ctypes
from ctypes import POINTER, Structure, c_float, c_int32, c_void_p
from pathlib import Path

import torch

KINDS = {"float32": 0, "bfloat16": 1, "int8": 2, "int4": 3}
"""How weights are stored."""

KV_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
"""How KV is stored."""

QKV, OUTPUT, GATE, UP, DOWN, LATENT_QUERIES = range(6)
HEAD = -1
FUSION = -2


class Shape(Structure):
    """PenstockShape."""

    _fields_ = (
        *(
            (name, c_int32)
            for name in (
                "vocab",
                "hidden",
                "inner",
                "layers",
                "heads",
                "kv_heads",
                "head_dim",
                "block_size",
                "qk_norm",
                "kv_type",
                "threads",
                "gelu",
                "query_rank",
                "rank",
                "plain",
                "rotary",
                "value_dim",
                "sparse_blocks",
            )
        ),
        *((name, c_float) for name in ("eps", "embedding_scale", "query_scale", "score_cap")),
    )


class Layer(Structure):
    """PenstockLayer."""

    _fields_ = (
        *(
            (name, c_void_p)
            for name in (
                "input_norm",
                "mlp_norm",
                "query_key_norm",
                "attention_post_norm",
                "mlp_post_norm",
                "query_norm",
                "latent_norm",
                "cos",
                "sin",
                "keys",
                "values",
                "key_scales",
                "value_scales",
                "bounds",
            )
        ),
        ("window", c_int32),
    )


class Experts(Structure):
    """PenstockExperts."""

    _fields_ = (
        *(
            (name, c_int32)
            for name in (
                "count",
                "per_token",
                "inner",
                "shared_inner",
                "sigmoid",
                "normalized",
                "groups",
                "chosen_groups",
                "group_best",
                "shared_gated",
            )
        ),
        ("scaling", c_float),
        ("correction_bias", c_void_p),
    )


class Features(Structure):
    """PenstockFeatures."""

    _fields_ = (
        ("pool", c_void_p),
        ("hidden_norm", c_void_p),
        ("normed", c_int32),
        ("taps", c_int32 * 3),
    )


class Step(Structure):
    """PenstockStep."""

    _fields_ = (
        *((name, c_int32) for name in ("rows", "sequences", "outputs", "block_columns")),
        *(
            (name, c_void_p)
            for name in (
                "tokens",
                "positions",
                "first_row",
                "count",
                "computed",
                "blocks",
                "adapters",
                "prompts",
                "output_rows",
                "greedy",
                "logits",
            )
        ),
    )


class EncoderShape(Structure):
    """PenstockEncoderShape."""

    _fields_ = (
        *(
            (name, c_int32)
            for name in (
                "hidden",
                "inner",
                "layers",
                "heads",
                "threads",
                "activation",
                "words_bf16",
                "first_position",
            )
        ),
        ("eps", c_float),
    )


class EncoderTables(Structure):
    """PenstockEncoderTables."""

    _fields_ = tuple(
        (name, c_void_p) for name in ("words", "positions", "types", "norm", "norm_bias")
    )


class EncoderLayer(Structure):
    """PenstockEncoderLayer."""

    _fields_ = tuple(
        (name, c_void_p) for name in ("attention_norm", "attention_norm_bias", "norm", "norm_bias")
    )


class EncoderStep(Structure):
    """PenstockEncoderStep."""

    _fields_ = (
        ("inputs", c_int32),
        *((name, c_void_p) for name in ("lengths", "tokens", "positions", "types", "states")),
    )


def load_library(path: Path) -> ctypes.CDLL:
    """Return the library with the signatures of its functions. Calls release Python's lock."""
    library = ctypes.CDLL(str(path))
    library.penstock_create.restype = c_void_p
    library.penstock_create.argtypes = [POINTER(Shape)]
    library.penstock_destroy.restype = None
    library.penstock_destroy.argtypes = [c_void_p]
    library.penstock_set_tables.restype = None
    library.penstock_set_tables.argtypes = [c_void_p, c_void_p, c_int32, c_void_p]
    library.penstock_set_layer.restype = None
    library.penstock_set_layer.argtypes = [c_void_p, c_int32, POINTER(Layer)]
    library.penstock_set_features.restype = None
    library.penstock_set_features.argtypes = [c_void_p, POINTER(Features)]
    library.penstock_set_experts.restype = c_int32
    library.penstock_set_experts.argtypes = [c_void_p, c_int32, POINTER(Experts)]
    library.penstock_set_expert.restype = c_int32
    library.penstock_set_expert.argtypes = [c_void_p, *[c_int32] * 6, c_void_p]
    library.penstock_set_linear.restype = c_int32
    library.penstock_set_linear.argtypes = [c_void_p, *[c_int32] * 5, *[c_void_p] * 2]
    library.penstock_set_expansion.restype = c_int32
    library.penstock_set_expansion.argtypes = [c_void_p, *[c_int32] * 5, c_void_p]
    library.penstock_create_adapter.restype = c_void_p
    library.penstock_create_adapter.argtypes = [c_void_p]
    library.penstock_destroy_adapter.restype = None
    library.penstock_destroy_adapter.argtypes = [c_void_p]
    library.penstock_set_reduction.restype = None
    library.penstock_set_reduction.argtypes = [c_void_p, *[c_int32] * 3, c_void_p]
    library.penstock_add_expansion.restype = c_int32
    library.penstock_add_expansion.argtypes = [c_void_p, *[c_int32] * 6, c_void_p]
    library.penstock_put_adapter.restype = c_int32
    library.penstock_put_adapter.argtypes = [c_void_p, c_int32, c_void_p]
    library.penstock_drop_adapter.restype = None
    library.penstock_drop_adapter.argtypes = [c_void_p, c_int32]
    library.penstock_step.restype = c_int32
    library.penstock_step.argtypes = [c_void_p, POINTER(Step)]
    library.penstock_create_encoder.restype = c_void_p
    library.penstock_create_encoder.argtypes = [POINTER(EncoderShape), POINTER(EncoderTables)]
    library.penstock_destroy_encoder.restype = None
    library.penstock_destroy_encoder.argtypes = [c_void_p]
    library.penstock_set_encoder_layer.restype = None
    library.penstock_set_encoder_layer.argtypes = [c_void_p, c_int32, POINTER(EncoderLayer)]
    library.penstock_set_encoder_linear.restype = c_int32
    library.penstock_set_encoder_linear.argtypes = [c_void_p, *[c_int32] * 5, *[c_void_p] * 2]
    library.penstock_encode.restype = c_int32
    library.penstock_encode.argtypes = [c_void_p, POINTER(EncoderStep)]
    return library
