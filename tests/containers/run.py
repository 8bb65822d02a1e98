"""`scripts/containers`: every image and every profile, from the build to the end; see its usage."""

import argparse
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rollout_core.variables import ENV_PREFIX, SERVICE, WORKER
from tests.containers import hardening, images, jobs
from tests.containers.report import Report
from tests.containers.site import (
    CPU,
    PROJECT,
    ROOT,
    CommandError,
    Site,
    clean_environment,
    copy_checkout,
)

ENGINE = ROOT / "scripts" / "container-engine"
MARK = "reached"
NO_GPU = 'could not select device driver "nvidia"'


def main() -> int:
    """Run all checks and write the report; return the exit status."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all is taken down
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with _engine(folder, own=arguments.own_engine, keep=arguments.keep) as environment:
        site = _site(folder, environment)
        report = Report()
        try:
            _examine(site, report, fresh=arguments.fresh)
        finally:
            if not arguments.keep:
                site.down("--volumes")
        if arguments.own_engine:
            report.notes.append(
                "The engine was Debian's, and the base images are stand-ins of the published ones, "
                "made of Debian's packages by scripts/container-engine."
            )
        arguments.report.write_text(report.write(site))
    print(f"\n{report.failures} of {len(report.checks)} checks failed; {arguments.report}")
    return 1 if report.failures else 0


def _examine(site: Site, report: Report, *, fresh: bool) -> None:
    site.down("--volumes")
    _build(site, report, fresh=fresh)
    _without_profile(site, report)
    _fake(site, report)
    _lives(site, report)
    _keys(site, report)
    _torch(site, report)
    report.begin("the end")
    report.check("all is taken down", _nothing_is_left, site)


def _build(site: Site, report: Report, *, fresh: bool) -> None:
    report.begin("the images")
    for image in images.IMAGES:
        if image.name == "worker-cpu" and not images.cpu_index_answers():
            site.docker("tag", "timesformer-rollout-worker", image.tag)
            report.notes.append(
                "`worker-cpu` was not built: its index of CPU wheels could not be reached. The "
                "image `worker`, which also runs on the CPU, stood in for it under its name."
            )
            continue
        report.check(
            f"{image.name} is built",
            lambda image=image: report.images.append(images.build(site, image, fresh=fresh)),
        )
        report.check(f"{image.name} has its labels", images.labels_are_right, site, image)
        if image.name in ("api", "worker-fake"):
            report.check(f"{image.name} has no torch", images.has_no_torch, site, image)
    for service in ("api", "worker-fake", "worker"):
        report.check(f"every setting reaches {service}", _settings_reach, site, service)


def _without_profile(site: Site, report: Report) -> None:
    report.begin("no profile")
    site.write_settings(require_confinement="true")
    report.check("Redis and the API turn healthy", site.up)
    report.check("... and nothing else runs", _only, site, {"redis", "api"})


def _fake(site: Site, report: Report) -> None:
    report.begin("profile fake")
    report.check("all turn healthy", site.up, "fake")
    report.check("the sample, all files", jobs.sample_succeeds, site)
    for service in ("redis", "api", "worker-fake"):
        _harden(site, report, service)
    _confine(site, report, "worker-fake")
    report.memory.append(("fake", site.memory()))


def _harden(site: Site, report: Report, service: str) -> None:
    report.check(f"{service}: user and rights", hardening.is_unprivileged, site, service)
    report.check(f"{service}: read-only root", hardening.is_read_only, site, service)
    report.check(f"{service}: limits", hardening.is_limited, site, service)


def _confine(site: Site, report: Report, service: str) -> None:
    report.check(f"{service}: sandbox in force", hardening.is_confined, site, service)
    report.check(f"{service}: no way out", hardening.has_no_way_out, site, service)
    report.check(
        f"{service}: reaches what the documents say",
        hardening.reaches_what_the_docs_say,
        site,
        service,
    )


def _lives(site: Site, report: Report) -> None:
    report.begin("profile fake, model fake-slow")
    site.down("--volumes")
    site.write_settings(require_confinement="true", fake_model="fake-slow")
    report.check("all turn healthy", site.up, "fake")
    report.check("worker killed", jobs.killed_worker_comes_back, site, "worker-fake")
    report.check("API killed", jobs.killed_api_comes_back, site)
    report.check("worker stopped", jobs.stopped_worker_ends_its_job, site, "worker-fake")
    report.check("Redis stopped and started", jobs.redis_comes_back, site)
    restarts = (
        ("all stopped and started", jobs.nothing_is_lost_by_stop_and_start),
        ("all down and up", jobs.nothing_is_lost_by_down_and_up),
    )
    for what, check in restarts:
        report.check(what, check, site, "worker-fake", "fake")


def _keys(site: Site, report: Report) -> None:
    report.begin("profile fake, with API keys")
    keys = site.folder / "keys.toml"
    report.check("keys count", jobs.keys_count, site, "fake", keys)
    site.down("--volumes")


def _torch(site: Site, report: Report) -> None:
    report.begin("profile torch")
    site.write_settings(require_confinement="true")
    if shutil.which("nvidia-smi"):
        report.check("all turn healthy, with the GPU", site.up, "torch")
        report.check("the sample, all files, its class", jobs.sample_shows_its_class, site)
    else:
        report.check("no GPU: Compose says so, as documented", _refuses_without_gpu, site)
    site.down()
    report.begin("profile torch, docker-compose.cpu.yml")
    site = site.with_files(CPU)
    report.check("all turn healthy", site.up, "torch")
    report.check("the sample, all files, its class", jobs.sample_shows_its_class, site)
    _harden(site, report, "worker")
    _confine(site, report, "worker")
    report.memory.append(("torch, on the CPU", site.memory()))
    report.check("worker stopped", jobs.stopped_worker_ends_its_job, site, "worker")


def _settings_reach(site: Site, service: str) -> str:
    """Every setting in `.env` is in the container, or the compose file has a value for it."""
    names = {f"{ENV_PREFIX}{name.upper()}" for name in (SERVICE if service == "api" else WORKER)}
    site = site.with_files(CPU)
    site.write_settings(**{name.removeprefix(ENV_PREFIX): MARK for name in names})
    lines = site.compose("run", "--rm", "--no-deps", "--entrypoint", "env", service).splitlines()
    found = dict(line.partition("=")[::2] for line in lines)
    site.write_settings()
    config = json.loads(site.compose("--profile", "*", "config", "--format", "json"))
    fixed = {name for name in names if found.get(name) != MARK}
    assert fixed <= config["services"][service]["environment"].keys(), fixed
    return f"{len(names) - len(fixed)}; Compose sets {', '.join(sorted(fixed))}"


def _only(site: Site, services: set[str]) -> None:
    running = set(site.compose("ps", "--services").split())
    assert running == services, running


def _refuses_without_gpu(site: Site) -> str:
    try:
        site.up("torch")
    except CommandError as error:
        if NO_GPU in str(error):
            return NO_GPU
        raise
    raise AssertionError("it started")


def _nothing_is_left(site: Site) -> None:
    site.down("--volumes")
    label = f"label=com.docker.compose.project={PROJECT}"
    for kind in (("ps", "--all"), ("volume", "ls"), ("network", "ls")):
        found = site.docker(*kind, "--quiet", "--filter", label)
        assert not found, f"{kind[0]}: {found}"


def _site(folder: Path, environment: dict[str, str]) -> Site:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    copy_checkout(folder / "checkout")
    commit = subprocess.check_output(("git", "rev-parse", "HEAD"), cwd=ROOT, text=True).strip()
    variables = {"ROLLOUT_PUBLISH": address, "ROLLOUT_REVISION": commit}
    return Site(folder / "checkout", environment | variables, address)


@contextmanager
def _engine(folder: Path, *, own: bool, keep: bool) -> Iterator[dict[str, str]]:
    """Yield the environment of all commands; start an engine of our own first if that is asked."""
    environment = clean_environment()
    if not own:
        yield environment
        return
    try:
        subprocess.run((ENGINE, "start", folder), check=True)
        yield environment | {
            "DOCKER_HOST": f"unix://{folder}/docker.sock",
            "DOCKER_CONFIG": str(folder / "config"),
            "DOCKER_BUILDKIT": "1",
            "PATH": f"{folder}/tools/usr/bin:{environment['PATH']}",
        }
    finally:
        if not keep:
            subprocess.run((ENGINE, "stop", folder), check=False)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/containers", description=__doc__)
    default = Path(tempfile.gettempdir(), "rollout-containers")
    parser.add_argument("--own-engine", action="store_true", help="see scripts/container-engine")
    parser.add_argument("--folder", type=Path, default=default, help=f"default: {default}")
    parser.add_argument("--fresh", action="store_true", help="build without the cache")
    parser.add_argument("--keep", action="store_true", help="leave all running")
    parser.add_argument(
        "--report", type=Path, default=ROOT / "tests/benchmarks/results/containers.md"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
