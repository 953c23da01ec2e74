"""One request of a tenant: what it may have, and what it uses."""

from collections.abc import Callable

from penstock_contract import headers
from penstock_contract.errors import ApiError, ErrorCode
from penstock_contract.fleet import FleetClass, FleetModel, FleetQueue
from penstock_gateway.tenants.meter import Meter
from penstock_gateway.tenants.tenant import Tenant
from penstock_gateway.tenants.usage import Usage

_NO_QUEUE = FleetQueue()


class TenantRequest:
    """One request of a tenant, from its head to its end.

    Args:
        tenant: who asks.
        meter: of what it has used.
        clock: monotonic seconds.
        spare: it belongs to a batch, which gets nothing but what is to spare.
    """

    def __init__(
        self, tenant: Tenant, meter: Meter, clock: Callable[[], float], *, spare: bool = False
    ) -> None:
        self.tenant = tenant
        self.spare = spare
        self.priority: int | None = None
        """Of the request's class, once it is known."""
        self._usage = Usage(0)
        self._counts = False
        self._meter = meter
        self._clock = clock
        self._reserved = 0
        self._inside = False

    def begin(self) -> None:
        """Count the request.

        Raises:
            LimitReached: there are too many, at once or in a minute.
        """
        self._meter.begin(self._clock())
        self._inside = True

    def count(self) -> None:
        """Count a request that no worker is asked for: it needs no `finish`.

        Raises:
            LimitReached: there are too many in a minute.
        """
        self._meter.count(self._clock())

    def authorize(
        self, name: str, model: FleetModel, wanted_class: str, prompt_tokens: int, most: int
    ) -> FleetClass:
        """Check that the tenant may ask that, reserve its tokens, and return its request class.

        Args:
            name: by which the model is asked for.
            model: that it names.
            wanted_class: the request class that is asked for; may be empty.
            prompt_tokens: estimate.
            most: tokens that the answer may have; 0 when the request does not say.

        Raises:
            ApiError: the tenant may not have that, or not now.
        """
        if not self.tenant.may_use(name, model):
            raise model_not_found(name)
        queue = model.queue or _NO_QUEUE
        if self.spare:
            found = self.tenant.spare_class(queue)
        else:
            found = self.tenant.request_class(queue, wanted_class)
        self._reserved = self._meter.reserve(prompt_tokens + most, self._clock())
        self._usage = Usage(prompt_tokens)
        self.priority = found.priority
        return found

    def refused(self, code: ErrorCode) -> None:
        """It is not admitted; for want of room, a batch's comes again, and is counted once."""
        if self.spare and self._inside and code is ErrorCode.NO_CAPACITY:
            self._meter.uncount(self._clock())

    def answered(self, status: int) -> None:
        """An answer begins; a refusal uses nothing."""
        self._counts = bool(self.tenant.id) and status < 400

    def saw(self, piece: bytes) -> None:
        """A piece of the answer has passed by."""
        if self._counts:
            self._usage.saw(piece)

    def computed(self, tokens: int) -> None:
        """So many tokens of prompt and answer were seen; 0: nobody could tell."""
        if self._counts and tokens:
            self._usage.seen = tokens

    @property
    def tokens(self) -> int:
        """Tokens that were used."""
        return self._usage.tokens

    def finish(self) -> None:
        """The request is over, whatever became of it."""
        if self._inside:
            self._inside = False
            self._meter.settle(self._reserved, self.tokens, self._clock())

    @property
    def trusted_headers(self) -> list[tuple[str, str]]:
        """What a worker is told of the tenant."""
        if not (self.tenant.id or self.spare):
            return []
        found = [(headers.CACHE_SALT, self.tenant.salt)] if self.tenant.id else []
        if self.priority is not None:
            found.append((headers.PRIORITY, str(self.priority)))
        return found

    @property
    def told_headers(self) -> list[tuple[str, str]]:
        """What the client is told of its limits."""
        if not self._meter.limited:
            return []
        return [*self._meter.left(self._clock()).items()]


def model_not_found(name: str) -> ApiError:
    """Return the refusal for a model that is not there, or not there for this caller."""
    return ApiError(
        ErrorCode.MODEL_NOT_FOUND,
        f"The model {name!r} does not exist. GET /v1/models lists those that do.",
        param="model",
    )
