import pytest

from tests.benchmarks.suite.tables import cell, markdown, number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0, "0"),
        (12, "12"),
        (123456, "123,456"),
        (1234.5, "1,234"),
        (12.34, "12.3"),
        (1.234, "1.23"),
        (0.1234, "0.12"),
        (0.01234, "0.012"),
        (0.00001234, "1.2e-05"),
    ],
)
def test_number_has_about_three_digits(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([1.03, 1.01, 1.064], "1.03 (1.01–1.06)"),
        ((2.0, 2.0, 2.0), "2.00"),
        (None, "–"),
        ("a | b", "a \\| b"),
        (0.5, "0.50"),
    ],
)
def test_cell_shows_spreads_texts_and_gaps(value, text):
    assert cell(value) == text


def test_table_has_the_columns_of_its_first_row():
    rows = [{"what": "decode", "s": 1.5}, {"what": "draw", "s": None}]
    assert markdown(rows).splitlines() == [
        "| what | s |",
        "| --- | --- |",
        "| decode | 1.50 |",
        "| draw | – |",
    ]


def test_row_without_a_column_is_an_error():
    with pytest.raises(KeyError, match="s"):
        markdown([{"s": 1}, {"other": 2}])
