"""Adapters that come and go while a worker serves, by vLLM's routes.

They are for whoever keeps the worker's adapters as they should be (`penstock_worker.adapters`), who
shows the worker's token: a folder's path is believed.
"""

import asyncio
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from penstock_contract.errors import ApiError, ErrorCode
from penstock_worker.server.engine_client import EngineDied
from penstock_worker.server.service import Service


class LoadRequest(BaseModel):
    """The body of `LOAD`, as vLLM's."""

    model_config = ConfigDict(extra="ignore")

    lora_name: Annotated[str, Field(min_length=1, max_length=253)]
    lora_path: Annotated[str, Field(min_length=1)]
    load_inplace: bool = False
    """Put it in the place of the one of this name; without it, that is an error."""


class UnloadRequest(BaseModel):
    """The body of `UNLOAD`, as vLLM's."""

    model_config = ConfigDict(extra="ignore")

    lora_name: Annotated[str, Field(min_length=1)]


class AdapterChanges:
    """Makes them one at a time.

    Args:
        service: whose adapters change.
        allowed: false where the worker has no room for any.
    """

    def __init__(self, service: Service, *, allowed: bool) -> None:
        self._service = service
        self._allowed = allowed
        self._turn = asyncio.Lock()

    async def load(self, wanted: LoadRequest) -> str:
        """Return what to tell when requests can name the adapter.

        Raises:
            ApiError: they cannot.
        """
        self._check()
        name, service = wanted.lora_name, self._service
        folder = wanted.lora_path
        if not folder.startswith("/"):
            raise _wrong("lora_path", "send the absolute path of a folder that the worker sees")
        async with self._turn:
            if name in service.names:
                raise _wrong("lora_name", f"{name} is the model's own name: choose another")
            if name in service.adapters and not wanted.load_inplace:
                raise _wrong(
                    "lora_name",
                    f"The lora adapter {name!r} has already been loaded: send load_inplace",
                )
            try:
                problem = await service.client.load_adapter(name, folder)
            except EngineDied as error:
                raise ApiError(ErrorCode.INTERNAL_ERROR, f"the engine died: {error}") from error
            if problem:
                raise _wrong("lora_path", problem)
            service.adapters[name] = folder
        return f"Success: LoRA adapter '{name}' added successfully."

    async def unload(self, wanted: UnloadRequest) -> str:
        """Return what to tell when new requests cannot name the adapter any more.

        Raises:
            ApiError: there is none of this name.
        """
        self._check()
        name, service = wanted.lora_name, self._service
        async with self._turn:
            if service.adapters.pop(name, None) is None:
                message = f"The lora adapter {name!r} cannot be found."
                raise ApiError(ErrorCode.NOT_FOUND, message, param="lora_name")
            service.client.unload_adapter(name)
        return f"Success: LoRA adapter '{name}' removed successfully."

    def _check(self) -> None:
        if not self._allowed:
            message = "adapters are not loaded at run time here: start with --max-adapters"
            raise ApiError(ErrorCode.NOT_FOUND, message)


def _wrong(field: str, message: str) -> ApiError:
    return ApiError(ErrorCode.INVALID_REQUEST, message, param=field)
