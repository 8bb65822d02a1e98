from rollout_core.jobs.survey import File
from service.entries import Entries, file_key
from service.ledger import Entry

FILE = File(7, 5000)
OWN = Entry.of_files("ann", 100)
SHARED = Entry.of_files("ann", 5000)


def test_a_shared_file_counts_once():
    entries = Entries()
    for holder in ("job 1", "job 2", "upload"):
        entries.put(holder, OWN, FILE)
        entries.put(holder, OWN, FILE)

    assert entries.all() == {
        "job 1": OWN,
        "job 2": OWN,
        "upload": OWN,
        file_key(FILE): SHARED,
    }


def test_a_file_counts_until_its_last_holder_is_gone():
    entries = Entries()
    entries.put("job", OWN, FILE)
    entries.put("upload", OWN, FILE)
    held = entries.keys_of("upload")

    entries.put("upload", None)
    assert entries.missing(held) == {"upload"}
    entries.put("job", OWN, None)

    assert entries.missing(held) == {"upload", file_key(FILE)}
    assert entries.all() == {"job": OWN}


def test_a_holder_may_change_its_file():
    entries = Entries()
    entries.put("upload", OWN, FILE)

    entries.put("upload", OWN, File(8, 10))

    assert entries.all() == {"upload": OWN, "file-8": Entry.of_files("ann", 10)}


def test_what_is_not_known_holds_nothing():
    entries = Entries()
    entries.put("job", None)

    assert entries.all() == {}
    assert entries.missing(entries.keys_of("job")) == {"job"}


def test_what_has_changed_is_told_once():
    entries = Entries()
    entries.put("job", OWN, FILE)
    assert entries.take_changed() == {"job", file_key(FILE)}

    entries.put("job", OWN, FILE)
    assert entries.take_changed() == set()

    entries.put("job", None)
    assert entries.take_changed() == {"job", file_key(FILE)}
