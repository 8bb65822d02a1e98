import asyncio
from ipaddress import ip_address

import pytest

from service.proxies import LimitAddresses, TrustedProxies, group_of, parse_address

PEER = "10.0.0.1"


def scope(peer=PEER, **headers):
    named = ((name.replace("_", "-").encode(), value) for name, value in headers.items())
    return {
        "type": "http",
        "scheme": "http",
        "client": peer and (peer, 1),
        "headers": [
            (name, one.encode())
            for name, value in named
            for one in (value if isinstance(value, list) else [value])
        ],
    }


class TestTrust:
    @pytest.mark.parametrize(
        ("names", "address", "trusted"),
        [
            (None, PEER, False),
            ("", "127.0.0.1", False),
            (PEER, PEER, True),
            ("10.0.0.0/8, ::1", PEER, True),
            ("10.0.0.0/8, ::1", "::1", True),
            ("10.0.0.0/8", "::ffff:10.1.2.3", True),
            ("10.0.0.0/8", "11.0.0.1", False),
            ("unix", PEER, False),
        ],
    )
    def test_an_address_or_a_network_may_be_named(self, names, address, trusted):
        assert (parse_address(address) in TrustedProxies(names)) == trusted

    def test_unix_sockets_are_named_by_a_word(self):
        assert None in TrustedProxies("unix")
        assert None not in TrustedProxies("0.0.0.0/0, ::/0")

    @pytest.mark.parametrize("names", ["*", "proxy.test", "10.0.0.1/8", "10.0.0", "1.2.3.4,,x"])
    def test_anything_else_is_refused(self, names):
        with pytest.raises(ValueError, match="is no address"):
            TrustedProxies(names)


class TestAddress:
    @pytest.mark.parametrize(
        ("value", "address"),
        [
            ("192.0.2.7", "192.0.2.7"),
            (" 192.0.2.7 ", "192.0.2.7"),
            ("192.0.2.7:443", "192.0.2.7"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]:80", "2001:db8::1"),
            ("192.0.2.9, 192.0.2.7", "192.0.2.7"),
            ("192.0.2.9, 192.0.2.7, 10.0.0.9", "192.0.2.7"),
            (["192.0.2.9", "192.0.2.7"], "192.0.2.7"),
            ("10.0.0.8, 10.0.0.9", "10.0.0.8"),
            ("192.0.2.9, unknown", PEER),
            ("192.0.2.9, nonsense, 10.0.0.9", "10.0.0.9"),
            ("", PEER),
        ],
    )
    def test_the_last_untrusted_address_counts(self, value, address):
        caller = TrustedProxies("10.0.0.0/24").caller(scope(x_forwarded_for=value))

        assert str(caller.address) == address

    @pytest.mark.parametrize(
        ("value", "address"),
        [
            ("for=192.0.2.7", "192.0.2.7"),
            ('For="[2001:db8::1]:4711";proto=https', "2001:db8::1"),
            ("for=192.0.2.9, for=192.0.2.7;by=10.0.0.1", "192.0.2.7"),
            (["for=192.0.2.9", 'for="192.0.2.7:1" , for=10.0.0.3'], "192.0.2.7"),
            ("for=_hidden", PEER),
            ("proto=https", PEER),
            ("for=192.0.2.7;;", PEER),
            ("for=192.0.2.9;", PEER),
            ('for="192.0.2.9, for=192.0.2.7', "192.0.2.7"),
            ("for=192.0.2.9;;, for=192.0.2.7", "192.0.2.7"),
            ("for", PEER),
            (";=," * 5000, PEER),
        ],
    )
    def test_forwarded_says_the_same(self, value, address):
        caller = TrustedProxies("10.0.0.0/24").caller(scope(forwarded=value))

        assert str(caller.address) == address

    def test_what_a_client_adds_to_the_other_header_is_not_read(self):
        spoofed = scope(forwarded="for=192.0.2.66", x_forwarded_for="192.0.2.7")

        assert str(TrustedProxies(PEER).caller(spoofed).address) == "192.0.2.7"

    @pytest.mark.parametrize("names", [None, "10.0.0.2"])
    def test_headers_of_others_are_not_read(self, names):
        caller = TrustedProxies(names).caller(
            scope(
                host="a",
                x_forwarded_for="192.0.2.7",
                x_forwarded_proto="https",
                x_forwarded_host="b",
                forwarded="for=192.0.2.7;proto=https;host=b",
            )
        )

        assert (str(caller.address), caller.scheme, caller.hosts) == (PEER, "http", ("a",))
        assert not caller.proxied

    def test_a_socket_without_an_address_may_be_trusted(self):
        caller = TrustedProxies("unix").caller(scope(peer=None, x_forwarded_for="192.0.2.7"))

        assert str(caller.address) == "192.0.2.7"

    @pytest.mark.parametrize("text", ["", "a", "1.2.3", "[1.2.3.4", "1.2.3.4.5", "[::1]x", "::g"])
    def test_what_is_no_address(self, text):
        assert parse_address(text) is None


class TestSchemeAndHost:
    @pytest.mark.parametrize(
        "headers",
        [
            {"x_forwarded_proto": "https", "x_forwarded_host": "b"},
            {"x_forwarded_proto": "HTTPS, http", "x_forwarded_host": "b, c"},
            {"forwarded": 'for=192.0.2.7;Proto=https;host="b"'},
        ],
    )
    def test_the_clients_own_come_first(self, headers):
        caller = TrustedProxies(PEER).caller(scope(host="a", **headers))

        assert caller.scheme == "https"
        assert (caller.hosts[0], caller.hosts[-1]) == ("a", "b")

    @pytest.mark.parametrize("scheme", ["ftp", "", "javascript"])
    def test_another_scheme_is_not_taken(self, scheme):
        caller = TrustedProxies(PEER).caller(scope(x_forwarded_proto=scheme))

        assert caller.scheme == "http"


def test_all_addresses_of_an_ipv6_network_are_one_group():
    one, other, third = map(ip_address, ("2001:db8::1", "2001:db8::ff:1", "2001:db8:0:1::1"))

    assert group_of(one) == group_of(other) != group_of(third)
    assert group_of(ip_address("192.0.2.1")) != group_of(ip_address("192.0.2.2"))


async def open_requests(limiter, scopes):
    """Send requests that all stay open; return the status of each, None if it stays open."""
    statuses = {}

    async def call(number, scope):
        async def send(message):
            statuses.setdefault(number, message.get("status"))

        await limiter(scope, None, send)

    tasks = [asyncio.create_task(call(*item)) for item in enumerate(scopes)]
    await asyncio.sleep(0)
    got = [statuses.get(number) for number in range(len(scopes))]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return got


async def wait_for_ever(scope, receive, send):
    await asyncio.Event().wait()


def test_requests_of_one_address_behind_a_proxy_are_limited():
    limiter = LimitAddresses(wait_for_ever, proxies=TrustedProxies("10.0.0.0/24"), limit=2)
    one, other = scope(x_forwarded_for="192.0.2.1"), scope(x_forwarded_for="192.0.2.2")

    for _ in range(2):  # what has ended is not counted any more
        got = asyncio.run(open_requests(limiter, [one, one, one, other, other, other]))
        assert got == [None, None, 503, None, None, 503]


@pytest.mark.parametrize("headers", [{}, {"x_forwarded_for": "10.0.0.9"}])
@pytest.mark.parametrize("peer", [PEER, "192.0.2.1", None])
def test_what_the_proxy_does_not_tell_apart_is_not_limited(headers, peer):
    limiter = LimitAddresses(wait_for_ever, proxies=TrustedProxies("10.0.0.0/24"), limit=1)

    assert asyncio.run(open_requests(limiter, [scope(peer, **headers)] * 3)) == [None] * 3
