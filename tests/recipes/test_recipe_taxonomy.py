"""docs/taxonomy.md is what the objectives say of themselves."""

from recipes.experiments import taxonomy
from steer.training import METHODS


def test_the_page_is_up_to_date():
    assert taxonomy.PAGE.read_text() == taxonomy.page(), (
        "run python -m recipes.experiments.taxonomy"
    )


def test_every_method_has_a_full_row():
    for method in METHODS:
        row = taxonomy.row(method)
        assert len(row) == len(taxonomy.COLUMNS)
        assert all(row[:-2]), (
            row
        )  # only what is left out, and what departs from the paper, may be nothing
