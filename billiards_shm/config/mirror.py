"""The configuration of segments between hosts."""

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, Strict

from billiards_shm.config.section import NAME_ALLOWED, Section, SegmentName

__all__ = ["MirrorConfig", "MirroredConfig"]


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


Codec = Annotated[Literal["auto", "raw", "mjpg", "jpeg", "h264"], BeforeValidator(_lower)]


class MirroredConfig(Section):
    """One entry of `mirror.receive`: a segment of another host, and its copy here."""

    origin: Annotated[str, Field(min_length=1)] = Field(
        description="The segment of the other host: `NAME`, `NAME@HOST` or `NAME@ID`",
        json_schema_extra={"option": "NAME[@HOST]", "allowed": "NAME, NAME@HOST or NAME@ID"},
    )
    name: SegmentName | None = Field(
        default=None,
        description="Name of the copy; null: as at the origin",
        json_schema_extra={"option": "--as", "allowed": f"null, or {NAME_ALLOWED}", "textual": True},
    )
    codec: Codec = Field(
        default="auto",
        description="How frames are sent: `raw` bit for bit, `mjpg` as the camera made them, `jpeg`, `h264`; `auto` "
        "chooses by the rate of the link and the time that encoding takes",
    )
    width: Annotated[int, Field(ge=16, le=32767)] | None = Field(
        default=None, description="Width in pixels that the origin scales frames down to; null: unchanged"
    )
    fps: Annotated[float, Field(ge=0.01, le=1000)] | None = Field(
        default=None, description="Most frames per second to fetch; null: all"
    )
    history: int = Field(
        default=0,
        ge=0,
        le=54,
        description="Frames before the newest that the copy keeps; if set, every frame that the origin still has is "
        "fetched in turn, and the others are counted",
    )
    open_timeout_sec: float = Field(
        default=10.0,
        ge=0.1,
        le=86400,
        description="Seconds that a host may take to offer the segment, before the process ends with exit code 3",
        json_schema_extra={"option": "--open-timeout"},
    )


_ENDPOINTS: Final = r"^(\s*[a-z0-9_-]+/[^,]+(,|$))*$"


class MirrorConfig(Section):
    """Segments of other hosts, by Zenoh."""

    host_name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^@/\s]+$")] | None = Field(
        default=None,
        description="Name of this machine in the network; null: its host name",
        json_schema_extra={"allowed": "a text without `@`, `/` and spaces, or null", "textual": True},
    )
    listen: str = Field(
        default="",
        pattern=_ENDPOINTS,
        description="Zenoh endpoints to listen on, such as `tcp/0.0.0.0:7447`; empty: any free port",
        json_schema_extra={"allowed": "endpoints (`PROTOCOL/ADDRESS`) separated by commas"},
    )
    connect: str = Field(
        default="",
        pattern=_ENDPOINTS,
        description="Zenoh endpoints to connect to, such as `tcp/192.168.1.5:7447`; empty: hosts of the local network "
        "are found by multicast",
        json_schema_extra={"allowed": "endpoints (`PROTOCOL/ADDRESS`) separated by commas"},
    )
    zenoh_config: str | None = Field(
        default=None,
        description="Configuration file of Zenoh (JSON5), for routers, TLS and access control; null: none",
        json_schema_extra={"allowed": "the path of a file, or null", "textual": True},
    )
    send: Annotated[tuple[SegmentName, ...], Strict(False)] = Field(
        default=(),
        description="Segments that `run` offers to other hosts",
        json_schema_extra={"allowed": "a list of names of segments", "option": "NAMES"},
    )
    receive: Annotated[tuple[MirroredConfig, ...], Strict(False)] = Field(
        default=(),
        description='Segments of other hosts that `run` copies: a list of {"origin": ..., ...}',
        json_schema_extra={"allowed": 'a list of {"origin": ..., "name": ..., "codec": ...}', "option": "NAME[@HOST]"},
    )
