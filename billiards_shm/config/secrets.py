"""Masking passwords and tokens in what is logged, shown and raised.

More is masked than has to be: a password is not always where it should be (``rtsp://admin:hun/ter2@host``), and no list
has all the names that servers give to their tokens. The parts of a path stay: nothing tells a token from a folder.
"""

import re
from typing import Final

__all__ = ["has_misplaced_password", "is_secret", "without_secrets", "without_secrets_of_url"]

MASK: Final = "***"

_HARMLESS: Final = frozenset(
    {
        *("action", "app", "audio", "bitrate", "buffer_size", "cam", "camera", "ch", "channel", "chn", "codec"),
        *("compression", "fifo_size", "format", "fps", "framerate", "height", "index", "latency", "mirror", "mode"),
        *("num", "number", "overrun_nonfatal", "pkt_size", "profile", "proto", "quality", "rate", "res"),
        *("resolution", "rotation", "size", "stream", "streamtype", "subtype", "timeout", "transport"),
        *("transportmode", "ttl", "type", "unicast", "video", "videocodec", "width"),
    }
)
"""Parameters of URLs whose values are shown, because they select a picture of a server."""
_HARMLESS_VALUE: Final = re.compile(r"[\w.,-]{1,20}", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z][\w.-]{0,31}", re.ASCII)
_PARAMETER: Final = re.compile(r"[^&;]+")
# Some recorders have their parameters in the path: user=admin_password=x_channel=1.
_PATH_PARAMETER: Final = re.compile(r"(?:(?!_[A-Za-z]+=)[^&;])+")
_QUERY: Final = re.compile(r"[?#]")
_AUTHORITY_END: Final = re.compile(r"[/?#]")
_WITHOUT_USER: Final = re.compile(
    r"[^:]*|(?:localhost|[0-9]+(?:\.[0-9]+){3}|\[[^\]]*\])(?::[0-9]{0,5})?", re.IGNORECASE
)
_HOST_AND_PORT: Final = re.compile(r"[^:]*:[0-9]{0,5}|\[[^\]]*\](?::[0-9]{0,5})?")
_ENCODED_URL: Final = re.compile(r"(%(?:25)*3a%(?:25)*2f%(?:25)*2f)[^\s/?#&]*", re.IGNORECASE)

# In a text a URL ends at a blank, or where another one begins.
_SCHEME: Final = r"[A-Za-z][A-Za-z0-9+.-]{0,15}://"
_URL: Final = re.compile(rf"{_SCHEME}(?:(?!(?<=[,;|\"'()<>\[\]{{}}/]){_SCHEME})\S)*")
_URL_IN_PATH: Final = re.compile(rf"(?<=[^/]/)(?={_SCHEME})")
_PUNCTUATION: Final = "])}>,.:;'\"\\"

_BEFORE_AT: Final = re.compile(r"(?<!\S)\S*@")
_HEADER: Final = re.compile(
    r"\b((?:proxy-)?authorization|(?:set-)?cookie)\b([\"']?\s*[:=]\s*\\?[\"']?)[^\r\n\"'\\]+", re.IGNORECASE
)
_SECRETS: Final = (
    r"[\w.-]{0,40}(?:pass|pwd|pw\b|token|secret|credential|auth|signature|\bsig\b|session|cookie|jwt|api_?key|webhook"
    r"|(?:\b|[_-])key\b)[\w.-]{0,40}"
)
# As in a pipeline, in a URL whose scheme was forgotten, in JSON.
_SECRET_NAME: Final = re.compile(_SECRETS, re.IGNORECASE)
_SETTING: Final = re.compile(
    rf"""((?<![\w.-]){_SECRETS}\s*=\s*(?:\((?:string|str|s)\)\s*)?|(["']){_SECRETS}\2\s*:\s*)"""
    r"""(?:(["'])(?:(?!\3)[^\\]|\\.)*\3|\S*[^\s\])}>,.:;'"\\])""",
    re.IGNORECASE,
)


def without_secrets(text: str) -> str:
    """Mask passwords, tokens and user information wherever they appear in a text.

    Parameters
    ----------
    text : str
        With any number of URLs; or a pipeline, or JSON.
    """
    shown, position = "", 0
    while found := _URL.search(text, position):
        url = text[found.start() : _end_of_url(text, found)].rstrip(_PUNCTUATION)
        shown += _mask_words(text[position : found.start()]) + without_secrets_of_url(url)
        position = found.start() + len(url)
    return shown + _mask_words(text[position:])


def without_secrets_of_url(url: str) -> str:
    """Mask the secrets of a URL, which may have blanks in it."""
    if inner := _URL_IN_PATH.search(url):
        return without_secrets_of_url(url[: inner.start()]) + without_secrets_of_url(url[inner.start() :])
    scheme, _, rest = url.partition("://")
    shown = f"{scheme}://"
    end = _end_of_user_info(rest)
    if end > 0:
        user, _, password = rest[:end].partition(":")
        # A text alone in front of the host may be a token.
        shown += f"{user}:{MASK}" if password and "@" not in user + password[0] else MASK
        if _QUERY.search(rest[:end]):
            # The last @ may also be part of a token: then the rest of it follows.
            return shown
        shown, rest = f"{shown}@", rest[end + 1 :]
    authority, rest = _split(rest, _AUTHORITY_END)
    if ":" in authority and not _HOST_AND_PORT.fullmatch(authority):
        # A password without its host.
        authority = f"{authority.partition(':')[0]}:{MASK}"
    path, query = _split(rest, _QUERY)
    path = _ENCODED_URL.sub(rf"\1{MASK}", path)
    parts = (_PATH_PARAMETER.sub(_mask_parameter, part) if "=" in part else part for part in path.split("/"))
    return shown + authority + "/".join(parts) + query[:1] + _PARAMETER.sub(_mask_parameter, query[1:])


def is_secret(name: str) -> bool:
    """Whether the value of a setting is a secret, judging by the last word of its dotted name."""
    return _SECRET_NAME.fullmatch(name.rpartition(".")[2]) is not None


def has_misplaced_password(url: str) -> bool:
    """Whether a URL seems to have a password with ``/``, ``?`` or ``#`` in it, where its host would end."""
    rest = url.partition("://")[2]
    return _end_of_user_info(rest) > len(_split(rest, _AUTHORITY_END)[0])


def _end_of_user_info(rest: str) -> int:
    """Where the user information ends, after the scheme; -1 if there is none."""
    authority, _ = _split(rest, _AUTHORITY_END)
    return -1 if _WITHOUT_USER.fullmatch(authority) and "@" not in authority else rest.rfind("@")


def _split(text: str, at: re.Pattern[str]) -> tuple[str, str]:
    found = at.search(text)
    position = len(text) if found is None else found.start()
    return text[:position], text[position:]


def _mask_parameter(found: re.Match[str]) -> str:
    name, _, value = found[0].partition("=")
    if name.lower() in _HARMLESS and _HARMLESS_VALUE.fullmatch(value):
        return found[0]
    # A token may end with equals signs.
    return f"{name}={MASK}" if value.strip("=") and _NAME.fullmatch(name) else MASK


def _end_of_url(text: str, found: re.Match[str]) -> int:
    """Where a URL ends: not at a blank between quotation marks, nor at one in its password."""
    line = text.find("\n", found.end())
    line = len(text) if line < 0 else line
    mark = text[found.start() - 1 : found.start()]
    if mark and mark in "\"'" and mark not in found[0] and (closing := text.find(mark, found.end(), line)) >= 0:
        return closing
    authority, _ = _split(found[0].partition("://")[2], _AUTHORITY_END)
    if ":" in authority and "@" not in found[0] and not _HOST_AND_PORT.fullmatch(authority):
        return max(found.end(), text.rfind("@", found.end(), line) + 1)
    return found.end()


def _mask_words(text: str) -> str:
    """Mask secrets in text that no scheme marks as a URL."""
    text = _HEADER.sub(rf"\1\2{MASK}", text)
    text = _SETTING.sub(lambda found: f"{found[1]}{found[3] or ''}{MASK}{found[3] or ''}", text)
    text = _ENCODED_URL.sub(rf"\1{MASK}", text)
    return _BEFORE_AT.sub(_mask_user_info, text)


def _mask_user_info(found: re.Match[str]) -> str:
    user, colon, _ = found[0].partition(":")
    return f"{user}:{MASK}@" if user and colon else found[0]
