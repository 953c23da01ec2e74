"""A model that ranks compute together predicts what one rank predicts, whatever its family.

Covered: real processes over gloo, two and four of them, with more ranks than KV heads and a
vocabulary that cannot be divided; what is read of a checkpoint; and what is refused. Not covered
here: whole engines (test_tensor_parallel_engine), a worker over HTTP (worker_server).
"""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import rank_forward
import tiny_models
import torch
from engines import load
from rank_forward import Computed

from penstock_worker.engine_config import EngineConfig, TierConfig, TransferConfig
from penstock_worker.model.config import ModelConfig, read_config
from penstock_worker.model.loader import Checkpoint
from penstock_worker.model.loading import ExecutionConfig
from penstock_worker.tensor_parallel.checkpoint import DividedCheckpoint
from penstock_worker.tensor_parallel.shares import Cuts, refuse

ALIKE = ("mistral", "qwen2-window", "mixtral-window", "qwen3-moe")
"""What they do is what others do, too, as far as ranks can tell."""
DIVIDED = [
    family
    for family in tiny_models.FAMILIES
    if not family.startswith("deepseek") and not family.endswith(("-rope", *ALIKE))
]
ODD = "odd-vocabulary"
BY_FOUR = ("llama-gqa", "qwen2-moe", ODD)
"""More ranks than KV heads: of dense models, of experts, and with a padded vocabulary."""
DIVISIONS = [*((family, 2) for family in (*DIVIDED, ODD)), *((family, 4) for family in BY_FOUR)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of all families, and one whose vocabulary cannot be divided."""
    root = tmp_path_factory.mktemp("models")
    for family in DIVIDED:
        tiny_models.make(family, root / family)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny_models.SHAPE, "vocab_size", 319)
        tiny_models.make("llama-gqa", root / ODD)
    return {folder.name: folder for folder in root.iterdir()}


@pytest.fixture(scope="module")
def together(
    folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Computed]:
    """What ranks compute of each family, by their number and the folder."""
    results = tmp_path_factory.mktemp("ranks") / "results.pt"
    wanted = [f"{ranks}={folders[family]}" for family, ranks in DIVISIONS]
    processes = [
        subprocess.Popen([sys.executable, rank_forward.__file__, str(rank), str(results), *wanted])
        for rank in range(4)
    ]
    try:
        assert [process.wait(timeout=500) for process in processes] == [0] * 4
    finally:
        for process in processes:
            process.kill()
            process.wait()
    found: dict[str, Computed] = torch.load(results)
    return found


@pytest.mark.parametrize(("family", "ranks"), DIVISIONS)
def test_ranks_predict_what_one_predicts(
    family: str, ranks: int, folders: dict[str, Path], together: dict[str, Computed]
) -> None:
    with torch.inference_mode():
        logits, tokens = rank_forward.compute(
            load(folders[family], ExecutionConfig(), num_blocks=4)
        )
    theirs, drawn = together[f"{ranks}={folders[family]}"]
    for one, other in zip(logits, theirs, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() < 1e-4
    assert drawn == tokens


def test_the_parts_of_all_ranks_are_the_whole(folders: dict[str, Path]) -> None:
    folder, cpu = folders["qwen2-moe"], torch.device("cpu")
    shape = read_config(folder)

    def parts(name: str, *part: int) -> list[torch.Tensor]:
        found = []
        for rank in range(4):
            cuts, first = Cuts(shape, rank, 4), rank == 0
            with DividedCheckpoint(folder, torch.float32, cpu, cuts, first=first) as checkpoint:
                found.append(checkpoint.take(f"model.{name}", part))
        return found

    with Checkpoint(folder, torch.float32, cpu) as whole:
        for name, dim, shape_of_part in (
            ("embed_tokens.weight", 0, (80, 64)),
            ("layers.0.self_attn.q_proj.weight", 0, (16, 64)),
            ("layers.0.self_attn.o_proj.weight", 1, (64, 16)),
            ("layers.0.mlp.experts.3.down_proj.weight", 1, (64, 10)),
        ):
            joined = torch.cat(parts(name, *shape_of_part), dim)
            assert torch.equal(joined, whole.take(f"model.{name}", tuple(joined.shape)))
        everywhere = whole.take("model.layers.0.mlp.gate.weight", (6, 64))
        assert all(torch.equal(p, everywhere) for p in parts("layers.0.mlp.gate.weight", 6, 64))
        # Two KV heads on four ranks: the first two have one, the others the other.
        keys = whole.take("model.layers.0.self_attn.k_proj.bias", (32,))
        found = torch.cat(parts("layers.0.self_attn.k_proj.bias", 16))
        assert torch.equal(found, torch.cat([keys[:16], keys[:16], keys[16:], keys[16:]]))


@pytest.fixture(scope="module")
def shape(folders: dict[str, Path]) -> ModelConfig:
    return read_config(folders["llama-gqa"])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"quantization": "int8"}, "--quantization int8"),
        ({"kernels": "native"}, "--kernels native"),
        ({"speculative": "draft"}, "--speculative"),
        ({"adapters": {"a": "folder"}}, "--adapter"),
        ({"tier": TierConfig("folder", 1 << 20)}, "--kv-tier-disk"),
        ({"transfer": TransferConfig("127.0.0.1", 0, "127.0.0.1", 30.0, "w")}, "--kv-transfer"),
    ],
)
def test_what_only_one_rank_computes_is_refused_by_name(
    settings: dict[str, object], named: str, shape: ModelConfig
) -> None:
    config = EngineConfig(model="m", tensor_parallel_size=2, **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"--tensor-parallel-size 2: {named}"):
        refuse(config, shape)


@pytest.mark.parametrize(
    ("ranks", "changes", "named"),
    [
        (3, {}, "num_attention_heads"),
        (2, {"intermediate_size": 145}, "intermediate_size"),
        (6, {"num_heads": 12, "num_kv_heads": 4}, "num_key_value_heads"),
        (4, {"vocab_size": 5}, "vocabulary"),
    ],
)
def test_a_model_that_cannot_be_divided_is_refused_by_the_number_at_fault(
    ranks: int, changes: dict[str, int], named: str, shape: ModelConfig
) -> None:
    config = EngineConfig(model="m", tensor_parallel_size=ranks)
    with pytest.raises(ValueError, match=f"--tensor-parallel-size {ranks} .*{named}"):
        refuse(config, dataclasses.replace(shape, **changes))  # type: ignore[arg-type]


def test_latent_attention_is_refused(tmp_path: Path) -> None:
    tiny_models.make("deepseek-v2", tmp_path)
    config = EngineConfig(model=str(tmp_path), tensor_parallel_size=2)
    with pytest.raises(ValueError, match="latent attention"):
        refuse(config, read_config(tmp_path))
