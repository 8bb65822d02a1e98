import pytest

from service.filenames import MAX_CHARACTERS, clean, filename_of, parse_disposition


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (b'form-data; name="video"; filename="a b.mp4"', "a b.mp4"),
        ('form-data; name="video"; filename="日本.mp4"'.encode(), "日本.mp4"),
        (b'form-data; filename="na\xefve.mp4"', "naïve.mp4"),
        (b"attachment; filename*=UTF-8''na%C3%AFve%20%E2%82%AC.mp4", "naïve €.mp4"),
        (b"attachment; filename*=utf-8'en'a.mp4; filename=b.mp4", "a.mp4"),
        (b"attachment; filename=b.mp4; filename*=ISO-8859-1''na%EFve.mp4", "naïve.mp4"),
        (b"""attachment; filename="; filename*=UTF-8''x.mp4" """, "; filename*=UTF-8''x.mp4"),
        (b'form-data; filename="C:\\\\films\\\\a%22b.mp4"', 'a"b.mp4'),
        (b'form-data; filename="../../etc/pa\x01sswd"', "passwd"),
        (b'form-data; filename=""', None),
        (b'form-data; filename=".."', None),
        (b'form-data; name="video"', None),
        (b"attachment; filename*=utf-8''%00%0a", None),
        (b"", None),
    ],
)
def test_the_name_is_found_and_cleaned(header, name):
    assert filename_of(parse_disposition(header)) == name


def test_a_long_name_is_cut():
    assert clean("x" * 1000) == "x" * MAX_CHARACTERS


@pytest.mark.parametrize("name", ["a\nb", "a\u202eb", "a\u2028b", "a\x7fb", "a\ud800b"])
def test_characters_that_cannot_be_shown_are_removed(name):
    assert clean(name) == "ab"
