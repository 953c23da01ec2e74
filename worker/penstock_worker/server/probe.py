"""The proof that a worker works: one token or vector, through the engine and back."""

from contextlib import aclosing

from penstock_worker.messages import AddInputs, AddRequest, FinishReason, Sampling
from penstock_worker.server.engine_client import EngineClient, EngineDied
from penstock_worker.server.served import Served

_PROMPT = "1"


async def prove(client: EngineClient, served: Served) -> None:
    """Return when the engine has answered a request like any other, with one token or vector.

    Raises:
        EngineDied: it died, or refused.
    """
    prompt = served.tokenizer.encode(_PROMPT, add_special_tokens=True)
    request: AddRequest | AddInputs = AddInputs("probe", [prompt])
    if served.pooling is None:
        request = AddRequest("probe", prompt, 1, Sampling(temperature=0.0))
    async with aclosing(client.generate([request])) as outputs:
        async for output in outputs:
            if output.finish_reason is FinishReason.ABORT:
                raise EngineDied(f"it refused the first request: {output.error}")
