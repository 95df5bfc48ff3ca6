"""Writes docs/dependencies.md: what hwnas brings along, its licences and known vulnerabilities.

    make audit

Lists what is installed in this environment of the package's requirements and theirs, for running
(without extras), and asks pip-audit about each version; it needs the network and
`pip install pip-audit`.
"""

from __future__ import annotations

import datetime
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PAGE = Path(__file__).parent / "dependencies.md"
LONGEST = 60
"""Characters of a licence's name; some packages state its whole text."""
NO_DATA = "no data"
"""Says that the package index that was asked has no vulnerabilities."""
HEAD = """# Dependencies

What `pip install .` brings along for running on a CPU under Linux, on {date}, by `make audit`:
version, licence as the package states it, and vulnerabilities that pip-audit knows of that version
("no data" where the package index that was asked has none of them).
hwnas itself is under the Apache licence 2.0. Licences of libraries inside a package's wheel are
stated in its files; soundfile brings libsndfile and soxr libsoxr, both under the LGPL.

| package | version | needed by | licence | known vulnerabilities |
|---|---|---|---|---|
"""


def closure(name: str) -> dict[str, tuple[Distribution, set[str]]]:
    """The installed requirements of a package and of those, each with what needs it."""
    found: dict[str, tuple[Distribution, set[str]]] = {}
    left = [name]
    while left:
        current = left.pop()
        for line in distribution(current).requires or []:
            requirement = Requirement(line)
            if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
                continue
            key = canonicalize_name(requirement.name)
            if key not in found:
                try:
                    found[key] = distribution(key), set()
                except PackageNotFoundError:
                    continue  # for another platform
                left.append(key)
            found[key][1].add(current)
    return dict(sorted(found.items()))


def licence(package: Distribution) -> str:
    """The licence that a package states."""
    metadata: Any = package.metadata
    classifiers = [
        entry.split(" :: ")[-1]
        for entry in metadata.get_all("Classifier") or []
        if entry.startswith("License :: ") and entry != "License :: OSI Approved"
    ]
    stated = metadata.get("License-Expression") or ", ".join(classifiers) or metadata.get("License")
    words = " ".join((stated or "not stated").split())
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}..."


def vulnerabilities(packages: dict[str, tuple[Distribution, set[str]]]) -> dict[str, str]:
    """What pip-audit knows of each version, in words."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        # A build such as 2.13.0+cpu has the vulnerabilities of its version.
        lines = [f"{name}=={entry[0].version.split('+')[0]}\n" for name, entry in packages.items()]
        file.write("".join(lines))
        file.flush()
        line = [sys.executable, "-m", "pip_audit", "--format", "json", "--no-deps"]
        line += ["--disable-pip", "--progress-spinner", "off", "-r", file.name]
        done = subprocess.run(line, capture_output=True, text=True)
    if not done.stdout:
        sys.exit(f"pip-audit failed: {done.stderr[-1000:]}")
    found = {}
    for entry in json.loads(done.stdout)["dependencies"]:
        ids = [
            f"{known['id']}, mended in {' or '.join(known['fix_versions']) or 'no version'}"
            for known in entry.get("vulns", [])
        ]
        is_known = "skip_reason" not in entry
        found[canonicalize_name(entry["name"])] = "; ".join(ids) or (
            "none" if is_known else NO_DATA
        )
    return found


def main() -> None:
    """Write the page."""
    packages = closure("hwnas")
    known = vulnerabilities(packages)
    rows = [
        f"| {name} | {package.version} | {', '.join(sorted(users))} | "
        f"{re.sub('[|]', '/', licence(package))} | {known.get(name, NO_DATA)} |"
        for name, (package, users) in packages.items()
    ]
    date = datetime.date.today().isoformat()
    PAGE.write_text(HEAD.format(date=date) + "\n".join(rows) + "\n", "utf-8")
    counts = Counter(k if k in ("none", NO_DATA) else "some" for k in known.values())
    print(f"{PAGE}: {len(rows)} packages; known vulnerabilities: {dict(counts)}")


if __name__ == "__main__":
    main()
