import pytest

from service.file_answers import not_modified

ETAG = '"abc"'


@pytest.mark.parametrize(
    "header", ['"abc"', 'W/"abc"', '"x","abc"', '"x" , W/"abc"', "*", ' "abc" ']
)
def test_the_same_version(header):
    assert not_modified(header, ETAG)


@pytest.mark.parametrize("header", ["", '"ab"', "abc", '"x", "y"', '"*"', 'w/"abc"'])
def test_another_version(header):
    assert not not_modified(header, ETAG)


def test_a_request_without_the_header_has_no_version():
    assert not not_modified(None, ETAG)
