"""What holds inside a container: its user, its rights, its files, its limits, its network.

Each check returns what it found, for the report, and fails by AssertionError.
"""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tests.containers.site import PROJECT, CommandError, Site

USERS = {"redis": "999", "api": "10001", "worker": "10001", "worker-fake": "10001"}
WRITABLE = ("/data", "/tmp")
READ_ONLY = ("/", "/etc", "/opt", "/usr/bin", "/var/tmp", "/run", "/home")
TMP_KIB = 64 * 1024

CONNECT = "import socket; socket.create_connection(({host!r}, {port}), 5)"
OUTSIDE = ("deb.debian.org", 80)
"""A host that an image of Debian is built from, so it answers wherever images are built."""


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
    said = str(*set(re.findall(r"media is confined: (.*)", site.log(service))))
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
    """The worker reaches no host outside, neither by name nor by address; the API does."""
    name, port = OUTSIDE
    address = socket.gethostbyname(name)
    assert not _connects(site, service, address, port), address
    assert not _connects(site, service, name, port), name
    if _connects(site, "api", address, port):
        return f"{name}: neither by name nor by address; the API, for comparison, reaches it"
    return f"{name}: neither by name nor by address; but the API did not reach it, either"


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


def _connects(site: Site, service: str, host: str, port: int) -> bool:
    try:
        site.within(service, "python", "-c", CONNECT.format(host=host, port=port))
    except CommandError:
        return False
    return True


@contextmanager
def _listening() -> Iterator[int]:
    """Listen on all addresses of this machine; yield the port."""
    with socket.create_server(("0.0.0.0", 0)) as server:  # for a moment
        yield server.getsockname()[1]
