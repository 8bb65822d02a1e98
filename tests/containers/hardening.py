"""What holds inside a container: its user, its rights, its files, its limits, its network.

Each check returns what it found, for the report, and fails by AssertionError.
"""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tests.containers.site import PROJECT, Site

USERS = {"redis": "999", "api": "10001", "worker": "10001", "worker-fake": "10001"}
WRITABLE = ("/data", "/tmp")
READ_ONLY = ("/", "/etc", "/opt", "/usr/bin", "/var/tmp", "/run", "/home")
TMP_KIB = 64 * 1024

CONNECT = "import socket; socket.create_connection(({host!r}, {port}), 5)"
UNREACHABLE = """
import errno, socket
try:
    socket.create_connection(("192.0.2.1", 443), 5)
except OSError as error:
    assert error.errno == errno.ENETUNREACH, error
else:
    raise SystemExit("connected")
"""
"""An address that nobody has: without a route the kernel refuses at once, with one it waits."""


def is_unprivileged(site: Site, service: str) -> str:
    """Every process: the fixed user, no capability, no new privileges."""
    states = site.shell(service, "cat /proc/[0-9]*/status")
    users = set(re.findall(r"^Uid:\t(.*)$", states, re.MULTILINE))
    assert users == {"\t".join([USERS[service]] * 4)}, users
    capabilities = re.findall(r"^Cap(?:Prm|Eff|Bnd|Amb):\t(\w+)$", states, re.MULTILINE)
    assert capabilities
    assert not any(int(mask, 16) for mask in capabilities), capabilities
    assert set(re.findall(r"^NoNewPrivs:\t(\d)$", states, re.MULTILINE)) == {"1"}
    return f"{states.count('Uid:')} processes, user {USERS[service]}"


def is_read_only(site: Site, service: str) -> str:
    """Nothing but /data and /tmp can be written, and /tmp is small."""
    for folder in READ_ONLY:
        written = site.shell(service, f"touch {folder}/x 2>/dev/null && echo written || true")
        assert not written, folder
    for folder in WRITABLE:
        site.shell(service, f"touch {folder}/x && rm {folder}/x")
    size = site.shell(service, "df -k /tmp").splitlines()[-1].split()[1]
    assert int(size) == TMP_KIB, size
    assert site.inspect(service, "{{.HostConfig.ReadonlyRootfs}}") == "true"
    return f"writes to {' and '.join(WRITABLE)} only; /tmp has {TMP_KIB // 1024} MiB"


def is_limited(site: Site, service: str) -> str:
    """Memory and processes have limits."""
    memory, processes = site.inspect(
        service, "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}"
    ).split()
    assert int(memory) > 0
    assert 0 < int(processes) <= 1024
    return f"{int(memory) // 2**20} MiB, {processes} processes"


def is_confined(site: Site, service: str) -> str:
    """The worker requires both layers of the sandbox, and says that they are in force."""
    assert "ROLLOUT_REQUIRE_CONFINEMENT=true" in site.within(service, "env").splitlines()
    (said,) = set(re.findall(r"media is confined: (.*)", site.log(service)))
    assert re.search(r"files by Landlock ABI \d+, system calls by seccomp", said), said
    return said


def media_has_a_filter_of_its_own(site: Site, service: str) -> str:
    """A media process has more seccomp filters than the supervisor that it comes from."""
    states = site.shell(service, "cat /proc/[0-9]*/status").split("Name:\t")[1:]
    filters = {
        state.splitlines()[0]: int(found[1])
        for state in states
        if (found := re.search(r"^Seccomp_filters:\t(\d+)$", state, re.MULTILINE))
    }
    assert "media" in filters, f"no media process among {sorted(filters)}"
    rest = max(count for name, count in filters.items() if not name.startswith("media"))
    assert filters["media"] > rest, filters
    return f"{filters['media']} seccomp filters, the supervisor {rest}"


def has_no_way_out(site: Site, service: str) -> str:
    """No route but that of its own network, and nothing of the internet in reach."""
    destinations = _routes(site, service)
    assert destinations
    assert "00000000" not in destinations, destinations
    site.within(service, "python", "-c", UNREACHABLE)
    assert "00000000" in _routes(site, "api"), "the API has no default route: nothing was compared"
    return "no default route; the API, which has a network more, has one"


def reaches_what_the_docs_say(site: Site, service: str) -> str:
    """A worker reaches Redis, the API, and what the host opens to the bridge: docs/security.md."""
    network = f"{PROJECT}_backend"
    gateway = site.docker(
        "network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", network
    )
    with _listening() as port:
        for host, its_port in (("redis", 6379), ("api", 8000), (gateway, port)):
            site.within(service, "python", "-c", CONNECT.format(host=host, port=its_port))
    return "Redis, the API, and a port that the host opens on 0.0.0.0"


def _routes(site: Site, service: str) -> list[str]:
    lines = site.within(service, "cat", "/proc/net/route").splitlines()[1:]
    return [line.split()[1] for line in lines]


@contextmanager
def _listening() -> Iterator[int]:
    """Listen on all addresses of this machine; yield the port."""
    with socket.create_server(("0.0.0.0", 0)) as server:  # for a moment
        yield server.getsockname()[1]
