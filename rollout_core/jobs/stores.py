"""Opens the store that the settings name: a folder, or a bucket."""

from pathlib import Path

from rollout_core.errors import StoreUnavailable
from rollout_core.jobs.folder_store import FolderStore
from rollout_core.jobs.store import ArtifactStore


def open_store(url: str | None, data_dir: Path) -> ArtifactStore:
    """Return the store in a bucket, or the one in a folder if there is no URL.

    Args:
        url: as `s3://bucket/prefix`.
        data_dir: the store itself, or with a URL a folder of this machine for passing files.

    Raises:
        StoreUnavailable: the bucket cannot be used, or cannot keep the promises of a store.
    """
    if url is None:
        return FolderStore(data_dir)
    try:
        from rollout_core.jobs.bucket import Bucket
        from rollout_core.jobs.object_store import ObjectStore
    except ImportError as error:
        raise StoreUnavailable("a store in a bucket needs obstore: install the extra s3") from error
    bucket = Bucket.at(url)
    bucket.check_create()
    return ObjectStore(bucket, data_dir)
