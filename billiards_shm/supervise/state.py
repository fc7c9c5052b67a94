"""What a supervised source can be doing."""

from enum import StrEnum

__all__ = ["SupervisedState"]


class SupervisedState(StrEnum):
    """What one supervised source does."""

    STARTING = "starting"
    STREAMING = "streaming"
    RECONNECTING = "reconnecting"
    HUNG = "hung"
    """Its process is being ended, to be restarted."""
    WAITING = "waiting"
    """For its next start."""
    STOPPING = "stopping"
    STOPPED = "stopped"
    FINISHED = "finished"
    """A file without loop came to its end, or there were enough frames."""
    FAILED = "failed"
    """For good: a restart would fail again."""
