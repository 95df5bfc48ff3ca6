"""The search spaces and search strategies of this package, as a document that ships with it.

Importing every search space takes seconds, since PyTorch comes with them. So that the command line
lists them at once, the document is written when the package is made (`make catalogue`) and read
when it is used; a test compares it with what the package says.
"""

from __future__ import annotations

import json
import sys
from importlib import resources
from typing import Any

FILE = "catalogue.json"


def read_catalogue() -> dict[str, Any]:
    """The `spaces` and `strategies` by name: those that ship, and those that this process added."""
    text = (resources.files("hwnas.reporting") / FILE).read_text("utf-8")
    document: dict[str, Any] = json.loads(text)
    if "hwnas.spaces" in sys.modules and _has_more(document):
        return make_catalogue()
    return document


def _has_more(document: dict[str, Any]) -> bool:
    """Whether spaces or strategies were registered that the document does not have."""
    from hwnas.spaces import SPACES

    known = {facts["space"] for facts in document["spaces"].values()}
    strategies = sys.modules.get("hwnas.strategies")
    more = set() if strategies is None else set(strategies.STRATEGIES)
    return not (set(SPACES) <= known and more <= set(document["strategies"]))


def make_catalogue() -> dict[str, Any]:
    """The same document, made from the search spaces and strategies of this package."""
    from hwnas.reporting.description import describe_space, listed_spaces
    from hwnas.strategies import STRATEGIES

    strategies = {
        name: {
            "paper": strategy.paper,
            "settings": {
                key: field.default for key, field in strategy.settings_model.model_fields.items()
            },
            "needs": "the gradient of a supernet" if strategy.uses_gradient else "evaluations",
        }
        for name, strategy in STRATEGIES.items()
    }
    spaces = {name: describe_space(space) for name, space in listed_spaces()}
    document: dict[str, Any] = json.loads(json.dumps({"spaces": spaces, "strategies": strategies}))
    return document


def write_catalogue() -> None:
    """Write the document into the package's folder."""
    with resources.as_file(resources.files("hwnas.reporting") / FILE) as path:
        path.write_text(json.dumps(make_catalogue(), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    write_catalogue()
