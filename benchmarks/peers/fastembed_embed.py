"""fastembed, on ONNX Runtime: the model is exported to ONNX first, as its own models were."""

import json
import sys
from pathlib import Path

from vectors import Embed, serve

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
NAME = "penstock/benchmark"


def load() -> Embed:
    """Load the exported model, with as many threads as were asked for."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    asked = json.loads(sys.argv[1])
    folder = Path(asked["model"])
    export(folder)
    TextEmbedding.add_custom_model(
        model=NAME,
        pooling=PoolingType.CLS,
        normalization=True,
        sources=ModelSource(hf=NAME),
        dim=asked["width"],
        model_file="onnx/model.onnx",
    )
    model = TextEmbedding(NAME, specific_model_path=str(folder), threads=asked["threads"])
    return lambda texts: [vector.tolist() for vector in model.embed(texts, batch_size=32)]


def export(folder: Path) -> None:
    """Write the model as ONNX, unless it is there."""
    import torch
    from transformers import BertModel

    path = folder / "onnx" / "model.onnx"
    if path.exists():
        return
    path.parent.mkdir(exist_ok=True)
    model = BertModel.from_pretrained(folder, attn_implementation="eager").eval()

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: object, mask: object, types: object) -> object:
            return model(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state

    sample = torch.ones(2, 8, dtype=torch.long)
    torch.onnx.export(
        States(),
        (sample, sample, sample),
        str(path),
        input_names=list(INPUTS),
        output_names=["last_hidden_state"],
        dynamic_axes={name: {0: "texts", 1: "tokens"} for name in (*INPUTS, "last_hidden_state")},
        opset_version=17,
        dynamo=False,
    )


if __name__ == "__main__":
    serve(load)
