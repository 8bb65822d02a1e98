"""The units of systemd are valid, hardened, and leave the worker what its sandbox needs."""

import re
import subprocess
import sys
from collections import defaultdict

import pytest

from service.settings import Settings as ServiceSettings
from service.standalone import valkey_command
from tests.shipping.test_compose import default, in_bytes, read
from tests.system.system import open_system
from tests.system.tools import require_tool
from tests.worker.clips import make_video
from worker import sandbox
from worker.settings import Settings as WorkerSettings

UNITS = ("rollout-valkey.service", "rollout-service.service", "rollout-worker@.service")

EXPOSURE = 2.0
"""Highest exposure of a unit, as `systemd-analyze security` rates it, from 0 to 10."""

WORKER_CALLS = frozenset(
    (
        *("clone", "clone3", "execve", "fork", "pidfd_open", "pidfd_send_signal", "prctl"),
        *("landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "seccomp"),
        *("prlimit64", "recvmsg", "sched_setaffinity", "sendmsg", "setrlimit", "socketpair"),
        *("wait4", "waitid"),
    )
)
"""System calls by which a worker starts its children, and a media process restricts itself."""


@pytest.fixture(scope="module")
def folder(root):
    return root / "deploy" / "systemd"


@pytest.fixture(scope="module")
def units(folder):
    """Return the entries of each unit: all values of each name, in order."""
    return {name: entries((folder / name).read_text()) for name in UNITS}


@pytest.fixture(scope="module")
def compose(root):
    return read(root / "docker-compose.yml")["services"]


@pytest.fixture(scope="module")
def operations(root):
    return (root / "docs" / "operations.md").read_text()


def entries(text):
    found = defaultdict(list)
    for line in text.replace("\\\n", " ").splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found[name].append(value)
    return found


def last(unit, name):
    return unit[name][-1]


def variables(path):
    lines = path.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def analyze(*arguments, cwd=None):
    command = [require_tool("systemd-analyze"), "--no-pager", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


@pytest.fixture
def verified(folder, tmp_path):
    """Return the units in a folder of their own, with programs that this machine has."""
    for name in UNITS:
        text = (folder / name).read_text()
        text = re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", text, flags=re.MULTILINE)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_systemd_accepts_the_units(verified):
    done = analyze("verify", "--man=no", *(f"./{name}" for name in UNITS), cwd=verified)
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_notices_a_misspelt_entry(verified):
    path = verified / "rollout-service.service"
    path.write_text(path.read_text().replace("ProtectClock=", "ProtectClocks="))
    done = analyze("verify", "--man=no", "./rollout-service.service", cwd=verified)
    assert "ProtectClocks" in done.stderr


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_hardly_exposed(folder, name):
    limit = f"--threshold={int(EXPOSURE * 10)}"
    done = analyze("security", "--offline=yes", limit, f"./{name}", cwd=folder)
    assert done.returncode == 0, done.stdout[-2000:]


def call_groups():
    """Return systemd's groups of system calls, each with all its calls."""
    groups, name = {}, ""
    for line in analyze("syscall-filter").stdout.splitlines():
        if line.startswith("@"):
            name = line.strip()
            groups[name] = set()
        elif line.strip() and not line.strip().startswith("#"):
            groups[name].add(line.strip())

    def expand(entry):
        if not entry.startswith("@"):
            return {entry}
        return set().union(*map(expand, groups[entry]))

    return {each: expand(each) for each in groups}


def allowed_calls(unit):
    groups = call_groups()
    allowed = set()
    for line in unit["SystemCallFilter"]:
        named = line.removeprefix("~").split()
        calls = set().union(*(groups.get(each, {each}) for each in named))
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    return allowed


def test_the_worker_may_call_what_its_sandbox_needs(units):
    allowed = allowed_calls(units["rollout-worker@.service"])
    assert {*sandbox.ALLOWED, *WORKER_CALLS} - allowed == set()
    assert not {"mount", "ptrace", "bpf", "reboot", "init_module"} & allowed


@pytest.fixture
def under_calls(units):
    """Return how to run a program with the system calls of a unit."""

    def under(name):
        calls = ",".join(sorted(allowed_calls(units[name])))
        return "tests.shipping.under_system_calls", calls

    return under


def test_jobs_succeed_with_the_system_calls_of_the_units(under_calls, tmp_path):
    video = make_video(tmp_path / "video.mp4").read_bytes()
    with open_system() as system:
        system.api(under=under_calls("rollout-service.service"))
        flags = ("--require-confinement",)
        worker = under_calls("rollout-worker@.service")
        system.worker(*flags, model="fake", under=worker)
        system.await_models("fake")
        job = system.wait(system.accepted(video))

    assert job["state"] == "succeeded", job


def test_a_missing_system_call_is_noticed(under_calls, tmp_path):
    module, calls = under_calls("rollout-worker@.service")
    fewer = ",".join(set(calls.split(",")) - {"landlock_restrict_self"})
    done = subprocess.run(
        [sys.executable, "-m", module, fewer, "worker.sandbox", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        env=sandbox.MEDIA_ENVIRONMENT,
    )
    assert done.returncode != 0 or '"landlock_abi":null' in done.stdout


def test_a_refused_call_fails_and_kills_nothing(units):
    for unit in units.values():
        assert last(unit, "SystemCallErrorNumber") == "EPERM"


def test_the_worker_finds_its_gpu(units):
    """ProtectClock allows one device, and so closes all others."""
    hides = {"PrivateDevices", "ProtectClock", "DevicePolicy", "DeviceAllow", "ProcSubset"}
    assert not (hides | {"MemoryDenyWriteExecute"}) & units["rollout-worker@.service"].keys()


def test_every_unit_runs_without_privileges(units):
    for unit in units.values():
        assert last(unit, "User") == "rollout"
        assert last(unit, "CapabilityBoundingSet") == ""
        assert last(unit, "NoNewPrivileges") == "yes"
        assert last(unit, "ProtectSystem") == "strict"
        assert last(unit, "PrivateTmp") == "yes"


def test_only_the_store_can_be_written(units, folder):
    store = variables(folder / "rollout.env")["ROLLOUT_DATA_DIR"]
    for name in ("rollout-service.service", "rollout-worker@.service"):
        assert units[name]["ReadWritePaths"] == [store]
    assert "ReadWritePaths" not in units["rollout-valkey.service"]


def test_workers_have_no_way_out(units):
    worker = units["rollout-worker@.service"]
    assert last(worker, "IPAddressDeny") == "any"
    assert last(worker, "IPAddressAllow") == "localhost"
    assert last(units["rollout-valkey.service"], "PrivateNetwork") == "yes"


@pytest.mark.parametrize(
    ("name", "service"),
    [
        ("rollout-valkey.service", "redis"),
        ("rollout-service.service", "api"),
        ("rollout-worker@.service", "worker"),
    ],
)
def test_limits_are_those_of_compose(units, compose, name, service):
    memory = last(units[name], "MemoryMax").lower()
    assert in_bytes(memory) == in_bytes(default(compose[service]["mem_limit"]))
    assert int(last(units[name], "TasksMax")) <= compose[service]["pids_limit"]


def test_valkey_has_the_options_of_compose_and_no_port(units, compose, tmp_path):
    command = last(units["rollout-valkey.service"], "ExecStart").split()[1:]
    options = dict(zip(command[::2], command[1::2], strict=True))
    theirs = compose["redis"]["command"]
    for name, value in zip(theirs[1::2], theirs[2::2], strict=True):
        assert options[name] == (default(value) if "$" in value else value)
    private = valkey_command(tmp_path)
    for name in ("--port", "--unixsocketperm", "--appendonly"):
        assert options[name] == private[private.index(name) + 1]


def test_all_find_valkey(units, folder):
    unit = units["rollout-valkey.service"]
    (socket,) = re.findall(r"--unixsocket (\S+)", last(unit, "ExecStart"))
    assert socket.startswith(f"/run/{last(unit, 'RuntimeDirectory')}/")
    assert variables(folder / "rollout.env")["ROLLOUT_REDIS_URL"] == f"unix://{socket}"
    assert f"--dir /var/lib/{last(unit, 'StateDirectory')} " in last(unit, "ExecStart")
    for name in ("rollout-service.service", "rollout-worker@.service"):
        assert "rollout-valkey.service" in last(units[name], "After").split()


def test_a_stopped_unit_has_time_to_end_its_work(units):
    for name, settings in (
        ("rollout-service.service", ServiceSettings),
        ("rollout-worker@.service", WorkerSettings),
    ):
        drain_seconds = settings.model_fields["drain_seconds"].default
        assert int(last(units[name], "TimeoutStopSec")) >= drain_seconds + 15
    assert last(units["rollout-worker@.service"], "KillMode") == "mixed"


def test_the_files_of_settings_have_settings(folder):
    for name in ("rollout.env", "worker-gpu0.env"):
        known = {*WorkerSettings.model_fields}
        known |= {*ServiceSettings.model_fields} if name == "rollout.env" else set()
        found = variables(folder / name)
        assert {key.removeprefix("ROLLOUT_").lower() for key in found} <= known
        WorkerSettings.model_validate(
            {key.removeprefix("ROLLOUT_").lower(): value for key, value in found.items()}
        )


@pytest.fixture
def installation(operations):
    """Return the commands by which the document installs the units."""
    text = operations.partition("\n## systemd\n")[2].partition("\n## ")[0]
    return [line.strip() for line in text.splitlines() if line.startswith("    ")]


def test_the_document_enables_every_unit(installation):
    (enabled,) = (line for line in installation if "systemctl enable" in line)
    names = enabled.removeprefix("systemctl enable --now ").split()
    assert [f"{name.replace('gpu0', '')}.service" for name in names] == list(UNITS)


def test_the_document_puts_every_file_where_systemd_looks(installation, root, units, tmp_path):
    """Its commands are run below a folder, for the present user."""
    (tmp_path / "etc" / "systemd" / "system").mkdir(parents=True)
    (tmp_path / "srv").mkdir()
    for line in installation:
        if line.startswith("install "):
            line = line.replace("/opt/rollout/", f"{root}/")
            line = line.replace("=rollout", "=$(id --user)", 1).replace(
                "=rollout", "=$(id --group)"
            )
            line = re.sub(r"(?<=[ =])/(etc|srv)\b", rf"{tmp_path}/\1", line)
            subprocess.run(["bash", "-c", line], check=True, timeout=20)

    assert {path.name for path in (tmp_path / "etc/systemd/system").iterdir()} == set(UNITS)
    for unit in units.values():
        for path in unit["EnvironmentFile"]:
            found = tmp_path / path.replace("%i", "gpu0").lstrip("/")
            assert path.startswith("-") or found.stat().st_mode & 0o777 == 0o600
        for path in unit["ReadWritePaths"]:
            assert (tmp_path / path.lstrip("/")).stat().st_mode & 0o777 == 0o700
