"""docs/flags.md tells what the flags themselves do."""

from helpers.flags_table import DOCUMENT, table


def test_the_table_of_flags_is_that_of_the_parsers():
    """Where it isn't: python tests/helpers/flags_table.py"""
    assert table() in DOCUMENT.read_text(encoding="utf-8")
