"""The example model with chat templates that know tools, in either notation."""

import os
from pathlib import Path

from worker_process import EXAMPLE_MODEL

HERMES = """
{%- if tools %}<|system|>Call as <tool_call>{"name": …, "arguments": …}</tool_call>:
{%- for tool in tools %}{{ tool | tojson }}{% endfor %}<|end|>{% endif %}
{%- for message in messages %}<|{{ 'user' if message.role == 'tool' else message.role }}|>
{{- message.content }}
{%- for call in message.tool_calls %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|end|>{% endfor %}<|assistant|>"""

LLAMA3 = """
{%- if tools %}<|system|>Call as {"name": function, "parameters": dictionary}.
{%- for tool in tools %}{{ tool | tojson }}{% endfor %}<|end|>{% endif %}
{%- for message in messages %}<|user|>{{ message.content }}<|end|>{% endfor %}<|assistant|>"""


def make(folder: Path, template: str) -> Path:
    """Write the example model with another chat template into `folder`."""
    for file in EXAMPLE_MODEL.iterdir():
        if file.suffix in {".json", ".safetensors"}:
            os.symlink(file, folder / file.name)
    (folder / "chat_template.jinja").write_text(template)
    return folder
