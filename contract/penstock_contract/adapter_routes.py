"""What engines' routes for adapters are sent, and what they answer. Pure.

They are vLLM's (`contract/adapters.py` has their paths). Agents in a cluster and the local runtime
speak to them.
"""

import json
from typing import Any, Final

NAME_HAD: Final = (
    "vLLM finds cached KV by an adapter's name, and this name was another adapter's since the "
    "worker started: give the new one another name"
)
"""Why an engine that finds KV by name is not given an adapter."""


def listed(models: Any) -> dict[str, str]:
    """Return the folders of an engine's adapters by name.

    Args:
        models: what it answers for `MODELS`, parsed.

    Raises:
        ValueError: it lists no models.
    """
    try:
        return {one["id"]: one.get("root") or "" for one in models["data"] if one.get("parent")}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"no list of models: {error!r}") from error


def load_body(name: str, folder: str, *, again: bool) -> dict[str, object]:
    """Return what `LOAD` is sent.

    Args:
        name: of the adapter.
        folder: its files.
        again: put it in the place of the one of this name. vLLM would read an adapter that was
            loaded "in place" anew in every step, so that this is said only where it is so.
    """
    more = {"load_inplace": True} if again else {}
    return {"lora_name": name, "lora_path": folder, **more}


def unload_body(name: str) -> dict[str, object]:
    """Return what `UNLOAD` is sent."""
    return {"lora_name": name}


def refusal(status: int, content: bytes) -> str:
    """Return the words of an answer that refuses: in OpenAI's shape, or vLLM's older one."""
    try:
        body = json.loads(content)
        return str(body.get("error", body)["message"])
    except (ValueError, KeyError, AttributeError, TypeError):
        return f"the engine answers {status} {content[:200].decode(errors='replace')}".strip()
