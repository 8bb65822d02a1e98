"""Opens the uploads of an artifact store."""

from rollout_core.jobs.folder_store import FolderStore
from rollout_core.jobs.store import ArtifactStore
from service.folder_uploads import FolderUploads
from service.upload_store import UploadStore


def uploads_of(store: ArtifactStore) -> UploadStore:
    """Return the uploads of a store, of its kind."""
    if isinstance(store, FolderStore):
        return FolderUploads(store)
    # Only a store in a bucket needs obstore, which these import.
    from rollout_core.jobs.object_store import ObjectStore
    from service.object_uploads import ObjectUploads

    assert isinstance(store, ObjectStore)
    return ObjectUploads(store)
