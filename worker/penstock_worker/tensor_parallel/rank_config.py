"""What a rank's process is told when it starts. No torch here."""

import msgspec

from penstock_worker.engine_config import EngineConfig


class Meeting(msgspec.Struct, frozen=True):
    """Where the ranks find each other, and for how long they wait."""

    host: str
    port: int
    """Of the store that rank 0 keeps for `torch.distributed`."""
    patience: float
    """Seconds that they wait for each other in the middle of a step."""
    silence: float
    """Seconds without a sign of life after which one is lost."""
    loading: float
    """The same while weights are loaded: reading a large tensor may stop all threads meanwhile."""


class RankConfig(msgspec.Struct, frozen=True):
    """What a rank's process is told when it starts."""

    engine: EngineConfig
    rank: int
    meeting: Meeting
    address: str
    """Of this node, by which ranks reach each other."""
