"""Files that were made to read, reach, fill or stop something, and how each has to end.

A file whose only fault is a false claim may well succeed: the claim is not believed. Most codes
are FFmpeg's choice between two right ones; a new version of it may choose otherwise.
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
    """A file, and the code with which its job has to end."""

    name: str
    content: bytes
    code: str


def make_corpus(folder: Path, secret: Path) -> Iterator[Hostile]:
    """Make every file, in `folder`; those that name another file name `secret`, a film."""
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
        damage.boxes_that_lie(maker),
        damage.tables_that_lie(maker),
        damage.elements_that_lie(maker),
        damage.chunks_that_lie(maker),
        damage.packets_out_of_place(maker),
        damage.cut_files(maker),
        damage.flipped_bits(maker),
    )
    for name, content, code in entries:
        yield Hostile(name, content, code)
