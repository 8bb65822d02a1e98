"""Clients of Redis by its URL: forms, passwords, TLS, sentinels; with real servers."""

import asyncio
import threading
import time
from pathlib import Path

import pytest
from redis import BlockingConnectionPool, ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from rollout_core.jobs.redis_url import RedisUrl, database_of
from tests.system.tls import Authority, tls_proxy
from tests.system.valkey_group import running_group
from tests.system.waiting import wait_until

SECRET = "s3cret"
ONCE = Retry(NoBackoff(), 0)
SECONDS = 30.0


def parameters(text: str, **options) -> dict[str, object]:
    """Return with what a client would connect."""
    with RedisUrl.parse(text).open(**options) as client:
        given = dict(client.connection_pool.connection_kwargs)
    login = given.pop("credential_provider", None)
    names = ("host", "port", "path", "db", "ssl_ca_certs", "ssl_cert_reqs", "ssl_check_hostname")
    found = {name: given[name] for name in names if name in given}
    return found | ({"login": login.get_credentials()} if login else {})


class TestParse:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("redis://h:1/2", {"host": "h", "port": 1, "db": 2}),
            ("redis://h", {"host": "h"}),
            ("redis://:p%40ss@h", {"host": "h", "login": ("p@ss",)}),
            ("redis://me:pass@h/0", {"host": "h", "db": 0, "login": ("me", "pass")}),
            ("redis://me@h", {"host": "h", "login": ("me", "")}),
            ("unix:///a/s?db=3", {"path": "/a/s", "db": 3}),
            ("unix://:pass@/a/s", {"path": "/a/s", "login": ("pass",)}),
            (
                "rediss://h:2",
                {"host": "h", "port": 2, "ssl_cert_reqs": "required", "ssl_check_hostname": True},
            ),
        ],
    )
    def test_a_url_names_one_server(self, text, expected):
        assert RedisUrl.parse(text).sentinels is None
        assert parameters(text) == expected

    @pytest.mark.parametrize(
        ("text", "addresses", "expected"),
        [
            ("redis+sentinel://a/m", [("a", 26379)], {}),
            ("redis+sentinel://a:1,b,[::1]:3/m/4", [("a", 1), ("b", 26379), ("::1", 3)], {"db": 4}),
            ("redis+sentinel://me:p%2Fw@a:1/m", [("a", 1)], {"login": ("me", "p/w")}),
            (
                "rediss+sentinel://a:1/m?ssl_check_hostname=no",
                [("a", 1)],
                {"ssl_cert_reqs": "required", "ssl_check_hostname": False},
            ),
        ],
    )
    def test_a_url_may_name_sentinels(self, text, addresses, expected):
        group = RedisUrl.parse(text).sentinels
        assert (group.master, list(group.addresses)) == ("m", addresses)
        assert parameters(text) == expected

    def test_sentinels_have_a_login_of_their_own_and_the_tls_of_the_servers(self):
        text = "rediss+sentinel://:inner@a/m?sentinel_username=you&sentinel_password=outer"
        group = RedisUrl.parse(text).sentinels
        assert group.options["credential_provider"].get_credentials() == ("you", "outer")
        assert group.options["ssl"] is True
        assert group.options["ssl_check_hostname"] is True
        assert parameters(text)["login"] == ("inner",)

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("http://h", "must begin with one of redis"),
            (f"redis://:{SECRET}/@h", "cannot be read"),
            (f"redis://:x/{SECRET}@h:1", "cannot be read"),
            (f"redis://:[{SECRET}@h", "cannot be read"),
            (f"redis://:{SECRET}@h/zero", "the database must be a number"),
            (f"redis://:{SECRET}@h?colour=red", "unknown option 'colour'"),
            (f"redis://:{SECRET}@h?db=x", "'db'"),
            (f"rediss://:{SECRET}@h?ssl_cert_reqs=often", "often"),
            (f"rediss://:{SECRET}@h?ssl_ca_certs=/no/ca.pem", "there is no file /no/ca.pem"),
            (f"redis+sentinel://:{SECRET}@h:1", "must name the master"),
            (f"redis+sentinel://:{SECRET}@h:1/m/x", "the database must be a number"),
            (f"redis+sentinel://:{SECRET}@/m", "at least one sentinel"),
            (f"redis+sentinel://:{SECRET}@h:1,g:x/m", "cannot be read"),
        ],
    )
    def test_what_cannot_be_used_is_refused_without_its_password(self, text, reason):
        with pytest.raises(ValueError, match=reason) as caught:
            RedisUrl.parse(text)
        assert SECRET not in str(caught.value)

    def test_no_representation_shows_a_password(self):
        text = f"redis+sentinel://me:{SECRET}@a/m?sentinel_password={SECRET}"
        url = RedisUrl.parse(text)
        with url.open() as client:
            assert SECRET not in f"{url!r} {client!r} {client.connection_pool!r}"
            with pytest.raises(RedisConnectionError) as caught:
                client.ping()
        assert SECRET not in str(caught.value)


@pytest.fixture
def user(redis, redis_url):
    """Return the URL of the server for a user with a password, without that password."""
    redis.acl_setuser("app", enabled=True, passwords=[f"+{SECRET}"], keys=["*"], commands=["+@all"])
    yield redis_url.replace("unix://", "unix://app@")
    redis.acl_deluser("app")


class TestPassword:
    def test_it_is_told_to_the_server(self, user):
        with RedisUrl.parse(user.replace("app@", f"app:{SECRET}@")).open() as client:
            assert client.acl_whoami() == "app"
        with (
            RedisUrl.parse(user.replace("app@", "app:wrong@")).open() as client,
            pytest.raises(AuthenticationError) as caught,
        ):
            client.ping()
        assert "wrong" not in str(caught.value)

    @pytest.mark.parametrize("end", ["", "\n", "\r\n"])
    def test_it_may_be_in_a_file(self, user, tmp_path, end):
        file = tmp_path / "password"
        file.write_bytes(f"{SECRET}{end}".encode())
        url = RedisUrl.parse(user, file)
        with url.open() as client:
            assert client.acl_whoami() == "app"

        async def whoami() -> str:
            async with url.opened_async() as client:
                return await client.acl_whoami()

        assert asyncio.run(whoami()) == "app"

    def test_a_new_one_in_the_file_is_used_by_the_next_connection(self, redis, user, tmp_path):
        file = tmp_path / "password"
        file.write_text(SECRET)
        with RedisUrl.parse(user, file).open() as client:
            assert client.ping()
            redis.execute_command("ACL", "SETUSER", "app", "resetpass", ">other")
            file.write_text("other")
            client.connection_pool.disconnect()
            assert client.ping()

    def test_a_file_that_cannot_be_used_is_named(self, tmp_path):
        empty, binary = tmp_path / "empty", tmp_path / "binary"
        empty.write_text("\n")
        binary.write_bytes(b"\xff\xfe")
        for file, reason in ((empty, "is empty"), (binary, "is not UTF-8"), (tmp_path, "cannot")):
            with pytest.raises(ValueError, match=reason) as caught:
                RedisUrl.parse("redis://h", file)
            assert str(file) in str(caught.value)

    def test_it_is_not_given_twice(self, tmp_path):
        file = tmp_path / "password"
        file.write_text("other")
        with pytest.raises(ValueError, match="give one of them") as caught:
            RedisUrl.parse(f"redis://:{SECRET}@h", file)
        assert SECRET not in str(caught.value)


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def port(authority, redis_url):
    with tls_proxy(Path(redis_url.removeprefix("unix://")), *authority.issue("localhost")) as port:
        yield port


class TestTls:
    @staticmethod
    def ping(text: str) -> bool:
        """Call with both kinds of client; each of them must fail, or none."""
        url = RedisUrl.parse(text)

        async def ping() -> bool:
            async with url.opened_async() as client:
                return await client.ping()

        try:
            with url.open() as client:
                answers = [client.ping()]
        except RedisConnectionError:
            with pytest.raises(RedisConnectionError):
                asyncio.run(ping())
            raise
        return all([*answers, asyncio.run(ping())])

    def test_a_server_with_a_certificate_of_the_authority_is_used(self, port, authority):
        assert self.ping(f"rediss://localhost:{port}?ssl_ca_certs={authority.certificate}")

    def test_a_certificate_of_another_authority_is_refused(self, port, tmp_path):
        other = Authority(tmp_path / "other")
        with pytest.raises(RedisConnectionError, match=r"(?i)certificate verify failed"):
            self.ping(f"rediss://localhost:{port}?ssl_ca_certs={other.certificate}")
        with pytest.raises(RedisConnectionError, match=r"(?i)certificate verify failed"):
            self.ping(f"rediss://localhost:{port}")

    def test_a_certificate_of_another_name_is_refused(self, port, authority):
        address = f"rediss://127.0.0.1:{port}?ssl_ca_certs={authority.certificate}"
        with pytest.raises(RedisConnectionError, match=r"(?i)ip address mismatch"):
            self.ping(address)
        assert self.ping(f"{address}&ssl_check_hostname=false")

    def test_a_server_may_ask_for_a_certificate_of_the_client(self, authority, redis_url):
        socket_path = Path(redis_url.removeprefix("unix://"))
        own, key = authority.issue("client")
        server = authority.issue("localhost")
        with tls_proxy(socket_path, *server, clients=authority.certificate) as port:
            text = f"rediss://localhost:{port}?ssl_ca_certs={authority.certificate}"
            assert self.ping(f"{text}&ssl_certfile={own}&ssl_keyfile={key}")
            with pytest.raises(RedisConnectionError):
                self.ping(text)


def test_the_database_of_a_client_is_known(redis_url):
    for number in (0, 5):
        with RedisUrl.parse(f"{redis_url}?db={number}").open() as client:
            assert database_of(client) == number
            assert client.client_info()["db"] == number


@pytest.fixture(scope="module")
def group():
    with running_group() as group:
        yield group


class TestSentinel:
    @pytest.mark.parametrize("pool", [ConnectionPool, BlockingConnectionPool])
    def test_a_client_finds_the_next_master(self, group, pool):
        url = RedisUrl.parse(group.url.removesuffix("/0") + "/2")
        with url.open(pool, retry=ONCE, socket_timeout=2, max_connections=4) as client:
            client.set("key", 1)
            before = port_of(client)
            group.await_ready()
            group.fail_over()
            # Until the sentinels tell it that it is a replica, the old master takes what comes.
            wait_until(lambda: can_write(client) and port_of(client) != before, SECONDS)
            assert client.get("key") == b"1"
            assert client.client_info()["db"] == 2
        group.await_ready()

    def test_a_shared_pool_keeps_its_size_while_no_master_answers(self, group):
        unknown = RedisUrl.parse(group.url.replace("/rollout/", "/unknown/"))
        with unknown.open(BlockingConnectionPool, retry=ONCE, max_connections=3) as client:
            for _ in range(10):
                with pytest.raises(RedisConnectionError, match="No master found"):
                    client.ping()
            assert len(client.connection_pool._connections) <= 3

    def test_a_shared_pool_serves_threads_through_a_failover(self, group):
        with RedisUrl.parse(group.url).open(
            BlockingConnectionPool, retry=ONCE, max_connections=3, timeout=5, socket_timeout=2
        ) as client:
            over = threading.Event()

            def write() -> None:
                while not over.is_set():
                    can_write(client)
                    time.sleep(0.01)

            threads = [threading.Thread(target=write) for _ in range(6)]
            for thread in threads:
                thread.start()
            group.await_ready()
            group.fail_over()
            over.set()
            for thread in threads:
                thread.join()
            wait_until(lambda: can_write(client), SECONDS, "the new master")
            assert len(client.connection_pool._connections) <= 3
        group.await_ready()

    def test_a_dead_sentinel_is_passed_over(self, group):
        text = group.url.replace("redis+sentinel://", "redis+sentinel://127.0.0.1:1,")
        with RedisUrl.parse(text).open(retry=ONCE) as client:
            assert client.ping()

    def test_an_asynchronous_client_finds_the_master(self, group):
        async def role() -> bytes:
            async with RedisUrl.parse(group.url).opened_async() as client:
                return (await client.role())[0]

        assert asyncio.run(role()) == b"master"


def port_of(client: Redis) -> int:
    return int(client.info("server")["tcp_port"])


def can_write(client: Redis) -> bool:
    try:
        return bool(client.set("other", 1))
    except RedisConnectionError:
        return False
