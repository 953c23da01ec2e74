"""The queue of requests that wait for admission, the most urgent first. Plain Python."""

import heapq

from penstock_worker.request import Request


class WaitingQueue:
    """A heap from which anybody may leave.

    Who leaves stays in the heap until its turn comes, or until most of the heap has left: when many
    clients go at once, none of them costs a walk through the queue.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[int, int], Request]] = []
        self._present: set[Request] = set()

    def __len__(self) -> int:
        return len(self._present)

    def push(self, request: Request) -> None:
        """Add a request; one that was discarded does not come back."""
        self._present.add(request)
        heapq.heappush(self._heap, (request.urgency, request))

    def first(self) -> Request:
        """Return the most urgent request; there must be one."""
        while self._heap[0][1] not in self._present:
            heapq.heappop(self._heap)
        return self._heap[0][1]

    def pop(self) -> Request:
        """Take the most urgent request out; there must be one."""
        request = self.first()
        heapq.heappop(self._heap)
        self._present.remove(request)
        return request

    def discard(self, request: Request) -> None:
        """Take out a request that may be in the queue."""
        self._present.discard(request)
        if len(self._heap) > 2 * len(self._present):  # what has left must not be kept for long
            self._heap = [entry for entry in self._heap if entry[1] in self._present]
            heapq.heapify(self._heap)
