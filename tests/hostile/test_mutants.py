from random import Random

import pytest

from tests.hostile import mutants
from tests.hostile.mutants import mutate

FILM = bytes(range(256)) * 4 + b"\0\0\0\x10moov" + bytes(100) + b"\x1a\x45\xdf\xa3\x84" + bytes(99)


def test_a_seed_determines_the_mutants():
    again = [mutate(Random(7), FILM, [FILM]) for _ in range(2)]
    assert again[0] == again[1]
    assert mutate(Random(8), FILM, [FILM]) != again[0]


def test_mutants_differ_from_the_film_and_from_each_other():
    random = Random(0)
    made = {mutate(random, FILM, [FILM]) for _ in range(200)}
    assert len(made - {FILM}) > 190
    assert b"" not in made


@pytest.mark.parametrize("change", sorted(set(mutants.CHANGES), key=lambda change: change.__name__))
def test_every_change_accepts_any_file_and_changes_it(change):
    change(Random(0), bytearray(b"x"), [FILM])
    results = set()
    for seed in range(30):
        mutant = bytearray(FILM)
        change(Random(seed), mutant, [FILM])
        results.add(bytes(mutant))
    assert len(results - {FILM}) > 10


def test_box_edits_change_only_the_fields_of_a_box():
    places = set()
    for seed in range(200):
        mutant = bytearray(FILM)
        mutants.edit_box(Random(seed), mutant, [])
        places |= {place for place, byte in enumerate(mutant) if byte != FILM[place]}
    begin = FILM.index(b"moov") - 4
    assert places
    assert places <= {*range(begin, begin + 32)}
