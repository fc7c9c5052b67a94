"""What a supervised process can be doing."""

from enum import StrEnum

__all__ = ["SupervisedState"]


class SupervisedState(StrEnum):
    """What one supervised process does."""

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
    """A file without loop reached its end, or there were enough frames."""
    FAILED = "failed"
    """For good: a restart would fail again."""
