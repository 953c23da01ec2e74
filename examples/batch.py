"""Sends questions as one batch, waits for it, and prints the answers; see docs/batches.md.

    penstock up examples/quickstart.yaml --detach
    python examples/batch.py "What is a list?" "What is a generator?"

OpenAI's own client; OPENAI_BASE_URL and OPENAI_API_KEY name another endpoint and its key.
"""

import json
import os
import sys
import time
from collections.abc import Sequence

from openai import OpenAI
from openai.types import Batch

ENDED = ("completed", "failed", "expired", "cancelled")


def main() -> None:
    """Ask what is on the command line."""
    client = OpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
        api_key=os.environ.get("OPENAI_API_KEY", "not-needed"),
    )
    questions = sys.argv[1:] or ["What is a list?"]
    file = client.files.create(file=("questions.jsonl", lines(questions)), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    show(client, wait(client, batch), questions)


def lines(questions: Sequence[str]) -> bytes:
    """Return an input file: one request in each line, with an id of our own."""
    requests = [
        {
            "custom_id": str(number),
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": "pydoc",
                "messages": [{"role": "user", "content": question}],
                "max_tokens": 40,
            },
        }
        for number, question in enumerate(questions)
    ]
    return "".join(json.dumps(request) + "\n" for request in requests).encode()


def wait(client: OpenAI, batch: Batch) -> Batch:
    """Return the batch when it has ended."""
    while batch.status not in ENDED:
        time.sleep(0.5)
        batch = client.batches.retrieve(batch.id)
        print(f"{batch.id}: {batch.status}", file=sys.stderr)
    return batch


def show(client: OpenAI, batch: Batch, questions: Sequence[str]) -> None:
    """Print answers and errors, which come in two files."""
    if batch.output_file_id:
        for line in client.files.content(batch.output_file_id).text.splitlines():
            found = json.loads(line)
            answer = found["response"]["body"]["choices"][0]["message"]["content"]
            print(f"{questions[int(found['custom_id'])]}\n  {answer}")
    if batch.error_file_id:
        print(client.files.content(batch.error_file_id).text, file=sys.stderr)
    for problem in batch.errors.data or [] if batch.errors else []:
        print(f"line {problem.line}: {problem.message}", file=sys.stderr)


if __name__ == "__main__":
    main()
