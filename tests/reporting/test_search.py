"""The Pareto front over the architectures that a search evaluated one by one."""

from __future__ import annotations

from hwnas.reporting.run_files import Run
from hwnas.reporting.search import search_figures
from hwnas.runs.run_folder import RunFolder


def test_report_shows_the_pareto_front_of_the_evaluated_architectures(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    folder.create()
    folder.config.write_text("")
    figures = [("a<b>", 1.0, 0.9), ("b", 2.0, 0.2), ("c", 3.0, 0.1), ("d", 2.5, 0.6)]
    for step, (name, latency_ms, loss) in enumerate(figures, start=1):
        record = {"step": step, "loss": loss, "latency_ms": latency_ms, "architecture": name}
        folder.append_history({"event": "search", **record})
    html = "".join(search_figures(Run.read(folder)))
    assert "3 of 4 evaluated architectures are Pareto-optimal" in html
    # The front dominates the part of the rectangle 1..3 x 0.1..0.9 to the right of b and above it.
    assert f"{100 * 0.5 * 0.7 / 0.8:.2f}" in html.replace("\u2009", "").replace("\xa0", "")
    rows = [row for row in html.split("<tr>") if "knee" in row]
    assert len(rows) == 1
    assert ">b<" in rows[0]
    assert "a&lt;b&gt;" in html
    assert "<b>" not in html
