"""Opens the uploads of an artifact store."""

from rollout_core.jobs.folder_store import FolderStore
from rollout_core.jobs.store import ArtifactStore
from service.folder_uploads import FolderUploads
from service.upload_store import UploadStore


def uploads_of(store: ArtifactStore) -> UploadStore:
    """Return the uploads of a store, of its kind."""
    assert isinstance(store, FolderStore)
    return FolderUploads(store)
