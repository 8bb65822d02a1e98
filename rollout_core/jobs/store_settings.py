"""The settings of the store, which service and workers share."""

from pathlib import Path

from pydantic import BaseModel, Field

from rollout_core.jobs.store import ArtifactStore
from rollout_core.jobs.stores import open_store
from rollout_core.patterns import BUCKET_URL


class StoreSettings(BaseModel):
    """Where the store is."""

    data_dir: Path = Field(
        Path("rollout-data"),
        description="Folder of the store, shared by service and workers; with a bucket, a folder "
        "of each machine for passing files.",
    )
    store: str | None = Field(
        None,
        pattern=BUCKET_URL,
        description="Bucket of the store, as s3://bucket/prefix, instead of the folder.",
    )

    def open_store(self) -> ArtifactStore:
        """Open the store.

        Raises:
            StoreUnavailable: it cannot be used.
            OSError: the folder cannot be created.
        """
        return open_store(self.store, self.data_dir)
