"""Hostile files, and the code with which the job of each must end.

They try to read other files, to open connections, to fill memory or disk, or to stop the worker.
A file whose only fault is a false claim may succeed: the decoder ignores the claim. For most
files two codes would be right, and FFmpeg decides; another version of it may decide differently.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tests.hostile import damage, fake_containers, header_claims
from tests.hostile.codes import Entry
from tests.hostile.maker import Maker


@dataclass(frozen=True)
class Hostile:
    """A file, and the code with which its job must end."""

    name: str
    content: bytes
    code: str


def make_corpus(folder: Path, secret: Path) -> Iterator[Hostile]:
    """Make all files in `folder`; those that refer to another file refer to `secret`, a film."""
    maker = Maker(folder)
    entries: Iterator[Entry] = chain(
        fake_containers.texts(secret),
        fake_containers.pictures(),
        fake_containers.other_files(),
        fake_containers.other_containers(maker),
        header_claims.references(maker, secret),
        header_claims.sizes(maker),
        header_claims.lengths(maker),
        header_claims.streams(maker),
        header_claims.bombs(maker),
        header_claims.changes(maker),
        damage.wrong_boxes(maker),
        damage.wrong_tables(maker),
        damage.wrong_elements(maker),
        damage.wrong_chunks(maker),
        damage.misplaced_packets(maker),
        damage.cut_files(maker),
        damage.flipped_bits(maker),
    )
    for name, content, code in entries:
        yield Hostile(name, content, code)
