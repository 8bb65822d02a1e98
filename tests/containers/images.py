"""The images: built by Compose from the project's Dockerfile, weighed, and listed by an SBOM."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from tests.containers.site import BASE, CPU, ROOT, Site

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
SBOM_RECIPE = Path(__file__).with_name("sbom.Dockerfile")
MEGABYTE = 10**6


@dataclass(frozen=True)
class Image:
    """An image of the project, and the service that uses it."""

    name: str
    service: str
    profile: str
    files: tuple[str, ...] = BASE

    @property
    def tag(self) -> str:
        """Its name in the engine."""
        return f"timesformer-rollout-{self.name}"


IMAGES = (
    Image("api", "api", "fake"),
    Image("worker-fake", "worker-fake", "fake"),
    Image("worker", "worker", "torch"),
    Image("worker-cpu", "worker", "torch", CPU),
)


@dataclass(frozen=True)
class Built:
    """An image after its build: what it weighs in bytes, how long it took, what is in it."""

    name: str
    size_bytes: int
    seconds: float
    packages: int


def cpu_index_answers() -> bool:
    """Return whether the index of CPU wheels can be reached from here."""
    try:
        with urlopen(Request(f"{CPU_INDEX}/torch/", method="HEAD"), timeout=15):
            return True
    except (URLError, TimeoutError):
        return False


def build(site: Site, image: Image, *, fresh: bool) -> Built:
    """Build an image, with nothing from the cache if `fresh`, and write its SBOM."""
    begun = time.monotonic()
    options = ("--no-cache",) if fresh else ()
    site.with_files(image.files).compose(
        "--profile", image.profile, "build", "--quiet", *options, image.service
    )
    seconds = time.monotonic() - begun
    size = int(site.docker("image", "inspect", "--format", "{{.Size}}", image.tag))
    return Built(image.name, size, seconds, write_sbom(site, image))


def write_sbom(site: Site, image: Image) -> int:
    """Write the SBOM of an image's Python environment; return how many packages it lists."""
    folder = site.folder.parent / "sbom" / image.name
    folder.mkdir(parents=True, exist_ok=True)
    site.docker(
        *("build", "--quiet", "--file", str(SBOM_RECIPE), "--build-arg", f"IMAGE={image.tag}"),
        *("--output", f"type=local,dest={folder}", str(SBOM_RECIPE.parent)),
    )
    return len(json.loads((folder / "sbom.json").read_text())["components"])


def labels_are_right(site: Site, image: Image) -> str:
    """The labels of OCI name the image, its version and the commit that it was built from."""
    labels = json.loads(
        site.docker("image", "inspect", "--format", "{{json .Config.Labels}}", image.tag)
    )
    found = {key.removeprefix("org.opencontainers.image."): value for key, value in labels.items()}
    assert found["title"] == image.tag
    assert found["licenses"] == "Apache-2.0"
    assert f'__version__ = "{found["version"]}"' in (ROOT / "rollout_core/__init__.py").read_text()
    assert found["revision"] == site.environment["ROLLOUT_REVISION"]
    return f"version {found['version']}"


def has_no_torch(site: Site, image: Image) -> str:
    """The image has no torch, nor a package of CUDA."""
    script = "import importlib.metadata as m; print(*(d.name for d in m.distributions()))"
    names = site.docker("run", "--rm", "--entrypoint", "python", image.tag, "-c", script).split()
    found = [name for name in names if name.startswith(("torch", "nvidia", "cuda"))]
    assert not found, found
    return f"{len(names)} packages"
