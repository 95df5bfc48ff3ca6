"""The shipped list of search spaces and strategies is up to date."""

from __future__ import annotations

from hwnas.reporting.catalogue import make_catalogue, read_catalogue
from hwnas.spaces import SPACES


def test_the_shipped_catalogue_is_what_the_package_says() -> None:
    """`make catalogue` writes it anew."""
    assert read_catalogue() == make_catalogue()


def test_registered_spaces_are_listed_too(monkeypatch) -> None:
    class Mine(SPACES["nasbench201"]):
        name = "mine"

    monkeypatch.setitem(SPACES, "mine", Mine)
    assert "mine" in read_catalogue()["spaces"]
