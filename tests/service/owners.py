"""Two owners of API keys: ann, who has limits, and ben, who has none."""

from hashlib import sha256
from pathlib import Path


def headers(name: str) -> dict[str, str]:
    """Return the headers of a call by an owner."""
    return {"Authorization": f"Bearer key-of-{name}"}


def write_keys(path: Path) -> None:
    """Write the file of their keys."""
    tables = [
        f'[{name}]\nsha256 = "{sha256(f"key-of-{name}".encode()).hexdigest()}"\n'
        for name in ("ann", "ben")
    ]
    limits = "max_queued_jobs = 2\nmax_stored_bytes = 100_000\n"
    path.write_text(tables[0] + limits + tables[1])
