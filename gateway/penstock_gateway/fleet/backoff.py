"""How long to wait before the next try: longer each time, and never all gateways at once."""

FIRST = 0.5
LONGEST = 20.0


def pause(failures: int, luck: float) -> float:
    """Return seconds to wait after so many failures in a row; `luck` is a random number in [0, 1).

    Half of it is left to luck: gateways that lost the same API server do not come back together.
    """
    bound = min(LONGEST, FIRST * 2.0 ** min(failures - 1, 16))
    return bound * (1.0 + luck) / 2
