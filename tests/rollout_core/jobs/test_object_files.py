import time

from rollout_core.jobs.object_files import LOOK_SECONDS, FilesInBucket


def test_a_folder_has_changed_when_this_process_changes_it(bucket):
    files = FilesInBucket(bucket)
    before = files.changed("webhooks/pending")
    files.add("webhooks/pending/a.json")
    after = files.changed("webhooks/pending")
    assert after > before
    files.remove("webhooks/pending/a.json")
    assert files.changed("webhooks/pending") > after


def test_changes_of_others_are_looked_for_every_few_seconds(bucket, monkeypatch):
    files = FilesInBucket(bucket)
    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    seen = []
    for _ in range(40):
        seen.append(files.changed("webhooks/pending"))
        now[0] += LOOK_SECONDS / 10
    assert 4 <= len(set(seen)) <= 5
    assert all(changed / 1e9 <= 1000.0 for changed in seen[:1])


def test_nothing_is_remembered_of_folders_that_nobody_asks_for(bucket):
    files = FilesInBucket(bucket)
    for number in range(10):
        files.add(f"answers/{number}/a")
    assert files._changed == {}
