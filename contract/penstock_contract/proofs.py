"""Requests that prove that a model computes: it answers the one of its kind, and refuses others.

Read as text into the start-up probe of vLLM's pods too, whose image has no package of ours: nothing
but the standard library.
"""

import json
import struct

NOT_THIS = (400, 404)
"""How a model refuses what it is not for: ours with a code, vLLM also by not having the route."""
_RATE = 16_000
"""Samples in a second of the recording."""
_END = "penstock-proof"


def proofs(model: str) -> list[tuple[str, str, bytes]]:
    """Return requests to a worker: path, content type, body.

    Args:
        model: name by which they ask for it.
    """
    bodies: dict[str, dict[str, object]] = {
        "/v1/completions": {"prompt": "1", "max_tokens": 1, "temperature": 0},
        "/v1/embeddings": {"input": "1"},
        "/v1/score": {"text_1": "1", "text_2": "1"},
    }
    found = [
        (path, "application/json", json.dumps({"model": model, **body}).encode())
        for path, body in bodies.items()
    ]
    form = f"multipart/form-data; boundary={_END}"
    return [*found, ("/v1/audio/transcriptions", form, _form(model))]


def _form(model: str) -> bytes:
    """Return a form with a second of silence."""
    named = 'content-disposition: form-data; name="'
    wav = silence(1)
    head = f'--{_END}\r\n{named}model"\r\n\r\n{model}\r\n--{_END}\r\n{named}file"; filename="1.wav"'
    return head.encode() + b"\r\n\r\n" + wav + f"\r\n--{_END}--\r\n".encode()


def silence(seconds: int) -> bytes:
    """Return silence as a WAV file: its header, PCM's format, and samples of 16 bits."""
    size = seconds * _RATE * 2
    pcm = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, _RATE, _RATE * 2, 2, 16)
    data = struct.pack("<4sI", b"data", size) + bytes(size)
    return struct.pack("<4sI4s", b"RIFF", 4 + len(pcm) + len(data), b"WAVE") + pcm + data
