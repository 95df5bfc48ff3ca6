"""Variants of the exported model in other number formats, as a report shows them."""

from __future__ import annotations

from helpers.run_folders import HOSTILE, WrittenRun, change, variants


def test_report_without_variants_has_no_such_section(run: WrittenRun) -> None:
    assert "number formats" not in run.page().text


def test_variants_are_compared_with_float32(run: WrittenRun) -> None:
    run.folder.variants.mkdir()
    run.folder.write_json(run.folder.variants_document, variants())
    text = run.page().text
    assert "The fastest variant that passes its check is int8." in text
    assert "0.412 (0.4 to 0.424)" in text
    assert "27.3 dB" in text
    assert "fp16 failed these gates: sqnr." in text
    assert f"int8-dynamic: refused {HOSTILE}" in text
    change(run.folder.variants_document, lambda document: document.update(fastest=None))
    assert "No variant passes its check." in run.page().text
