"""Who may see what: token, password, cookie, signed addresses, hosts, and pages of other sites."""

import base64
import contextlib
import itertools
import logging
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import command_line
import pytest
from segments_under_test import picture, wait_until
from serving import Address, ServeProcess, served
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from billiards_shm import SharedMemoryFrameWriter
from billiards_shm.serve import create_app, sign_url
from billiards_shm.serve.access import Access
from billiards_shm.serve.server import _with_mapped
from billiards_shm.serve.wrong_tokens import AT_ONCE, INTERVAL_S, REMEMBERED_ADDRESSES, WrongTokens

SHAPE = (24, 32, 3)


@pytest.fixture
def writer(segment_name: str) -> Iterator[SharedMemoryFrameWriter]:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        writer.write_frame(picture(1))
        yield writer


@pytest.fixture(autouse=True)
def nothing_runs_on() -> Iterator[None]:
    yield
    command_line.end_started()


def request_scope(path: str = "/", query: str = "", **headers: str) -> dict[str, Any]:
    named = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http", "path": path, "query_string": query.encode(), "headers": named, "client": ("10.0.0.7", 1)}


def with_password(password: str, user: str = "anybody") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


CHALLENGES = 'Basic realm="billiards_shm", charset="UTF-8", Bearer'
PROTECTED = ["/readyz", "/metrics", "/api/segments", "/api/clients", "/api/events", "/openapi.json", "/nothing"]


def test_a_token_is_needed_for_everything_except_liveness(segment_name: str) -> None:
    with served(create_app([segment_name], token="open sesame")) as server:
        assert server.get("/healthz").status == 200
        more = [f"/stream/{segment_name}.mjpg", f"/snapshot/{segment_name}.jpg", f"/health/{segment_name}"]
        for path in PROTECTED + more:
            answer = server.get(path)
            assert (answer.status, answer.headers["www-authenticate"]) == (401, CHALLENGES), path
            assert "token" in answer.json["detail"]
        for wrong in ("Bearer", "Bearer ", "Bearer open", "Bearer open sesame!", "Basic open sesame", "Bearer \u00e9"):
            assert server.get("/api/segments", Authorization=wrong.encode("latin-1").decode("latin-1")).status == 401
        assert server.get("/api/segments", Authorization="Bearer open sesame").status == 200
        assert server.get("/api/segments", Authorization="bearer open sesame").status == 200


def test_a_browser_logs_in_with_a_form_and_gets_a_cookie_that_does_not_hold_the_token(segment_name: str) -> None:
    with served(create_app([segment_name], token="open sesame")) as server:
        page = server.get("/")
        assert (page.status, page.headers["location"]) == (303, "login")
        assert b"<form" in server.get("/login").body
        wrong = server.request("POST", "/login", b"token=open", Content_Type="application/x-www-form-urlencoded")
        assert (wrong.status, wrong.headers["location"]) == (303, "login#wrong")
        assert "set-cookie" not in wrong.headers
        right = server.request("POST", "/login", b"token=open+sesame")
        assert (right.status, right.headers["location"]) == (303, "./")
        cookie = right.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "Secure" not in cookie
        assert "sesame" not in cookie
        value = cookie.partition(";")[0]
        assert server.get("/", Cookie=value).status == 200
        assert server.get("/api/segments", Cookie=value).status == 200
        name = value.partition("=")[0]
        assert name == f"billiards_shm_{server.port}", "browsers send cookies to every port of a host"
        for wrong in (value[:-1], name, f"{name}=", f"{name}=9{value.partition('=')[2]}", f"billiards_shm{value}"):
            assert server.get("/api/segments", Cookie=wrong).status == 401
        for more in (f'other={{"a"; {value}', f"{value}; {name}=old", f"{name}=; {value}"):
            assert server.get("/api/segments", Cookie=more).status == 200, "other cookies do not matter"
        assert server.request("POST", "/login", b"token=" + b"x" * 5000).status == 413
    with served(create_app([segment_name], token="another")) as server:
        assert server.get("/api/segments", Cookie=value).status == 401, "a new token ends old sessions"


def test_tokens_and_cookies_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return False

    monkeypatch.setattr("billiards_shm.serve.access.hmac.compare_digest", compare)
    monkeypatch.setattr("billiards_shm.serve.signed_urls.hmac.compare_digest", compare)
    access = Access("secret")
    basic = "Basic " + base64.b64encode(b"user:secret").decode()
    assert access.grant(request_scope(Authorization="Bearer secret")) is None
    assert access.grant(request_scope(Authorization=basic)) is None
    assert access.grant(request_scope(Cookie="billiards_shm=99999999999.abc")) is None
    assert access.grant(request_scope(query="expires=99999999999&signature=abc")) is None
    assert [one for one, _ in compared] == [b"secret", b"secret", b"99999999999.abc", b"abc"], "nothing else decides"


def test_large_requests_are_not_examined_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    access = Access("secret")
    digests = []
    monkeypatch.setattr("billiards_shm.serve.access.hmac.digest", lambda *_: digests.append(1) or b"")
    assert access.grant(request_scope(Cookie="billiards_shm=9.x; " * 1000)) is None
    assert access.grant(request_scope(query="a=1&" * 1000 + "expires=99999999999&signature=a")) is None
    assert len(digests) <= 8


@pytest.mark.parametrize("token", ["", "  "])
def test_an_empty_token_is_an_error_and_not_an_open_door(token: str) -> None:
    with pytest.raises(ValueError, match="empty"):
        create_app(token=token)


def test_websockets_need_the_token_too(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    writer.write_frame(picture(1))
    with served(create_app([segment_name], token="secret")) as server:
        url = server.url(f"/ws/{segment_name}", "ws")
        with pytest.raises(InvalidStatus) as refused, connect(url):
            pass
        assert refused.value.response.status_code == 403
        with connect(url, additional_headers={"Authorization": "Bearer secret"}) as socket:
            assert isinstance(socket.recv(10), bytes)


def test_pages_of_other_sites_may_not_open_websockets(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    writer.write_frame(picture(1))
    with served(create_app([segment_name])) as server:
        url = server.url(f"/ws/{segment_name}", "ws")
        with pytest.raises(InvalidStatus), connect(url, origin="http://evil.example"):
            pass
        with connect(url, origin=f"http://127.0.0.1:{server.port}") as socket:
            assert isinstance(socket.recv(10), bytes)


def test_a_foreign_host_name_that_resolves_here_is_not_answered() -> None:
    with served(create_app([], allowed_hosts=["table.example"])) as server:
        for known in ("127.0.0.1", "127.0.0.1:8000", "[::1]:8000", "localhost", "TABLE.example:80", "a.localhost"):
            assert server.get("/api/segments", Host=known).status == 200, known
        for foreign in ("evil.example", "table.example.evil", "localhost.evil"):
            assert server.get("/api/segments", Host=foreign).status == 421, foreign
        assert server.get("/healthz", Host="evil.example").status == 200
    with served(create_app([], allowed_hosts=[], token="secret")) as server:
        assert server.get("/api/segments", Host="any.example", Authorization="Bearer secret").status == 200


def test_every_answer_has_the_headers_that_keep_browsers_careful(segment_name: str) -> None:
    with served(create_app([segment_name], token="secret")) as server:
        paths = ["/", "/login", "/healthz", "/api/segments", "/nothing", "/static/page.js", "/static/nothing"]
        for path in [*paths, f"/stream/{segment_name}.mjpg?fps=0"]:
            for headers in ({}, {"Authorization": "Bearer secret"}):
                found = server.get(path, **headers).headers
                if found.get("content-type", "").startswith("text/html"):
                    policy = found["content-security-policy"]
                    assert "default-src 'none'" in policy
                    assert "frame-ancestors 'none'" in policy
                    assert "unsafe" not in policy
                else:
                    assert "content-security-policy" not in found, "an image has to be shown as usual"
                assert found["x-content-type-options"] == "nosniff"
                assert found["x-frame-options"] == "DENY"
                assert found["cross-origin-resource-policy"] == "same-origin"
                assert "server" not in found or "uvicorn" in found["server"]


SHOP = "https://shop.example"


def test_only_allowed_sites_may_embed(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    writer.write_frame(picture(1))
    path = f"/snapshot/{segment_name}.jpg"
    app = create_app([segment_name], token="secret", allowed_origins=[SHOP, " HTTP://10.0.0.5:8123/ "])
    with served(app) as server:
        open_ = {"Authorization": "Bearer secret"}
        policy = server.get("/login").headers["content-security-policy"]
        assert "frame-ancestors 'self' https://shop.example http://10.0.0.5:8123" in policy
        assert "x-frame-options" not in server.get("/login").headers
        for origin, allowed in ((SHOP, True), ("http://10.0.0.5:8123", True), ("https://shop.example.evil", False),
                                ("http://shop.example", False), ("null", False)):  # fmt: skip
            read = server.get(path, Origin=origin, **open_)
            assert (read.headers.get("access-control-allow-origin") == origin) == allowed, origin
            assert (read.headers["cross-origin-resource-policy"] == "cross-origin") == allowed, origin
            shown = server.get(path, Referer=f"{origin}/a/page?b=c", **open_)
            assert (shown.headers["cross-origin-resource-policy"] == "cross-origin") == allowed, origin
            asked = server.request("OPTIONS", path, Origin=origin, Access_Control_Request_Method="GET",
                                   Access_Control_Request_Headers="authorization")  # fmt: skip
            assert (asked.status == 200) == allowed, origin
            url = server.url(f"/ws/{segment_name}", "ws")
            with contextlib.ExitStack() as stack:
                if not allowed:
                    stack.enter_context(pytest.raises(InvalidStatus))
                stack.enter_context(connect(url, origin=origin, additional_headers=open_))
        assert "X-Frame-Sequence" in server.get(path, Origin=SHOP, **open_).headers["access-control-expose-headers"]
        assert server.get(path, Origin=SHOP).status == 401, "an allowed site has no token yet"
        assert server.get(path, **open_).headers["cross-origin-resource-policy"] == "same-origin"


def test_every_site_may_be_allowed(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    writer.write_frame(picture(1))
    with served(create_app([segment_name], allowed_origins=["*"])) as server:
        found = server.get(f"/snapshot/{segment_name}.jpg", Origin=SHOP).headers
        assert found["access-control-allow-origin"] == "*"
        assert found["cross-origin-resource-policy"] == "cross-origin"
        assert "frame-ancestors 'self' *" in server.get("/").headers["content-security-policy"]


@pytest.mark.parametrize("wrong", ["shop.example", "https://", "https://a/b", "https://a;script-src b", "ftp://a"])
def test_an_invalid_origin_is_an_error(wrong: str) -> None:
    with pytest.raises(ValueError, match="is not an origin"):
        create_app(allowed_origins=[wrong])
    with pytest.raises(TypeError, match="a list"):
        create_app(allowed_origins=SHOP)


# Passwords.


def test_the_token_is_a_password_for_any_user_name(segment_name: str) -> None:
    with served(create_app([segment_name], token="öpen: sesame")) as server:
        for user in ("", "admin", "äöü"):
            assert server.get("/api/segments", Authorization=with_password("öpen: sesame", user)).status == 200
        bearer = "Bearer öpen: sesame".encode().decode("latin-1")
        assert server.get("/api/segments", Authorization=bearer).status == 200
        without_user = "Basic " + base64.b64encode("öpen".encode()).decode()
        for wrong in (with_password("open"), with_password(""), without_user, "Basic", "Basic !", "Digest x"):
            assert server.get("/api/segments", Authorization=wrong).status == 401, wrong


def test_browsers_ask_for_a_password_at_an_address_and_not_within_a_page() -> None:
    browser = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"
    with served(create_app([], token="secret")) as server:

        def challenges(**headers: str) -> str:
            return server.get("/api/segments", **headers).headers["www-authenticate"]

        assert challenges(User_Agent=browser, Accept="text/html,*/*;q=0.8") == CHALLENGES
        assert challenges(User_Agent=browser, Accept="image/avif,*/*;q=0.8") == "Bearer"
        assert challenges(User_Agent=browser) == "Bearer"


# Wrong tokens.


def test_an_address_that_sends_many_wrong_tokens_has_to_wait_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("billiards_shm.serve.wrong_tokens.time.monotonic", lambda: now)
    wrong = WrongTokens()
    guesses = (str(number).encode() for number in itertools.count())
    for _ in range(AT_ONCE):
        assert wrong.wait_s("10.0.0.7") == 0
        assert wrong.count("10.0.0.7", next(guesses))
    assert wrong.wait_s("10.0.0.7") == INTERVAL_S
    assert wrong.wait_s("::ffff:10.0.0.7") == INTERVAL_S, "the same address"
    assert wrong.wait_s("10.0.0.8") == 0
    now += INTERVAL_S
    assert wrong.wait_s("10.0.0.7") == 0
    assert wrong.count("10.0.0.7", b"old")
    assert wrong.wait_s("10.0.0.7") == INTERVAL_S
    assert not wrong.count("10.0.0.7", b"old"), "repeating the same token is not guessing"
    assert wrong.wait_s("10.0.0.7") == INTERVAL_S
    now += 100 * INTERVAL_S
    for _ in range(AT_ONCE):
        wrong.count("2001:db8:1:2::1", next(guesses))
    assert wrong.wait_s("2001:db8:1:2:ffff::9") > 0, "one client can have all addresses of a network"
    assert wrong.wait_s("2001:db8:1:3::1") == 0
    assert wrong.wait_s("10.0.0.7") == 0


def test_counting_wrong_tokens_takes_bounded_memory() -> None:
    wrong = WrongTokens()
    for number in range(2 * REMEMBERED_ADDRESSES):
        wrong.count(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", b"x" * 10_000)
        wrong.count("x" * 10_000 + str(number), str(number).encode())
    assert len(wrong) == REMEMBERED_ADDRESSES


def test_while_an_addresss_tokens_are_ignored_cookies_and_other_addresses_work(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("billiards_shm.serve.access"), "filters", [])
    with served(create_app([], token="secret")) as server, caplog.at_level(logging.WARNING):
        right = server.request("POST", "/login", b"token=secret")
        cookie = right.headers["set-cookie"].partition(";")[0]
        for _ in range(2):
            for number in range(AT_ONCE - 1):
                assert server.get("/metrics", Authorization=f"Bearer {number // 2 * 2}").status == 401
        for number in range(AT_ONCE // 2 - 1):
            assert server.get("/metrics", Authorization=f"Bearer {number}.").status == 401
        assert server.request("POST", "/login", b"token=guess").headers["location"] == "login#wrong"
        for authorization in ("Bearer secret", "Bearer guess", with_password("secret")):
            refused = server.get("/metrics", Authorization=authorization)
            assert refused.status == 429
            assert 0 < int(refused.headers["retry-after"]) <= INTERVAL_S
        assert server.request("POST", "/login", b"token=secret").headers["location"] == "login#wait"
        assert server.get("/metrics", Cookie=cookie).status == 200
        assert server.get(sign_url("/metrics", "secret")).status == 200
        assert server.get("/metrics").status == 401, "without a token there is nothing to check"
        assert server.get("/metrics", Authorization="Bearer secret", X_Forwarded_For="10.0.0.9").status == 200
    lines = [record.getMessage() for record in caplog.records if record.name == "billiards_shm.serve.access"]
    assert lines[0] == "Wrong token from '127.0.0.1', in a header"
    assert lines[-1] == "Wrong token from '127.0.0.1', in the login form"
    assert len(lines) == AT_ONCE


# Proxies.


def set_cookie_of(server: Address, **headers: str) -> str:
    return server.request("POST", "/login", b"token=secret", **headers).headers["set-cookie"]


def test_the_cookie_is_secure_if_a_trusted_proxy_says_that_there_is_tls() -> None:
    with ServeProcess("nothing", "--token", "secret") as running:
        assert "Secure" in set_cookie_of(running.address, X_Forwarded_Proto="https")
        assert "Secure" not in set_cookie_of(running.address, X_Forwarded_Proto="http")
    with ServeProcess("nothing", "--token", "secret", "--trusted-proxies", "10.0.0.0/8") as running:
        assert "Secure" not in set_cookie_of(running.address, X_Forwarded_Proto="https")
        for number in range(AT_ONCE):
            running.address.get("/metrics", Authorization=f"Bearer {number}", X_Forwarded_For=f"10.0.0.{number}")
        assert running.address.get("/metrics", Authorization="Bearer guess", X_Forwarded_For="1.2.3.4").status == 429


def test_a_proxy_may_be_written_as_addresses_of_either_kind() -> None:
    assert _with_mapped("10.0.0.1, 192.168.0.0/16,::1,") == [
        "10.0.0.1/32", "192.168.0.0/16", "::1/128", "::ffff:10.0.0.1/128", "::ffff:192.168.0.0/112",
    ]  # fmt: skip
    assert _with_mapped("::1,*") == ["*"]
    assert _with_mapped("") == []
    wrong = command_line.call("serve", "--trusted-proxies", "proxy.example")
    assert wrong.returncode == 2
    assert "proxy.example" in wrong.stderr


def test_cookies_of_other_ports_and_prefixes_have_other_names() -> None:
    from fastapi import FastAPI

    parent = FastAPI()
    parent.mount("/video", create_app([], token="secret"))
    with served(parent) as server:
        host = f"127.0.0.1:{server.port}"
        for known, name in (
            (host, f"billiards_shm_{server.port}_video"), ("cams.example", "billiards_shm__video"),
            ("[::1]:81", "billiards_shm_81_video"), ("a:b:99999999", "billiards_shm__video"),
        ):  # fmt: skip
            answer = server.request("POST", "/video/login", b"token=secret", Host=known)
            assert answer.headers["set-cookie"].startswith(f"{name}="), known
            assert "path=" not in answer.headers["set-cookie"].lower(), "browsers use the login page's"


# Log out.


def test_logging_out_removes_the_cookie() -> None:
    with served(create_app([], token="secret")) as server:
        cookie = set_cookie_of(server).partition("=")[0]
        answer = server.request("POST", "/logout")
        assert (answer.status, answer.headers["location"]) == (303, "login")
        removed = answer.headers["set-cookie"]
        assert removed.startswith(f'{cookie}=""; ')
        assert "Max-Age=0" in removed
        assert server.get("/logout").status == 405, "no image of another site may log users out"


def test_pages_of_other_sites_may_not_log_in_or_out() -> None:
    with served(create_app([], token="secret", allowed_origins=[SHOP])) as server:
        own = f"http://127.0.0.1:{server.port}"
        for path in ("/login", "/logout"):
            for origin in (SHOP, "http://evil.example", "null", "http://127.0.0.1", own + ".evil"):
                answer = server.request("POST", path, b"token=secret", Origin=origin)
                assert (answer.status, "set-cookie" in answer.headers) == (403, False), origin
            assert server.request("POST", path, b"token=secret", Origin=own).status == 303


def test_no_page_without_its_own_origin_may_log_in_even_if_no_host_is_named() -> None:
    with served(create_app([], token="secret")) as server:
        assert server.request("POST", "/login", b"token=secret", Host="", Origin="null").status == 403
        assert server.request("POST", "/login", b"token=secret", Host="").status == 303


def test_no_link_leads_to_a_host_named_by_the_request() -> None:
    with served(create_app([], token="secret")) as server:
        for path in ("/static/x/", "/login/", "/metrics/", "//evil.example/", "/healthz/"):
            for access in ({}, {"Authorization": "Bearer secret"}):
                answer = server.get(path, Host="evil.example", **access)
                assert answer.status in (401, 404), path
                assert "location" not in answer.headers


def test_pages_of_other_sites_may_not_open_websockets_by_what_a_browser_adds(
    segment_name: str, writer: SharedMemoryFrameWriter
) -> None:
    with served(create_app([segment_name], token="secret")) as server:
        cookie = set_cookie_of(server).partition(";")[0]
        url = server.url(f"/ws/{segment_name}", "ws")
        for added in ({"Cookie": cookie}, {"Authorization": with_password("secret")}):
            with connect(url, additional_headers=added) as socket:
                assert isinstance(socket.recv(10), bytes)
            for origin in ("http://evil.example", "null"):
                with pytest.raises(InvalidStatus), connect(url, origin=origin, additional_headers=added):
                    pass


def test_a_session_ends_after_a_month(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(create_app([], token="secret")) as server:
        cookie = set_cookie_of(server).partition(";")[0]
        expires = int(cookie.partition("=")[2].partition(".")[0])
        assert expires > time.time() + 29 * 86400
        assert server.get("/metrics", Cookie=cookie).status == 200
        monkeypatch.setattr("billiards_shm.serve.access.time.time", lambda: expires + 1)
        assert server.get("/metrics", Cookie=cookie).status == 401


# Signed addresses.


def test_a_signed_address_needs_no_token(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    with served(create_app([segment_name], token="secret")) as server:
        for path in (
            "/",
            "/metrics",
            f"/snapshot/{segment_name}.jpg",
            f"/snapshot/{segment_name}.jpg?width=16&quality=9",
        ):
            address = sign_url(path, "secret")
            answer = server.get(address)
            assert answer.status == 200, address
            assert answer.headers["cross-origin-resource-policy"] == "cross-origin", "pages of any site may show it"
            assert "access-control-allow-origin" not in answer.headers
            assert server.get(address + "&t=1&_=2&t=3").status == 200, "what pages add to fetch a picture again"
            assert server.request("HEAD", address).status == 200
            assert server.request("POST", address).status == 405
            refused = server.get(sign_url(path, "another"))
            assert refused.status in (401, 303)
            assert refused.status == 303 or b"this signed address has expired, or was changed" in refused.body


def changed(address: str) -> Iterator[str]:
    """A signed address of `/snapshot/NAME.jpg?width=16`, with changes that could give access to more."""
    path, _, query = address.partition("?")
    signature = query.rpartition("=")[2]
    expires = query.rpartition("&")[0].rpartition("=")[2]
    for other in (
        path[:-4] + ".png", path + "/", "/" + path, path.replace("/", "//"), path.replace("snapshot", "stream"),
        "/snapshot/../api/segments", path + "%00", path + "%0a", path.replace("/snapshot", "/snapshot%2f"),
        path + ";x", path.upper(),
    ):  # fmt: skip
        yield f"{other}?{query}"
    for other in ("&width=17", "&fps=1", "&width=16", "&quality=90", "&expires=99999999999", f"&expires={expires}",
                  f"&signature={signature}", "&signature=", "&Width=1", "&%77idth=17", "&max_age=1", "&a"):  # fmt: skip
        yield address + other
        yield f"{path}?{other[1:]}&{query}"
    later = str(int(expires) + 1)
    for wrong in (later, "0" + expires, expires + " ", "+" + expires, "-1", expires + ".0", "1e12", "", "nan", "inf",
                  "9" * 400, "\u0661" * 10, expires[:-1] + "\u0661"):  # fmt: skip
        yield address.replace(f"expires={expires}", f"expires={quote(wrong)}")
    for wrong in ("", "0" * 64, signature[:-1], signature + "0", signature.upper(), "\u00e9" * 64, "%00"):
        yield address.replace(signature, quote(wrong, safe="%"))
    yield address.replace("width=16", "width=17")
    yield address.replace("width=16&", "")
    yield address.replace("width=16", "width=16;width=17")
    yield address.replace("&signature", "&Signature")
    yield f"{path}?signature={signature}"
    yield f"{path}?expires={expires}"


def test_unsigned_addresses_give_no_access(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    with served(create_app([segment_name], token="secret")) as server:
        address = sign_url(f"/snapshot/{segment_name}.jpg?width=16", "secret")
        assert server.get(address).status == 200
        tried = 0
        for other in changed(address):
            assert server.get(other).status == 401, other
            tried += 1
        print(f"{tried} other addresses")
        reordered = "?".join((address.partition("?")[0], "&".join(reversed(address.partition("?")[2].split("&")))))
        assert server.get(reordered).status == 200
        assert server.get(address.replace("snapshot", "snaps%68ot")).status == 200, "another way to write the same"


def test_a_signed_address_may_have_any_name_in_it() -> None:
    name = 'dir/t\u00e4ble 1 "#?%&<b>;=+.seg'
    with served(create_app([name], token="secret")) as server:
        for safe in ("", "/"):
            path = f"/health/{quote(name, safe=safe)}"
            for written in (path, path.replace("%20", " "), path.replace("%C3%A4", "\u00e4")):
                assert server.get(sign_url(written, "secret")).json["name"] == name


def test_a_signed_address_works_below_a_prefix(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    from fastapi import FastAPI

    parent = FastAPI()
    parent.mount("/video", create_app([segment_name], token="secret"))
    with served(parent) as server:
        assert server.get("/video" + sign_url(f"/snapshot/{segment_name}.jpg", "secret")).status == 200
        assert server.get(sign_url(f"/video/snapshot/{segment_name}.jpg", "secret")).status == 401, "with the prefix"


def test_a_stream_ends_when_its_address_does(segment_name: str, writer: SharedMemoryFrameWriter) -> None:
    with served(create_app([segment_name], token="secret")) as server:
        signed = sign_url(f"/stream/{segment_name}.mjpg", "secret", seconds=1)
        expires = int(signed.partition("expires=")[2].partition("&")[0])
        socket_address = server.url(sign_url(f"/ws/{segment_name}", "secret", seconds=1), "ws")
        with server.stream(signed) as stream, connect(socket_address) as socket:
            assert stream.part().headers["x-frame-sequence"] == "1"
            assert isinstance(socket.recv(10), bytes)
            with pytest.raises(EOFError):
                stream.part()
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(30)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "the access has expired")
        assert time.time() >= expires
        assert server.get(signed).status == 401
        wait_until(lambda: server.get("/api/clients", Authorization="Bearer secret").json == [])


@pytest.mark.slow
def test_a_stream_whose_address_expires_before_the_first_picture_is_503(
    segment_name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("billiards_shm.serve.streams.FIRST_FRAME_S", 600)
    with served(create_app([segment_name], token="secret")) as server:
        answer = server.get(sign_url(f"/stream/{segment_name}.mjpg", "secret", seconds=2))
    assert (answer.status, answer.json["detail"]) == (503, "the stream ended before it had a frame")
    assert "retry-after" in answer.headers
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    ("path", "token", "seconds", "about"),
    [
        ("metrics", "secret", 1, "not a path"), ("//evil.example/", "secret", 1, "not a path"),
        ("http://host/metrics", "secret", 1, "not a path"), ("/a#b", "secret", 1, "not a path"),
        (f"/?{'a=1&' * 999}", "secret", 1, "too long"), ("/", " ", 1, "token is empty"),
        ("/", "secret", 0, "up to"), ("/", "secret", -1, "up to"),
        ("/", "secret", float("nan"), "up to"), ("/", "secret", float("inf"), "up to"), ("/", "secret", 1e9, "up to"),
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_signed_is_an_error(path: str, token: str, seconds: float, about: str) -> None:
    with pytest.raises(ValueError, match=about):
        sign_url(path, token, seconds=seconds)


def test_the_command_signs_with_the_token_of_the_configuration() -> None:
    variable = {"BILLIARDS_SHM__SERVE__TOKEN": "secret"}
    for text, seconds in (("90", 90), ("90s", 90), ("1.5m", 90), ("1h", 3600), ("7d", 7 * 86400)):
        before = time.time()
        answer = command_line.call("serve", "--sign", "/stream/a.mjpg?fps=5", "--for", text, **variable)
        assert answer.returncode == 0, answer.stderr
        path, _, query = answer.stdout.rstrip("\n").partition("?")
        fields = dict(field.split("=") for field in query.split("&"))
        assert (path, fields["fps"]) == ("/stream/a.mjpg", "5")
        assert before + seconds <= int(fields["expires"]) <= time.time() + seconds + 1
    for wrong in (("--sign", "x"), ("--sign", "/", "--for", "1y"), ("--sign", "/", "--for", "0")):
        assert command_line.call("serve", *wrong, **variable).returncode == 2
    assert "no token" in command_line.call("serve", "--sign", "/").stderr


# curl.


def curl(*arguments: str) -> str:
    """The status code that curl got."""
    command = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "30", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_curl_knows_every_way_in(segment_name: str, writer: SharedMemoryFrameWriter, tmp_path: Path) -> None:
    with ServeProcess(segment_name, "--token", "secret") as running:
        url = running.address.url(f"/snapshot/{segment_name}.jpg")
        assert curl(url) == "401"
        assert curl("-u", "me:secret", url) == "200"
        assert curl("--anyauth", "-u", "me:secret", url) == "200", "chooses by the challenge"
        assert curl("-u", "me:wrong", url) == "401"
        assert curl("-H", "Authorization: Bearer secret", url) == "200"
        jar = ("-b", str(tmp_path / "jar"), "-c", str(tmp_path / "jar"))
        assert curl(*jar, "-d", "token=secret", running.address.url("/login")) == "303"
        assert curl(*jar, url) == "200"
        assert curl(*jar, "-X", "POST", running.address.url("/logout")) == "303"
        assert curl(*jar, url) == "401"
        signed = command_line.run("serve", "--sign", f"/snapshot/{segment_name}.jpg", "--token", "secret").stdout
        assert curl(running.address.url(signed.strip())) == "200"
        for number in range(AT_ONCE):
            curl("-u", f"me:{number}", url)
        assert curl("-u", "me:secret", url) == "429"
    assert "Wrong token from '127.0.0.1'" in running.log
