"""The proof that a worker works: one token, from the server through the engine and back."""

from contextlib import aclosing

from penstock_worker.messages import AddRequest, FinishReason, Sampling
from penstock_worker.server.engine_client import EngineClient, EngineDied
from penstock_worker.server.served import Served

_PROMPT = "1"


async def generate_one_token(client: EngineClient, served: Served) -> None:
    """Return when the engine has generated a token for a request like any other.

    Raises:
        EngineDied: it died, or refused.
    """
    request = AddRequest(
        id="probe",
        prompt=served.tokenizer.encode(_PROMPT, add_special_tokens=True),
        max_tokens=1,
        sampling=Sampling(temperature=0.0),
    )
    async with aclosing(client.generate([request])) as outputs:
        async for output in outputs:
            if output.finish_reason is FinishReason.ABORT:
                raise EngineDied(f"it refused the first request: {output.error}")
