"""Train an EAGLE-3 head that guesses what the example model says: `eagle.py --minutes 10`.

The head is one layer that sees what the model itself has thought: the states of three of its layers
(Li et al., "EAGLE-3: Scaling up Inference Acceleration of Large Language Models via Training-Time
Test", 2025). It learns as it will be used: behind the first token it guesses, its own state stands
in for the model's. The example model writes the text (`lesson.py`), and the head learns its whole
distribution over each next token, as far as that is of the tokens that the head can say.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from lesson import HERE, add_arguments, lesson, train
from llama import MLP, Llama, LlamaConfig, RMSNorm, rotate
from safetensors.torch import save_file
from torch import Tensor, nn
from vocabulary import BOS, END, token_id

SHAPE = LlamaConfig(
    intermediate_size=256,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
)
TAPS = (1, 3, 5)
"""Layers of the model whose inputs the head sees."""
SAYS = 1024
"""Tokens that the head can say: the most frequent ones."""
AHEAD = 3
"""Tokens that it is trained to guess in a row, each behind its own."""
Seen = tuple[Tensor, Tensor]
"""Keys and values of all rows, [batch, heads, rows, head_dim]."""


class Attention(nn.Module):
    """Attention over what the head has seen of the model's states, and then of its own."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(2 * config.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(2 * config.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(2 * config.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, seen: list[Seen]) -> Tensor:
        """Attend, and note keys and values in `seen`: of each guess in a row so far.

        Row r of guess s saw the model's own states up to row r - s, and one of its own for each
        guess since.
        """
        size, rows, _ = x.shape
        query, key, value = (
            projection(x).view(size, rows, -1, self.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        groups = query.shape[1] // key.shape[1]
        seen.append((key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)))
        late = len(seen) - 1
        own = [(k.roll(late - s, 2), v.roll(late - s, 2)) for s, (k, v) in enumerate(seen)][1:]
        far = query @ seen[0][0].transpose(2, 3)
        hidden = torch.ones(rows, rows, dtype=torch.bool).triu(1 - late)
        near = [(query * k).sum(-1, keepdim=True) for k, _ in own]
        scores = torch.cat([far.masked_fill(hidden, -1e4), *near], -1) / self.head_dim**0.5
        weights = scores.float().softmax(-1).to(x.dtype)
        found = weights[..., :rows] @ seen[0][1]
        for place, (_, v) in enumerate(own, rows):
            found = found + weights[..., place : place + 1] * v
        output: Tensor = self.o_proj(found.transpose(1, 2).reshape(size, rows, -1))
        return output


class Layer(nn.Module):
    """The decoder layer, under its public names."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hidden_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)


class Head(nn.Module):
    """An EAGLE-3 head; its embeddings are the model's, and it begins with the model's own output.

    Args:
        config: its shape.
        says: numbers of the tokens that it can say, ascending.
        target: the model.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: LlamaConfig, says: Tensor, target: Llama) -> None:
        super().__init__()
        self.config, self.says = config, says
        self.fc = nn.Linear(len(TAPS) * config.hidden_size, config.hidden_size, bias=False)
        self.midlayer = Layer(config)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, len(says), bias=False)
        tables = Llama(config).model
        self.register_buffer("cos", tables.cos, persistent=False)
        self.register_buffer("sin", tables.sin, persistent=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
        with torch.no_grad():
            self.fc.weight[:, -config.hidden_size :] += torch.eye(config.hidden_size)
            self.norm.weight.copy_(target.model.norm.weight)
            self.lm_head.weight.copy_(target.model.embed_tokens.weight[says])

    def forward(self, words: Tensor, states: Tensor, seen: list[Seen]) -> Tensor:
        """Return the head's states, [batch, rows, hidden].

        Args:
            words: embeddings of each row's token, [batch, rows, hidden].
            states: what was thought in front of it, of the same shape.
            seen: by the guesses before this one.
        """
        layer, rows = self.midlayer, words.shape[1]
        x = torch.cat((layer.input_layernorm(words), layer.hidden_norm(states)), -1)
        cos, sin = self.cos[:rows].to(x.dtype), self.sin[:rows].to(x.dtype)
        states = states + layer.self_attn(x, cos, sin, seen)
        output: Tensor = states + layer.mlp(layer.post_attention_layernorm(states))
        return output

    def save(self, folder: Path, bos: int, eos: int, pad: int) -> None:
        """Write weights and shape as published heads have them, in bfloat16."""
        folder.mkdir(parents=True, exist_ok=True)
        stored = {
            **self.config.to_json(bos, eos, pad),
            "architectures": ["LlamaForCausalLMEagle3"],
            "tie_word_embeddings": False,
            "draft_vocab_size": len(self.says),
            "eagle_aux_hidden_state_layer_ids": list(TAPS),
        }
        (folder / "config.json").write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")
        weights = {
            name: tensor.detach().to(torch.bfloat16).contiguous()
            for name, tensor in self.named_parameters()
        }
        known = torch.zeros(self.config.vocab_size, dtype=torch.bool)
        known[self.says] = True
        weights |= {"d2t": self.says - torch.arange(len(self.says)), "t2d": known}
        save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})


@torch.no_grad()
def thoughts(target: Llama, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the inputs of the tapped layers, side by side, and the logits behind each token."""
    found: list[Tensor] = []
    hooks = [
        target.model.layers[tap].register_forward_pre_hook(lambda _, x: found.append(x[0]))
        for tap in TAPS
    ]
    logits = target.logits(ids)
    for hook in hooks:
        hook.remove()
    return torch.cat(found, -1), logits


def losses(head: Head, target: Llama, ids: Tensor, pad: int) -> tuple[Tensor, list[float]]:
    """Return the loss, and how often each guess in a row is what the model thinks likeliest."""
    states, logits = thoughts(target, ids)
    words = target.model.embed_tokens.weight[ids[:, 1:]].detach()
    wanted = logits[:, 1:].float().softmax(-1)
    best, wanted = wanted.argmax(-1), wanted[..., head.says]
    state, seen = head.fc(states[:, :-1]), list[Seen]()
    rows, total, same = torch.arange(words.shape[1]), torch.zeros(()), list[float]()
    for place in range(AHEAD):
        state = head(words.to(state.dtype), state, seen)
        said = head.lm_head(head.norm(state)).float().log_softmax(-1)
        real = (ids[:, 1:] != pad) & (rows >= place)
        total = total - 0.8**place * (wanted * said).sum(-1)[real].mean()
        guess = head.says[said.argmax(-1)]
        same.append(float((guess == best)[real].float().mean()))
        state = state.roll(1, 1)
    return total, same


def main() -> None:
    """Let the model write, train the head on it, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--output", type=Path, default=HERE / "eagle")
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args()
    taught = lesson(options)
    target, tokenizer, pad = taught.target, taught.tokenizer, taught.pad
    written = [token for text in (*taught.texts, *taught.kept) for token in text]
    counts = torch.bincount(torch.tensor(written), minlength=SHAPE.vocab_size)
    head = Head(SHAPE, counts.topk(SAYS).indices.sort().values, target)

    def measure() -> str:
        _, same = losses(head, target, taught.measured(), pad)
        return f"same {' '.join(f'{share:.3f}' for share in same)}"

    train(head, lambda: losses(head, target, taught.batch(), pad)[0], measure, options)
    bos, end = (token_id(tokenizer, token) for token in (BOS, END))
    head.save(options.output, bos, end, pad)


if __name__ == "__main__":
    main()
