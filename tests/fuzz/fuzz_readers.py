"""Gives every reader mutated files, guided by coverage, and keeps what it does not refuse in order.

    python tests/fuzz/fuzz_readers.py [--inputs 200000] [--seconds 3600] [--reader NAME] [--save]

Atheris mutates the valid files of `readers.py` (libFuzzer's mutations). An exception other than
InputError, an input that takes 20 seconds, and a process that takes more than `MEMORY_MB` are
findings; their inputs are kept in `build/fuzz/NAME`, one for each place in the code. What is mended
moves to `tests/fuzz/found/NAME`, where the tests read it. Needs `pip install -e '.[fuzz]'`.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "fuzz"
MEMORY_MB = 2048
HANG_S = 20


def fuzz_one(name: str, inputs: int, seconds: int) -> None:
    """Fuzz a reader in this process, which ends with it."""
    import atheris

    sys.path[:0] = [str(ROOT / "tests")]
    with atheris.instrument_imports(include=["hwnas"], enable_loader_override=False):
        from fuzz.readers import prepared

        from hwnas.errors import InputError

    folder = BUILD / name
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    with prepared(name) as reader:
        for number, seed in enumerate(reader.seeds):
            (corpus / f"seed-{number}").write_bytes(seed)

        def read(data: bytes) -> None:
            reader.file.write_bytes(data)
            try:
                reader.read()
            except InputError as error:
                if "\n" in str(error):
                    keep(data, "a refusal of several lines", error)
            except Exception as error:
                keep(data, type(error).__name__, error)

        def keep(data: bytes, kind: str, error: Exception) -> None:
            frames = traceback.extract_tb(error.__traceback__)
            own = [f for f in frames if str(ROOT) in f.filename and "/fuzz/" not in f.filename]
            place = f"{own[-1].filename}:{own[-1].lineno}" if own else "elsewhere"
            if (key := f"{kind} at {place}") not in seen:
                seen.add(key)
                file = folder / f"found-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
                file.write_bytes(data)
                print(f"FOUND {key}: {' '.join(str(error).split())[:200]}: {file}", flush=True)

        limits = [f"-runs={inputs}", f"-max_total_time={seconds}", f"-timeout={HANG_S}"]
        limits += [f"-rss_limit_mb={MEMORY_MB}", f"-artifact_prefix={folder}/", "-seed=1"]
        options = ["-print_final_stats=1", "-max_len=20000", "-verbosity=1"]
        atheris.Setup([sys.argv[0], *limits, *options, str(corpus)], read)
        atheris.Fuzz()


def main() -> None:
    """Fuzz the readers one after the other, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=200_000, help="for each reader")
    parser.add_argument("--seconds", type=int, default=3600, help="at most, for each reader")
    parser.add_argument("--reader", action="append", help="default: all")
    parser.add_argument("--save", action="store_true", help="append the rows to the results")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        fuzz_one(options.one, options.inputs, options.seconds)
        return
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]
    from fuzz.readers import READERS
    from results import append_row

    total = 0
    for name in options.reader or READERS:
        line = [sys.executable, __file__, "--one", name, "--inputs", str(options.inputs)]
        began = time.monotonic()
        done = subprocess.run(
            [*line, "--seconds", str(options.seconds)], capture_output=True, text=True, cwd=ROOT
        )
        said = done.stdout + done.stderr
        found = re.findall("^FOUND .*$", said, re.MULTILINE)
        found += re.findall("^SUMMARY: libFuzzer: .*$", said, re.MULTILINE)
        figures = dict(re.findall(r"^stat::(\w+): +(\d+)$", said, re.MULTILINE))
        row = {
            "reader": name,
            "inputs": figures.get("number_of_executed_units", 0),
            "corpus": len(list((BUILD / name / "corpus").iterdir())),
            "peak_mb": figures.get("peak_rss_mb", 0),
            "findings": len(found),
            "seconds": time.monotonic() - began,
        }
        print(row, *found, sep="\n", flush=True)
        if not figures:
            print(said[-2000:], flush=True)
        if options.save:
            append_row("fuzz", row, quiet=True)
        total += len(found)
    sys.exit(1 if total else 0)


if __name__ == "__main__":
    main()
