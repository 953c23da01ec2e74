"""What vLLM 0.32.0 answered, recorded from a real one: what its end looks like from outside."""

from typing import Final

_HEAD = (
    b'data: {"id":"chatcmpl-9f19b9f070e6de12","object":"chat.completion.chunk",'
    b'"created":1795297278,"model":"pydoc","choices":[{"index":0,'
)
ROLE: Final = (
    _HEAD + b'"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],'
    b'"prompt_token_ids":null,"prompt_text":null}\n\n'
)
CHUNK: Final = (
    _HEAD + b'"delta":{"content":" list"},"logprobs":null,"finish_reason":null,"token_ids":null}]}'
    b"\n\n"
)
DONE: Final = b"data: [DONE]\n\n"

ABORTED: Final = (
    _HEAD + b'"delta":{},"logprobs":null,"finish_reason":"abort","stop_reason":null,'
    b'"token_ids":null}]}\n\n' + DONE
)
"""The end of a stream in the same words; those alone were not recorded."""
NOTHING: Final = DONE
"""All of a stream of completions that was asked for while it ended; the status is 200."""
ABORTED_WHOLE: Final = (
    b'{"id":"cmpl-bd33f688ce87cfaa","object":"text_completion","created":1795296718,'
    b'"model":"small","choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"abort",'
    b'"stop_reason":null,"token_ids":null,"prompt_logprobs":null,"prompt_token_ids":null,'
    b'"routed_experts":null}],"service_tier":null,"system_fingerprint":"vllm-0.32.0-4ebdb545",'
    b'"usage":{"prompt_tokens":4,"total_tokens":4,"completion_tokens":0,'
    b'"prompt_tokens_details":{"cached_tokens":0,"created_cache_tokens":null,'
    b'"multimodal_tokens":null},"completion_tokens_details":null},"kv_transfer_params":null,'
    b'"ec_transfer_params":null,"metrics":null}'
)
"""Asked for while it ended, and not streamed; the status is 200."""

ENGINE_DEAD: Final = (
    b'data: {"error": {"message": "EngineCore encountered an issue. See stack trace (above) for '
    b'the root cause.", "type": "InternalServerError", "param": null, "code": 500}}\n\n' + DONE
)
"""The end of streams of an engine that was killed; the server ends by itself, a moment later."""

NO_ROUTE: Final = b'{"detail":"Not Found"}'
"""Asked for /v1/embeddings when it generates."""

TRANSCRIPTION: Final = b'{"text":"So it was said.","usage":{"type":"duration","seconds":3}}'
TRANSCRIPTION_EVENTS: Final = (
    b'data: {"id":"transcribe-a4c65af29164","object":"transcription.chunk","created":1795297278,'
    b'"model":"ears","choices":[{"delta":{"content":"So it was said."},"finish_reason":"stop",'
    b'"stop_reason":null}]}\n\n' + DONE
)
SUBTITLES: Final = b"WEBVTT\n\n00:00.000 --> 00:03.000\nSo it was said.\n"
