"""The shipped list of search spaces and strategies is up to date."""

from __future__ import annotations

from hwnas.reporting.catalogue import make_catalogue, read_catalogue


def test_the_shipped_catalogue_is_what_the_package_says() -> None:
    """`make catalogue` writes it anew."""
    assert read_catalogue() == make_catalogue()
