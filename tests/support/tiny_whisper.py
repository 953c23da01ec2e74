"""A Whisper of random weights that nobody has to download; what it hears means nothing."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizerFast,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

END = "<|endoftext|>"
START = "<|startoftranscript|>"
SECONDS = 30
"""Of a window; times are told in fiftieths."""


def make(folder: Path) -> None:
    """Write a checkpoint with its tokenizer and processor into a folder."""
    tokenizer = _tokenizer()
    end, start = tokenizer.convert_tokens_to_ids([END, START])
    config = WhisperConfig(
        vocab_size=len(tokenizer) + -len(tokenizer) % 8,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=start,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    torch.manual_seed(0)
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(feature_size=80), tokenizer).save_pretrained(folder)


def _tokenizer() -> WhisperTokenizerFast:
    """Return one whose words are bytes, with the marks that Whisper writes between them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = Tokenizer(BPE(vocab={one: n for n, one in enumerate(alphabet)}, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    languages = [f"<|{language}|>" for language in LANGUAGES]
    orders = ["translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]
    times = [f"<|{tick / 50:.2f}|>" for tick in range(SECONDS * 50 + 1)]
    found = WhisperTokenizerFast(
        tokenizer_object=bytes_only, unk_token=END, bos_token=END, eos_token=END, pad_token=END
    )
    marks = [START, *languages, *(f"<|{order}|>" for order in orders), *times]
    found.add_special_tokens({"additional_special_tokens": marks})
    return found
