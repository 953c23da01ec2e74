"""One request that passes a gateway, until it is given to a worker."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from penstock_contract import headers
from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.metrics import Outcome
from penstock_contract.tasks import GENERATION, POOLING_PATHS, SPEECH_PATHS
from penstock_contract.worker_token import HEADER
from penstock_gateway import model_list
from penstock_gateway.endpoint_picker.endpoints import endpoint
from penstock_gateway.endpoint_picker.given import Given
from penstock_gateway.endpoint_picker.picker import Picker, request_class
from penstock_gateway.metrics import RequestMetrics
from penstock_gateway.relay.intake import harmless
from penstock_gateway.relay.permit import Permit
from penstock_gateway.relay.request import check_content_type, fingerprint, parse

PATHS: Final = (*GENERATION, *POOLING_PATHS, *SPEECH_PATHS, "/tokenize", "/detokenize")
"""An allow-list; whatever is not here is not reachable through a picker."""
CREDENTIALS: Final = (HEADER, "x-api-key", "cookie")
"""Of the client at the gateway; workers have no business with them."""


class Picked(NamedTuple):
    """What becomes of a request."""

    destination: str
    """`ip:port` of the worker; with others to try after it, separated by commas."""
    body: bytes
    headers: dict[str, str]
    """To be set."""
    removed: list[str]
    """Names of headers that are taken away."""


class Exchange:
    """One request. Whatever becomes of it, `close` gives back what was taken for it.

    Args:
        picker: what all requests share.
        found: headers, names in lower case.
        subset: endpoints that may be chosen; None: all.
    """

    def __init__(
        self, picker: Picker, found: Mapping[str, str], subset: frozenset[str] | None
    ) -> None:
        self.path = _as_workers_have_it(found.get(":path", "").partition("?")[0])
        self.request_id = headers.request_id(found.get(headers.REQUEST_ID))
        self.given: Given | None = None
        """Once a worker has it."""
        self._picker = picker
        self._arrived = picker.clock()
        self._headers = found
        self._content_type = found.get("content-type", "")
        self._subset = subset
        self._body = bytearray()
        self._counted = 0
        self._shed: ApiError | None = None
        self._permit: Permit | None = None
        self._metrics: RequestMetrics | None = None

    @property
    def asks_for_models(self) -> bool:
        """Whether it is for the list of models, or for one of them."""
        return self._headers.get(":method") == "GET" and (
            self.path == model_list.PATH or self.path.startswith(f"{model_list.PATH}/")
        )

    def check_head(self) -> None:
        """Refuse what the head alone says is not to be served.

        Raises:
            ApiError: that, and why.
        """
        found = self._headers
        if self.path not in PATHS:
            raise ApiError(ErrorCode.NOT_FOUND, f"{self.path}: Not Found")
        if found.get(":method") != "POST":
            raise ApiError(ErrorCode.METHOD_NOT_ALLOWED, f"{self.path}: send a POST")
        check_content_type(self.path, self._content_type.encode("latin-1", "replace"))
        if found.get("content-encoding", "") not in ("", "identity"):
            raise ApiError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "send the body uncompressed")
        length = found.get("content-length", "")
        if length.isdecimal() and int(length) > self._picker.settings.max_body:
            raise self._too_large()

    def feed(self, piece: bytes) -> None:
        """Take a piece of the body.

        Raises:
            ApiError: the body is too large, or there is no room for it.
        """
        if self._shed is None:
            self._body += piece
            self._counted += len(piece)
            self._picker.bodies.grow(self, len(piece))
        if self._shed is not None:
            raise self._shed
        if len(self._body) > self._picker.settings.max_body:
            raise self._too_large()

    def shed(self, error: ApiError) -> None:
        """There is no room for the body; whoever feeds next is told."""
        self._shed = error
        self._let_go()

    async def pick(self) -> Picked:
        """Return where the request goes, when it is its turn; all of its body has come.

        Raises:
            ApiError: it is refused.
        """
        picker = self._picker
        picker.bodies.whole(self)
        body = bytes(self._body)
        parsed = parse(self.path, self._content_type, body)
        body = harmless(body, parsed, picker.quarantine, picker.clock())
        model = picker.model(parsed.model)
        session = self._headers.get(headers.SESSION_AFFINITY, "")
        prompt = picker.prompt(model, parsed, self.path, session)
        content, found = parsed.prompt or body, request_class(model, parsed.tier)
        self._permit = picker.offer(model, prompt, content, len(body), found)
        self._metrics = picker.metrics.request(model.name, parsed.size, self._arrived)
        try:
            await self._permit.granted()
        except ApiError as error:
            raise picker.shed(model, error) from error
        began = picker.clock()
        self._metrics.let_through(began)
        choices = picker.choices(model, prompt, content, self._subset)
        self.given = Given(
            picker, choices, prompt, self._metrics, self._permit,
            fingerprint(body), self.path, stream=parsed.stream,
        )  # fmt: skip
        self._metrics.dispatched(began, picker.clock())
        self._permit = self._metrics = None  # it has them now
        self._let_go()
        own = {headers.REQUEST_ID: self.request_id, "content-length": str(len(body))}
        own |= dict(picker.settings.tokens.headers())
        if model.tpot is not None:
            own[headers.TPOT_OBJECTIVE] = str(model.tpot)
        named = ",".join(endpoint(worker) for _, worker in choices)
        return Picked(named, body, own, [name for name in self._headers if _is_unwanted(name, own)])

    def refused(self, error: ApiError) -> None:
        """The client gets an error in the place of an answer."""
        if self._metrics is None:
            self._picker.metrics.refused(error.code)
        self._end(Outcome.ERROR)

    def close(self) -> None:
        """The gateway has nothing more to say of this request."""
        self._end(Outcome.CANCELLED)
        if self.given is not None:
            self.given.cut()

    def _end(self, outcome: Outcome) -> None:
        """Give back the body and the place, or the wait for one; not what a worker has."""
        self._let_go()
        permit, self._permit = self._permit, None
        if permit is not None:
            permit.release()
        metrics, self._metrics = self._metrics, None
        if metrics is not None:
            metrics.ended(outcome, self._picker.clock())

    def _too_large(self) -> ApiError:
        most = self._picker.settings.max_body
        return ApiError(ErrorCode.REQUEST_TOO_LARGE, f"the body has more than {most} bytes")

    def _let_go(self) -> None:
        """Nothing of the body is needed any more."""
        if self._counted:
            self._picker.bodies.give_back(self, self._counted)
            self._counted, self._body = 0, bytearray()


def _as_workers_have_it(path: str) -> str:
    """Return a path without a route's prefix, which gateways take away after they have asked."""
    if (known := next((one for one in PATHS if path.endswith(one)), None)) is not None:
        return known
    return path[max(0, path.find(model_list.PATH)) :]


def _is_unwanted(name: str, own: Mapping[str, str]) -> bool:
    """Return whether only a gateway may send a header, or it is not for workers."""
    return name not in own and (name.startswith(headers.INTERNAL_PREFIX) or name in CREDENTIALS)
