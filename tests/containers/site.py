"""A deployment of the compose file: a copy of the checkout, and the containers of a project."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rollout_core.client import RolloutClient
from rollout_core.variables import ENV_PREFIX

ROOT = Path(__file__).parents[2]
PROJECT = "rollout-containers"
"""Name of the Compose project, so that nobody's deployment is touched."""
BASE = ("docker-compose.yml",)
CPU = (*BASE, "docker-compose.cpu.yml")
COMMAND_SECONDS = 3600


class CommandError(Exception):
    """A command that failed; the message ends with what it wrote last."""


@dataclass(frozen=True)
class Site:
    """The containers of one checkout.

    Attributes:
        folder: copy of the checkout; its `.env` belongs to the checks.
        environment: of every command.
        address: where the API is published.
        files: names of the compose files.
    """

    folder: Path
    environment: Mapping[str, str]
    address: str
    files: tuple[str, ...] = BASE

    def with_files(self, files: tuple[str, ...]) -> "Site":
        """Return the same site, run with other compose files."""
        return replace(self, files=files)

    def with_variables(self, **variables: str) -> "Site":
        """Return the same site, with other variables for Compose."""
        return replace(self, environment={**self.environment, **variables})

    def run(self, *command: str) -> str:
        """Run a command in the copy; return its output. Raises CommandError."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )
        if done.returncode:
            raise CommandError((done.stderr or done.stdout).strip()[-600:])
        return done.stdout

    def docker(self, *arguments: str) -> str:
        """Run docker; return its output."""
        return self.run("docker", *arguments).strip()

    def compose(self, *arguments: str) -> str:
        """Run docker compose with the files of this site; return its output."""
        files = (part for name in self.files for part in ("-f", name))
        return self.docker("compose", "--project-name", PROJECT, *files, *arguments)

    def up(self, *profiles: str) -> None:
        """Start the services of the profiles and wait until all are healthy."""
        self.compose(*_flags(profiles), "up", "--detach", "--wait", "--no-build")

    def down(self, *options: str) -> None:
        """Remove all containers and networks, and with `--volumes` the volumes."""
        self.compose("--profile", "*", "down", "--remove-orphans", *options)

    def within(self, service: str, *command: str) -> str:
        """Run a command in the container of a service; return its output."""
        return self.docker("exec", container(service), *command)

    def shell(self, service: str, script: str) -> str:
        """Run a shell script in the container of a service; return its output."""
        return self.within(service, "sh", "-c", script)

    def log(self, service: str) -> str:
        """Return what a container wrote, both streams."""
        return self.run("sh", "-c", f"docker logs {container(service)} 2>&1")

    def inspect(self, service: str, template: str) -> str:
        """Return a field of a container, by a template of Go."""
        return self.docker("inspect", "--format", template, container(service))

    def client(self, api_key: str | None = None) -> RolloutClient:
        """Return a client of the API."""
        return RolloutClient(f"http://{self.address}", api_key, cache=self.folder / "cache")

    def write_settings(self, **settings: str) -> None:
        """Write `.env`: what Compose reads, and the containers get."""
        lines = (f"{ENV_PREFIX}{name.upper()}={value}\n" for name, value in settings.items())
        (self.folder / ".env").write_text("".join(lines))

    def memory(self) -> dict[str, str]:
        """Return service → memory in use now, as docker writes it."""
        lines = self.docker("stats", "--no-stream", "--format", "{{json .}}").splitlines()
        found = {
            line["Name"]: line["MemUsage"].partition(" /")[0] for line in map(json.loads, lines)
        }
        return {
            name.removeprefix(f"{PROJECT}-").removesuffix("-1"): used
            for name, used in sorted(found.items())
            if name.startswith(PROJECT)
        }


def container(service: str) -> str:
    """Return the name of the only container of a service."""
    return f"{PROJECT}-{service}-1"


def wait_until(is_true: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until something is true. Raises CommandError if it is not in time."""
    deadline = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > deadline:
            raise CommandError(f"{what}: not within {seconds} s")
        time.sleep(0.5)


def copy_checkout(folder: Path) -> None:
    """Copy all files of the checkout that git would commit, as they are now."""
    shutil.rmtree(folder, ignore_errors=True)
    listed = subprocess.run(
        ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"),
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def clean_environment() -> dict[str, str]:
    """Return this process' environment without our settings, which the compose file would read."""
    return {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}


def _flags(profiles: tuple[str, ...]) -> Iterator[str]:
    for profile in profiles:
        yield from ("--profile", profile)
