"""Passwords and tokens are never shown, wherever they are in a URL, a pipeline or a message."""

import re
import time

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from billiards_shm.config.address import SourceAddress, SourceKind
from billiards_shm.config.secrets import has_misplaced_password, without_secrets, without_secrets_of_url

URLS = [
    ("rtsp://me:secret@host/path", "rtsp://me:***@host/path"),
    ("rtsp://admin:hun/ter2@127.0.0.1:1/s", "rtsp://admin:***@127.0.0.1:1/s"),
    ("rtsp://admin:hun@ter2@127.0.0.1:1/s", "rtsp://admin:***@127.0.0.1:1/s"),
    ("rtsp://admin:h@un/ter2@host/s", "rtsp://admin:***@host/s"),
    ("rtsp://admin:hun%2Fter2@host/s", "rtsp://admin:***@host/s"),
    ("rtsp://admin:12/34@host/s", "rtsp://admin:***@host/s"),
    ("rtsp://admin:hun:ter2@host:554/s", "rtsp://admin:***@host:554/s"),
    ("rtsp://me@mail.com:secret@host/s", "rtsp://***@host/s"),
    ("rtsp://token@host/s", "rtsp://***@host/s"),
    ("https://token:@host/s", "https://***@host/s"),
    ("rtsp://admin:hunter2/s", "rtsp://admin:***/s"),
    # What follows may be the end of a token, so it is masked too.
    ("rtsp://admin:hun?ter2@host/s", "rtsp://admin:***"),
    ("rtsp://admin:hun#ter2@host/s", "rtsp://admin:***"),
    ("http://me:pw@host/x?token=ab@cd", "http://me:***"),
    (
        "http://127.0.0.1:1/videostream.cgi?user=admin&pwd=hunter2",
        "http://127.0.0.1:1/videostream.cgi?user=***&pwd=***",
    ),
    ("http://h/x?loginuse=admin&loginpas=x", "http://h/x?loginuse=***&loginpas=***"),
    ("http://h/x?PWD=hun%2Fter2;channel=1", "http://h/x?PWD=***;channel=1"),
    ("http://h/x?dG9rZW4=", "http://h/x?***"),
    ("http://h/x?dG9rZW4", "http://h/x?***"),
    ("http://h/x?channel=101&subtype=0&resolution=640x480", "http://h/x?channel=101&subtype=0&resolution=640x480"),
    ("http://h/x?channel=this_is_no_channel_but_a_token", "http://h/x?channel=***"),
    (
        "https://h/v.m3u8?X-Amz-Signature=0a1b&X-Amz-Credential=c",
        "https://h/v.m3u8?X-Amz-Signature=***&X-Amz-Credential=***",
    ),
    ("srt://h:9000?mode=caller&passphrase=abc&latency=200", "srt://h:9000?mode=caller&passphrase=***&latency=200"),
    ("http://h/v#access_token=abc", "http://h/v#access_token=***"),
    ("http://10.0.0.1:80/x?token=a@b", "http://10.0.0.1:80/x?token=***"),
    (
        "rtsp://10.0.0.1:554/user=admin_password=tlJwpbo6_channel=1_stream=0.sdp?real_stream",
        "rtsp://10.0.0.1:554/user=***_password=***_channel=1_stream=0.sdp?***",
    ),
    ("rtsp://h/user=admin&password=x&channel=1", "rtsp://h/user=***&password=***&channel=1"),
    ("http://h/cam.mjpg;jsessionid=abc", "http://h/***;jsessionid=***"),
    ("http://proxy/?src=rtsp://u:p@h/", "http://proxy/?src=***"),
    ("http://proxy/rtsp://u:p@h/x", "http://proxy/rtsp://u:***@h/x"),
    ("http://proxy/rtsp%3A%2F%2Fu%3Ap%40h/x", "http://proxy/rtsp%3A%2F%2F***/x"),
    ("http://proxy/rtsp%253A%252F%252Fu%253Ap%2540h", "http://proxy/rtsp%253A%252F%252F***"),
]
HARMLESS = [
    "http://host/a:b@c",
    "http://host:8080/a:b",
    "http://[::1]:80/a@b",
    "http://[fe80::1%25eth0]/x",
    "http://127.0.0.1:80/a@b",
    "http://localhost:80/a@b",
    "rtsp://cam.local:8554/live/main",
    "udp://@239.0.0.1:1234",
    "rtp://239.0.0.1:5004",
    "rtsp://host:/x",
    "no URL: at all, a:b and c@d",
    "Stats: uptime=0.2s, fps=25.9, write_p50=0.06ms",
    "v4l2src device=/dev/video0 ! video/x-raw,format=NV12,width=640 ! appsink",
    "keyframe=4 monkey=2",
    "",
]


@pytest.mark.parametrize(("url", "shown"), URLS)
def test_the_secrets_of_a_url_are_masked(url: str, shown: str) -> None:
    assert str(SourceAddress(SourceKind.URL, url)) == shown
    for before, after in ("", ""), ("cannot open ", ": not found"), ('{"device_id": "', '"}'), ("[Errno 2] '", "'"):
        assert without_secrets(before + url + after) == before + shown + after


@pytest.mark.parametrize("text", HARMLESS)
def test_text_without_secrets_is_unchanged(text: str) -> None:
    assert without_secrets(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "rtsp://u:p@h/s, rtsp://v:q@i/t and http://x/y?t=1",
            "rtsp://u:***@h/s, rtsp://v:***@i/t and http://x/y?t=***",
        ),
        ('["rtsp://a:b@h/x","rtsp://c:d@i/y"]', '["rtsp://a:***@h/x","rtsp://c:***@i/y"]'),
        ("rtsp://a:b@h/x|rtsp://c:d@i/y", "rtsp://a:***@h/x|rtsp://c:***@i/y"),
        ("cannot open 'rtsp://me:my pass@h/s'", "cannot open 'rtsp://me:***@h/s'"),
        ("cannot open rtsp://me:my pass@h/s: no", "cannot open rtsp://me:***@h/s: no"),
        (
            "rtspsrc location=rtsp://u:p@h/s user-pw=x ! appsink",
            "rtspsrc location=rtsp://u:***@h/s user-pw=*** ! appsink",
        ),
        ('location="rtsp://u:p w@h/s" user-pw="x y" ! a', 'location="rtsp://u:***@h/s" user-pw="***" ! a'),
        ("user-pw=(string)hunter2 proxy-pw = 'x y'", "user-pw=(string)*** proxy-pw = '***'"),
        ("srtsrc uri=srt://h:9?passphrase=x ! a", "srtsrc uri=srt://h:9?passphrase=*** ! a"),
        ("admin:hunter2@10.0.0.1/stream", "admin:***@10.0.0.1/stream"),
        ("rtsp:/admin:hunter2@10.0.0.1/s", "rtsp:***@10.0.0.1/s"),
        ("cam/video.cgi?channel=1&pwd=x&user=y", "cam/video.cgi?channel=1&pwd=***"),
        ("Authorization: Basic dXNlcjpwdw==", "Authorization: ***"),
        ('headers="headers,Authorization=\\"Basic dXNl\\""', 'headers="headers,Authorization=***\\""'),
        ('{"password": "x y", "token": 5}', '{"password": "***", "token": ***}'),
        ("first\nrtsp://u:p@h\nlast", "first\nrtsp://u:***@h\nlast"),
    ],
)
def test_secrets_are_masked_anywhere_in_a_text(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


@pytest.mark.parametrize(
    ("url", "misplaced"),
    [
        ("rtsp://admin:hun/ter2@host/s", True),
        ("rtsp://admin:hun?ter2@host/s", True),
        ("rtsp://admin:hun@ter2@host/s", False),
        ("rtsp://admin:hunter2@host/s", False),
        ("rtsp://127.0.0.1:80/a@b", False),
        ("rtsp://host/a@b", False),
    ],
)
def test_an_invalid_password_in_a_url_is_noticed(url: str, misplaced: bool) -> None:
    assert has_misplaced_password(url) == misplaced


# Secrets consist of capitals, digits and signs; the text around them does not, so any part that leaks is found.

SIGNS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789ÄЖ漢" + SIGNS
HOSTS = ["cam", "cam.local", "10.0.0.1", "[::1]", "localhost"]
NAMES = [
    "pwd",
    "password",
    "passwd",
    "pass",
    "pw",
    "token",
    "auth",
    "key",
    "apikey",
    "sig",
    "secret",
    "p",
    "sid",
    "jwt",
]


def secrets(without: str = "") -> st.SearchStrategy[str]:
    alphabet = [sign for sign in ALPHABET if sign not in without]
    return st.text(alphabet, min_size=3, max_size=20).filter(
        lambda text: "://" not in text and any(map(str.isalnum, text))
    )


def pieces(secret: str) -> set[str]:
    """The parts of a secret that must not be seen: three characters in a row, at least two of them not signs."""
    found = {secret[start : start + 3] for start in range(len(secret) - 2)}
    return {piece for piece in found if sum(map(str.isalnum, piece)) > 1} | {secret}


def assert_hidden(shown: str, secret: str, public: str) -> None:
    seen = [piece for piece in pieces(secret) if piece in shown and piece not in public and piece.strip("*")]
    assert not seen, f"{shown!r} shows {seen} of {secret!r}"


@st.composite
def addresses(draw: st.DrawFn) -> str:
    """The rest of a URL after the user information: host, perhaps port, path and parameters that tell cameras apart."""
    port = draw(st.sampled_from(["", ":8", ":8554"]))
    path = draw(st.sampled_from(["", "/", "/live/main", "/a@b"]))
    return draw(st.sampled_from(HOSTS)) + port + path + draw(st.sampled_from(["", "?channel=1", "?stream=a&fps=5"]))


SURROUNDINGS = st.sampled_from(
    [
        ("", ""),
        ("cannot open ", ": not found"),
        ("'", "' is wrong"),
        ('{"x": "', '"}'),
        ("location=", " ! appsink"),
        ("(", ")"),
    ]
)
USERS = st.sampled_from(["admin", "a.b", "me@mail.com", "x-y_z"])
SCHEMES = st.sampled_from(["rtsp", "http", "https", "rtmp", "srt", "rtsp+x", "RTSP"])


@hypothesis_settings(max_examples=300)
@given(SCHEMES, USERS, secrets(), addresses(), SURROUNDINGS)
@example("rtsp", "admin", "HUN/TER2", "cam/s", ("", ""))
@example("rtsp", "a.b", "1/ABC", "cam/s", ("", ""))
@example("rtsp", "admin", "AB@C/D?EF", "cam", ("'", "'"))
def test_no_password_of_a_url_is_ever_shown(
    scheme: str, user: str, secret: str, address: str, surroundings: tuple[str, str]
) -> None:
    url = f"{scheme}://{user}:{secret}@{address}"
    before, after = surroundings
    public = f"{scheme}://{user}:***@{address}"
    assert_hidden(without_secrets_of_url(url), secret, public)
    assert_hidden(without_secrets(before + url + after), secret, before + public + after)
    assert_hidden(str(SourceAddress.parse(url)), secret, public)


@hypothesis_settings(max_examples=300)
@given(SCHEMES, secrets(without="/?#:"), addresses(), SURROUNDINGS)
def test_no_user_information_without_a_password_is_ever_shown(
    scheme: str, secret: str, address: str, surroundings: tuple[str, str]
) -> None:
    before, after = surroundings
    for url in f"{scheme}://{secret}@{address}", f"{scheme}://{secret}:@{address}":
        public = f"{scheme}://***@{address}"
        assert_hidden(without_secrets(before + url + after), secret, before + public + after)


@pytest.mark.slow
@hypothesis_settings(max_examples=300)
@given(
    st.sampled_from(["", "admin:x@"]),
    addresses().filter(lambda address: "?" not in address),
    st.lists(st.tuples(st.sampled_from(NAMES), secrets(without="&;")), min_size=1, max_size=3),
    st.sampled_from(["channel=1", "user=x", ""]),
    st.sampled_from("?#"),
    SURROUNDINGS,
)
def test_no_parameter_of_a_url_shows_a_secret(
    user: str, address: str, given: list[tuple[str, str]], more: str, mark: str, surroundings: tuple[str, str]
) -> None:
    before, after = surroundings
    url = f"http://{user}{address}{mark}{more}" + "".join(f"&{name}={secret}" for name, secret in given)
    public = f"{before}http://{user}{address}{mark}{more}{after}" + "".join(f"&{name}=***" for name, _ in given)
    for _, secret in given:
        assert_hidden(without_secrets(before + url + after), secret, public)
        assert_hidden(str(SourceAddress.parse(url)), secret, public)


@hypothesis_settings(max_examples=300)
@given(st.sampled_from(["user-pw", "proxy-pw", "passphrase", "password"]), secrets(without="\"'\\"))
def test_no_property_of_a_pipeline_shows_a_secret(name: str, secret: str) -> None:
    for value in secret, f'"{secret}"', f'"{secret} {secret}"', f"'{secret}'", f"(string){secret}":
        pipeline = f"rtspsrc location=rtsp://cam/s {name}={value} ! decodebin ! appsink"
        shown = str(SourceAddress.parse(pipeline))
        assert_hidden(shown, secret, pipeline.replace(secret, ""))
        assert shown.endswith(" ! decodebin ! appsink")


@hypothesis_settings(max_examples=300)
@given(USERS.filter(lambda user: "@" not in user), secrets(), addresses())
def test_a_forgotten_scheme_shows_no_password_either(user: str, secret: str, address: str) -> None:
    assert_hidden(str(SourceAddress.parse(f"{user}:{secret}@{address}")), secret, f"{user}:***@{address}")


@pytest.mark.slow
@hypothesis_settings(max_examples=300)
@given(st.text(st.characters(codec="utf-8"), max_size=60), st.sampled_from(URLS), st.text(max_size=60))
def test_any_text_can_be_masked_and_other_lines_are_kept(before: str, url: tuple[str, str], after: str) -> None:
    shown = without_secrets(f"first line\n{before}{url[0]}{after}\nlast line")
    assert shown.startswith("first line\n")
    assert shown.endswith("\nlast line")
    assert not re.search(r"hunter2|hun.ter2", shown)


@pytest.mark.parametrize("piece", ["a", "a-", "a:", "a@", "pass", "pass=", "%3A%2F%2F", '"', "/a_=", "x://"])
def test_masking_a_long_text_takes_time_in_proportion_to_its_length(piece: str) -> None:
    def seconds(length: int) -> float:
        text = piece * (length // len(piece))
        started = time.process_time()
        without_secrets(text)
        return time.process_time() - started

    seconds(1000)
    # Quadratic time would be a hundredfold.
    assert seconds(50_000) < 40 * max(seconds(5_000), 0.002)
