import copy
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML, SafeConstructor

from service.settings import Settings as ServiceSettings
from worker.messages import MediaOptions
from worker.settings import Settings as WorkerSettings

CHECK = Path(sys.executable).parent / "check-jsonschema"
WORKERS = {"worker", "worker-fake"}
OURS = {"api", *WORKERS}


class Reset:
    """The value of a key with `!reset`: it removes the key of the file below."""


class ComposeConstructor(SafeConstructor):
    """A YAML constructor that knows Compose's tag `!reset`."""


ComposeConstructor.add_constructor("!reset", lambda *_: Reset)


def read(path):
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = ComposeConstructor
    return yaml.load(path)


def merge(below, above):
    """Merge two compose files as Compose merges mappings."""
    merged = copy.deepcopy(below)
    for key, value in above.items():
        if value is Reset:
            merged.pop(key)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def started(compose, *profiles):
    """Return the names of the services that `docker compose --profile … up` starts."""
    return {
        name
        for name, service in compose["services"].items()
        if not service.get("profiles") or set(service["profiles"]) & set(profiles)
    }


def wants_gpu(service):
    return "gpu" in str(service.get("deploy")) or "gpus" in service or "runtime" in service


def default(value):
    """Return the default of a value of the form `${NAME:-DEFAULT}`."""
    return re.fullmatch(r"\$\{ROLLOUT_\w+:-(.+)\}", value)[1]


def in_bytes(size):
    """Return the bytes of a size such as `64m`."""
    return int(size[:-1]) << {"m": 20, "g": 30}[size[-1]]


def own_environment(service):
    """Return the variables of a service without that of OpenTelemetry, which is no setting."""
    environment = dict(service["environment"])
    assert environment.pop("OTEL_EXPORTER_OTLP_ENDPOINT") == "${OTEL_EXPORTER_OTLP_ENDPOINT:-}"
    return environment


def field_name(variable):
    """Return the field of the settings that an environment variable sets."""
    return variable.removeprefix("ROLLOUT_").lower()


@pytest.fixture(scope="module")
def base(root):
    return read(root / "docker-compose.yml")


@pytest.fixture(scope="module")
def cpu(root, base):
    return merge(base, read(root / "docker-compose.cpu.yml"))


@pytest.fixture(scope="module")
def bucket(root, base):
    return merge(base, read(root / "deploy" / "compose.bucket.yml"))


@pytest.fixture(params=["base", "cpu", "bucket"])
def compose(request):
    return request.getfixturevalue(request.param)


def test_fits_the_schema(compose, tmp_path):
    YAML(typ="safe").dump(compose, tmp_path / "compose.yml")
    done = subprocess.run(
        [CHECK, "--builtin-schema", "vendor.compose-spec", tmp_path / "compose.yml"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout


def test_a_profile_starts_its_services(compose):
    assert started(compose) == {"redis", "api"}
    assert started(compose, "torch") == {"redis", "api", "worker"}
    assert started(compose, "fake") == {"redis", "api", "worker-fake"}


def test_only_the_torch_worker_wants_a_gpu(base):
    gpu = {name for name, service in base["services"].items() if wants_gpu(service)}
    assert gpu == {"worker"}


def test_each_worker_chooses_among_all_gpus_by_a_claim_in_the_shared_volume(base):
    """With fewer, `--scale` would give all of them the same."""
    worker = base["services"]["worker"]
    (devices,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert devices == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert worker["environment"]["ROLLOUT_DEVICE"] == "${ROLLOUT_DEVICE:-cuda}"
    assert "artifacts:/data" in worker["volumes"]


def test_cpu_override_changes_only_the_gpu_and_the_image(base, cpu):
    expected = copy.deepcopy(base)
    worker = expected["services"]["worker"]
    del worker["deploy"]
    worker["environment"]["ROLLOUT_DEVICE"] = "cpu"
    worker["image"] = "timesformer-rollout-worker-cpu"
    index = "${ROLLOUT_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}"
    arguments = worker["build"]["args"] | {"TORCH_INDEX": index}
    worker["build"] |= {"target": "worker-cpu", "args": arguments}
    assert cpu == expected


def test_every_service_is_hardened(compose):
    for service in compose["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert 0 < service["pids_limit"] <= 1024
        assert service["tmpfs"] == ["/tmp:size=64m"]
        assert not service.get("privileged")
        assert "cap_add" not in service


def test_memory_of_every_service_is_limited_and_can_be_set(compose):
    limits = {name: default(service["mem_limit"]) for name, service in compose["services"].items()}
    assert all(re.fullmatch(r"\d+[mg]", limit) for limit in limits.values())
    variables = [
        service["mem_limit"].partition(":-")[0] for service in compose["services"].values()
    ]
    assert len(set(variables)) == len(variables)
    # The media process has its own limit. It must be reached first: then only one job fails.
    for name in WORKERS:
        assert in_bytes(limits[name]) > MediaOptions.model_fields["memory_bytes"].default


def test_redis_refuses_writes_long_before_its_container_is_full(compose):
    redis = compose["services"]["redis"]
    options = dict(zip(redis["command"][1::2], redis["command"][2::2], strict=True))
    assert options["--maxmemory-policy"] == "noeviction"
    limit = in_bytes(default(options["--maxmemory"]).removesuffix("b"))
    assert 2 * limit < in_bytes(default(redis["mem_limit"]))  # its fork doubles changed pages


def test_volumes_and_networks_are_declared(compose):
    for service in compose["services"].values():
        sources = {volume.partition(":")[0] for volume in service["volumes"]}
        assert {source for source in sources if source.isalnum()} <= set(compose["volumes"])
        assert set(service["networks"]) <= set(compose["networks"])


def test_service_and_workers_share_one_store(compose):
    for name in OURS:
        service = compose["services"][name]
        assert "artifacts:/data" in service["volumes"]
        assert service["environment"]["ROLLOUT_DATA_DIR"] == "/data"
        assert service["environment"]["ROLLOUT_REDIS_URL"] == "redis://redis:6379/0"


def test_checkpoints_are_mounted_read_only(compose):
    mounts = [v for v in compose["services"]["worker"]["volumes"] if ":/checkpoints" in v]
    assert len(mounts) == 1
    assert mounts[0].endswith(":/checkpoints:ro")


def test_workers_have_no_way_out_but_to_a_bucket(compose, bucket):
    assert compose["networks"]["backend"]["internal"] is True
    for name in (*WORKERS, "redis"):
        way_out = ["bucket"] if compose is bucket and name in WORKERS else []
        assert compose["services"][name]["networks"] == ["backend", *way_out]
        assert "ports" not in compose["services"][name]


def test_the_bucket_override_changes_only_the_networks_of_workers(base, bucket):
    expected = copy.deepcopy(base)
    for name in WORKERS:
        expected["services"][name]["networks"] = ["backend", "bucket"]
    expected["networks"]["bucket"] = None
    assert bucket == expected


def test_credentials_of_a_bucket_reach_the_containers_by_the_file_of_settings(compose):
    for name in OURS:
        service = compose["services"][name]
        assert {"path": ".env", "required": False} in service["env_file"]
        assert not any(key.startswith("AWS_") for key in service["environment"])


def test_redis_stores_its_data(compose):
    redis = compose["services"]["redis"]
    assert re.fullmatch(r"valkey/valkey:\d+\.\d+", default(redis["image"]))
    assert " ".join(redis["command"]).startswith("valkey-server --appendonly yes")
    assert "redis:/data" in redis["volumes"]
    assert "ping" in redis["healthcheck"]["test"]
    # As root without capabilities, its entrypoint could not read what its first run had left.
    assert redis["user"] == "valkey"
    for name in OURS:
        depends = compose["services"][name]["depends_on"]
        assert depends == {"redis": {"condition": "service_healthy"}}


@pytest.mark.parametrize(
    ("name", "settings"),
    [("api", ServiceSettings), ("worker", WorkerSettings), ("worker-fake", WorkerSettings)],
)
def test_environment_has_only_valid_settings(compose, name, settings):
    environment = {
        key: re.sub(r"\$\{\w+:[-+](.*?)\}", r"\1", value)
        for key, value in own_environment(compose["services"][name]).items()
    }
    assert all(key.startswith("ROLLOUT_") for key in environment)
    assert {field_name(key) for key in environment} <= set(settings.model_fields)
    # An empty variable counts as none.
    settings.model_validate({field_name(key): value for key, value in environment.items() if value})


FIXED = {
    "api": {
        "redis_url": "redis://redis:6379/0",
        "data_dir": "/data",
        "host": "0.0.0.0",
        "port": "8000",
        "unix_socket": "",
        "standalone": "false",
    },
    "worker": {
        "redis_url": "redis://redis:6379/0",
        "data_dir": "/data",
        "engine": "torch",
    },
    "worker-fake": {
        "redis_url": "redis://redis:6379/0",
        "data_dir": "/data",
        "engine": "fake",
        "model": "${ROLLOUT_FAKE_MODEL:-fake}",
    },
}
"""Settings that the file `.env` does not change, since they belong to the composition."""


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_setting_reaches_its_container_unless_compose_fixes_it(base, name):
    service = base["services"][name]
    settings = ServiceSettings if name == "api" else WorkerSettings
    assert {"path": ".env", "required": False} in service["env_file"]
    reached = set(settings.model_fields) - FIXED[name].keys()
    for key, value in own_environment(service).items():
        if field_name(key) in reached:  # the same variable, with another default
            assert value.startswith(f"${{{key}:-"), key
        else:
            assert value == FIXED[name][field_name(key)], key


def test_only_the_device_is_fixed_besides_on_the_cpu(base, cpu):
    for name in OURS:
        assert cpu["services"][name]["env_file"] == base["services"][name]["env_file"]
    changed = cpu["services"]["worker"]["environment"].items()
    assert changed - base["services"]["worker"]["environment"].items() == {
        ("ROLLOUT_DEVICE", "cpu")
    }


def test_redis_and_git_get_nothing_of_the_settings(compose, root):
    assert "env_file" not in compose["services"]["redis"]
    assert "/.env" in (root / ".gitignore").read_text().splitlines()


def test_a_setting_that_compose_leaves_empty_has_its_default(monkeypatch):
    for name in ServiceSettings.model_fields:
        monkeypatch.setenv(f"ROLLOUT_{name.upper()}", "")

    assert ServiceSettings() == ServiceSettings.model_construct()


def test_a_stopped_worker_has_time_to_end_its_job(compose):
    drain_seconds = WorkerSettings.model_fields["drain_seconds"].default
    for name in WORKERS:
        seconds = default(compose["services"][name]["stop_grace_period"]).removesuffix("s")
        # to requeue the job and to end its child processes
        assert int(seconds) >= drain_seconds + 15


def test_a_stopped_api_has_time_to_end_its_requests(compose):
    seconds = default(compose["services"]["api"]["stop_grace_period"]).removesuffix("s")
    assert int(seconds) > ServiceSettings.model_fields["drain_seconds"].default


@pytest.mark.parametrize(
    ("setting", "variable", "secret"),
    [
        ("ROLLOUT_API_KEYS_FILE", "ROLLOUT_API_KEYS", "api_keys"),
        ("ROLLOUT_WEBHOOK_SECRET_FILE", "ROLLOUT_WEBHOOK_SECRETS", "webhook_secrets"),
    ],
)
def test_only_the_api_has_a_secret_and_only_if_a_file_is_given(compose, setting, variable, secret):
    where = compose["services"]["api"]["environment"][setting]
    assert where == f"${{{setting}:-${{{variable}:+/run/secrets/{secret}}}}}"
    assert compose["secrets"][secret] == {"file": f"${{{variable}:-/dev/null}}"}
    for name, service in compose["services"].items():
        assert (secret in service.get("secrets", [])) == (name == "api")


def test_images_are_built_from_the_pinned_base_with_the_revision(compose, root):
    dockerfile = (root / "Dockerfile").read_text()
    for name in OURS:
        build = compose["services"][name]["build"]
        assert f" AS {build['target']}\n" in dockerfile
        assert compose["services"][name]["image"] == f"timesformer-rollout-{build['target']}"
        assert f"ARG BASE_IMAGE={default(build['args']['BASE_IMAGE'])}\n" in dockerfile
        assert build["args"].keys() >= {"REVISION", "SOURCE"}
        assert all(f"\nARG {argument}=" in dockerfile for argument in build["args"])


def test_api_is_published_only_on_this_machine(compose):
    assert compose["services"]["api"]["ports"] == ["${ROLLOUT_PUBLISH:-127.0.0.1:8000}:8000"]
