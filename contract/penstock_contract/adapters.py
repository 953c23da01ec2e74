"""How adapters come to workers that serve already: routes of engines, and of the agent beside one.

An engine's routes are vLLM's. The agent (`penstock-worker adapters`) is told which adapters there
are to be, downloads them and has the engine load them; see docs/adapters.md.
"""

from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict

LOAD: Final = "/v1/load_lora_adapter"
UNLOAD: Final = "/v1/unload_lora_adapter"
MODELS: Final = "/v1/models"
"""Lists an adapter with its folder as `root`, and the model that it is for as `parent`."""

AGENT: Final = "adapters"
"""Name of an agent's container in a pod, of its port, and of the volume that it fills."""
PORT: Final = 8001
"""Where an agent listens, in a pod."""
AGENT_PATH: Final = "/adapters"
"""An agent answers a PUT of WantedAdapters, and a GET, with AdapterReport."""
READY_PATH: Final = "/ready"
"""Answers 200 once an agent has tried all adapters that it was told of since its engine started."""

FETCHED: Final = ("hf://", "s3://", "gs://")
"""What an agent downloads; other sources are volumes, which pods have from their beginning."""


class WantedAdapter(BaseModel):
    """An adapter that an engine is to have."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    uri: str
    """hf://, s3:// or gs://."""
    revision: str = "main"
    folder: str = ""
    """Where it is downloaded to, relative to the agent's folder."""


class WantedAdapters(BaseModel):
    """All that an engine is to have beside those that it was started with."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    adapters: tuple[WantedAdapter, ...] = ()
    announced: tuple[str, ...] | None = None
    """Names under which gateways send requests to this worker; None: nobody has told them yet."""


class AdapterState(StrEnum):
    """How far an adapter is."""

    LOADING = "Loading"
    READY = "Ready"
    FAILED = "Failed"


class AdapterFound(BaseModel):
    """How far an adapter is on one worker."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    state: AdapterState = AdapterState.LOADING
    uri: str = ""
    """And revision: which of those that had this name."""
    revision: str = ""
    message: str = ""
    """Why it is not Ready."""


class AdapterReport(BaseModel):
    """What an agent tells of its engine."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    loaded: tuple[str, ...] = ()
    """Names that the engine answers to, sorted; those that it was started with among them."""
    adapters: dict[str, AdapterFound] = {}
    """Those that it was told of, by name."""
    tried: bool = False
    """Each of them was loaded, or has failed, since the engine started."""
