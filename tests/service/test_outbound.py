import asyncio
import logging
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service import outbound
from service.outbound import (
    AddressRefused,
    Hosts,
    HostUnknown,
    Outbound,
    is_private,
    is_public,
    parse_url,
)

PUBLIC = ("93.184.215.14", "2606:4700::1111", "::ffff:93.184.215.14", "64:ff9b::5db8:d70e")

NOT_PUBLIC = (
    *("0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.255.0.9", "169.254.169.254"),
    *("172.16.0.1", "192.168.1.1", "192.0.0.8", "192.0.2.1", "198.18.0.1", "224.0.0.1"),
    *("240.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1", "fc00::1", "fe80::1"),
    *("fe80::1%1", "fec0::1", "ff02::1", "2001:db8::1", "100::1", "64:ff9b:1::a00:1"),
    *("::ffff:10.0.0.1", "::ffff:127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::7f00:1"),
    *("2002:a00:1::1", "2002:7f00:1::", "2001:0:5db8:d70e::f5ff:fffe"),
)


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_are_public(text):
    assert is_public(ip_address(text))


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_other_addresses_are_not_public_even_inside_public_ones(text):
    assert not is_public(ip_address(text))


@pytest.mark.parametrize("text", ["169.254.169.254", "0.0.0.0", "224.0.0.1", "fe80::1", "ff02::1"])
def test_addresses_without_a_host_of_their_own_are_not_private_either(text):
    assert not is_private(ip_address(text))


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/",
        "file:///etc/passwd",
        "https:///path",
        "https://user@example.org/",
        "https://user:secret@example.org/",
        "https://example.org:0/",
        "https://example.org:/",
        "https://example.org:99999/",
        "https://example.org:x/",
        "https://exa mple.org/",
        "https://example.org\\@10.0.0.1/",
        "https://exämple.org/",
        "https://example。org/",
        "https://[::1/",
        "https://-a.org/",
        "https://a..b/",
        "https://%31%30.0.0.1/",
        "https://[fe80::1%25eth0]x/",
        "https://" + "a" * 64 + ".org/",
    ],
)
def test_refuses_what_is_not_a_plain_url(url):
    with pytest.raises(AddressRefused):
        parse_url(url)


def test_parses_host_port_and_path():
    target = parse_url("https://Example.ORG.:8443/a/b?c=d%20e#f")
    assert (target.scheme, target.host, target.port) == ("https", "example.org", 8443)
    assert target.path == "/a/b?c=d%20e"
    assert target.authority == "example.org:8443"
    assert parse_url("https://[2606:4700::1]").url_at(ip_address("2606:4700::1")) == (
        "https://[2606:4700::1]:443/"
    )


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "[::1]"),
        *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "10.0.0.1", "0", "169.254.169.254"),
    ],
)
def test_checks_hosts_written_as_addresses_before_any_look_up(host):
    with pytest.raises(AddressRefused, match="public internet"):
        Outbound(Hosts(None)).check_literal(parse_url(f"https://{host}/"))


def test_lists_of_hosts_match_names_suffixes_ports_and_addresses():
    hosts = Hosts("Hooks.corp, .lab:8080, 10.0.0.5, [fc00::1]:80")
    allowed = (
        "http://hooks.corp/",
        "https://hooks.corp:99/",
        "http://a.b.lab:8080/",
        "http://10.0.0.5/",
        "http://0xa000005/",
        "http://[fc00:0::1]/",
    )
    refused = (
        "http://a.hooks.corp/",
        "http://evilhooks.corp/",
        "http://lab:8080/",
        "http://a.lab/",
        "http://10.0.0.50/",
        "http://[fc00::1]:81/",
    )
    assert all(hosts.allow(parse_url(url)) for url in allowed)
    assert not any(hosts.allow(parse_url(url)) for url in refused)
    assert not Hosts(None)
    assert Hosts("*").allow(parse_url("http://any/"))


@pytest.mark.parametrize("names", ["a b", "http://a", "user@a", "a/b", "a:x", ".", "[::1"])
def test_refuses_lists_with_invalid_names(names):
    with pytest.raises(ValueError, match=r"not a host name|Invalid"):
        Hosts(names)


class Receiver:
    """A real HTTP server that keeps what it was sent."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.status, self.headers = 200, {"Content-Length": "2"}
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                receiver.requests.append((self.command, self.path, dict(self.headers), body))
                self.send_response(receiver.status)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port

    @contextmanager
    def running(self) -> Iterator["Receiver"]:
        thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            thread.join()
            self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver().running() as running:
        yield running


class Resolver:
    """A name server that answers each question with the next of its answers."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def send(client: Outbound, url: str, **options: Any) -> tuple[int, bytes]:
    async def run() -> tuple[int, bytes]:
        async with client.stream("POST", url, **options) as response:
            return response.status_code, b"".join([part async for part in response.aiter_raw()])

    return asyncio.run(run())


def test_connects_to_the_checked_address_with_the_hosts_name(receiver):
    resolver = Resolver(["127.0.0.1"])
    client = Outbound(Hosts("hooks.test"), resolve=resolver)
    url = f"http://hooks.test:{receiver.port}/a?b=c"
    assert send(client, url, content=b"body", headers={"X-A": "1"}) == (200, b"ok")
    method, path, headers, body = receiver.requests[0]
    assert (method, path, body) == ("POST", "/a?b=c", b"body")
    assert headers["Host"] == f"hooks.test:{receiver.port}"
    assert headers["X-A"] == "1"
    assert resolver.asked == ["hooks.test"]


def test_asks_once_so_a_changed_answer_reaches_nothing(receiver, monkeypatch):
    resolver = Resolver(["192.0.2.77"], ["127.0.0.1"])  # first the outside, then this machine
    monkeypatch.setattr(outbound, "is_public", lambda address: str(address) == "192.0.2.77")
    monkeypatch.setattr(outbound, "CONNECT_SECONDS", 0.3)
    with pytest.raises(httpx2.TransportError):
        send(Outbound(Hosts(None), resolve=resolver), f"http://rebind.test:{receiver.port}/")
    assert receiver.requests == []
    assert resolver.asked == ["rebind.test"]


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"])
def test_private_address_of_a_name_is_refused_unless_listed(receiver, address):
    client = Outbound(Hosts("other.test"), resolve=Resolver([address]))
    with pytest.raises(AddressRefused, match=r"evil\.test is not on the public internet"):
        send(client, f"http://evil.test:{receiver.port}/")
    assert receiver.requests == []


def test_one_private_address_among_public_ones_is_enough_to_refuse(receiver):
    client = Outbound(Hosts(None), resolve=Resolver(["93.184.215.14", "127.0.0.1"]))
    with pytest.raises(AddressRefused):
        send(client, f"http://mixed.test:{receiver.port}/")
    assert receiver.requests == []


def test_tries_the_next_checked_address(receiver):
    client = Outbound(Hosts("hooks.test"), resolve=Resolver(["127.9.9.9", "127.0.0.1"]))
    assert send(client, f"http://hooks.test:{receiver.port}/")[0] == 200


def test_redirects_are_not_followed(receiver):
    receiver.status = 302
    receiver.headers = {"Location": f"http://127.0.0.1:{receiver.port}/elsewhere"}
    client = Outbound(Hosts("hooks.test"), resolve=Resolver(["127.0.0.1"]))
    assert send(client, f"http://hooks.test:{receiver.port}/")[0] == 302
    assert [path for _, path, _, _ in receiver.requests] == ["/"]


def test_proxies_of_the_environment_are_not_used(receiver, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    client = Outbound(Hosts("hooks.test"), resolve=Resolver(["127.0.0.1"]))
    assert send(client, f"http://hooks.test:{receiver.port}/")[0] == 200


def test_urls_are_not_logged(receiver, caplog):
    client = Outbound(Hosts("hooks.test"), resolve=Resolver(["127.0.0.1"]))
    with caplog.at_level(logging.INFO):
        send(client, f"http://hooks.test:{receiver.port}/?token=secret")
    assert caplog.text == ""


def test_certificate_must_be_of_the_hosts_name(receiver, tmp_path: Path):
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=hooks.test"),
            *("-addext", "subjectAltName=DNS:hooks.test", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_tls.load_cert_chain(certificate, key)
    named: list[str | None] = []
    server_tls.sni_callback = lambda _socket, name, _context: named.append(name)
    receiver.server.socket = server_tls.wrap_socket(receiver.server.socket, server_side=True)
    trusting = ssl.create_default_context(cafile=certificate)
    hosts = Hosts("hooks.test, other.test")
    client = Outbound(hosts, resolve=Resolver(["127.0.0.1"]), tls=trusting)
    assert send(client, f"https://hooks.test:{receiver.port}/")[0] == 200
    with pytest.raises(httpx2.ConnectError, match="certificate"):
        send(client, f"https://other.test:{receiver.port}/")
    assert named == ["hooks.test", "other.test"]
    with pytest.raises(httpx2.ConnectError, match="certificate"):
        send(
            Outbound(hosts, resolve=Resolver(["127.0.0.1"])), f"https://hooks.test:{receiver.port}/"
        )


def test_unknown_and_slow_names_are_errors_of_the_look_up(monkeypatch):
    async def never(host: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return []

    monkeypatch.setattr(outbound, "RESOLVE_SECONDS", 0.05)
    with pytest.raises(HostUnknown, match="cannot be resolved"):
        send(Outbound(Hosts(None), resolve=never), "https://slow.test/")
    with pytest.raises(HostUnknown, match="no address"):
        send(Outbound(Hosts(None), resolve=Resolver([])), "https://empty.test/")


def test_system_resolver_finds_this_machine_and_reports_unknown_names():
    assert "127.0.0.1" in asyncio.run(outbound.resolve_in_thread("localhost", 80))
    with pytest.raises(OSError, match=r"."):
        asyncio.run(outbound.resolve_in_thread("nowhere.invalid", 80))
    with pytest.raises(OSError, match="not a host name"):
        asyncio.run(outbound.resolve_in_thread("a" * 70 + ".org", 80))


def test_names_of_this_machine_are_refused_by_their_addresses():
    with pytest.raises(AddressRefused):
        asyncio.run(Outbound(Hosts(None)).addresses(parse_url("https://localhost/")))
