"""Bytes of strangers against everything that reads them: a brute force, and atheris.

    python tests/proof/fuzzing.py [--seconds 450] [--frames 1000000] [--quick] [--keep]

The brute force gives a million mutants of frames and of their payloads to the decoders. atheris
(coverage-guided, CPython 3.11 only; the extra `proof`) runs each target of tests/fuzz/targets.py
for so many seconds; 8 of 450 s are an hour. Only the documented error may come, and memory may
not grow by more than 10 MiB. --keep adds what atheris found to the corpus, minimised.

The control is a decoder that does not look at the length: both have to find it, atheris within
half a minute (bad_decoder.py).
"""

import gc
import importlib.util
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    ROOT = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(ROOT / part) for part in ("", "server", "device_lib", "tests")]

from fleetnet import frame as wire
from fuzz import corpus_files
from fuzz.targets import TARGETS
from proof.verdict import Row, arguments, finish, noticed
from test_frame_fuzz import mutate, resident_bytes

PROGRAM = Path(__file__).parents[1] / "fuzz" / "run_atheris.py"
BAD_PROGRAM = Path(__file__).with_name("bad_decoder.py")
FLAT_BYTES = 10 << 20
CONTROL = 100_000
CONTROL_S = 30
SIGN = "AssertionError"  # of the target: a payload is longer than it may be
BRUTE = ("frames", "payloads", "fields")
PATIENCE_S = 120


class Brute(NamedTuple):
    count: int
    fault: str
    grown: int
    seconds: float


class Guided(NamedTuple):
    """Of one target: runs of it, the largest resident size in MiB, the fault ("": none)."""

    runs: int
    fault: str
    mib: int


def brute_force(count: int, seed: int = 3) -> Brute:
    """Feed mutants; the size is read behind the first tenth."""
    chance = random.Random(seed)
    corpora = [(TARGETS[name], corpus_files.read(name)) for name in BRUTE]
    began, size = time.monotonic(), 0
    for number in range(count):
        target, corpus = corpora[number % len(corpora)]
        data = mutate(chance.choice(corpus), chance, chance.choice(corpus))
        try:
            target(data)
        except Exception as error:
            what = f"{type(error).__name__} of {target.__name__} by {data.hex()[:200]}"
            return Brute(number + 1, what, 0, time.monotonic() - began)
        if number == count // 10:
            gc.collect()
            size = resident_bytes()
    gc.collect()
    return Brute(count, "", resident_bytes() - size, time.monotonic() - began)


def brute_control() -> Brute:
    """The same with decode_frame() that takes every length."""
    careful = wire.decode_frame
    wire.decode_frame = lambda data, at, _most: careful(data, at, 1 << 30)
    try:
        return brute_force(CONTROL)
    finally:
        wire.decode_frame = careful


def guided(name: str, seconds: int, keep: bool, program: Path = PROGRAM) -> Guided:
    """Run one target under atheris, in a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "corpus"
        folder.mkdir()
        for number, data in enumerate(corpus_files.read(name)):
            (folder / str(number)).write_bytes(data)
        done = _run(
            program, name, folder, f"-max_total_time={seconds}", "-rss_limit_mb=1024",
            "-timeout=10", "-max_len=1500", f"-artifact_prefix={place}/", "-print_final_stats=1",
        )  # fmt: skip
        figures = dict(
            line[6:].split(":") for line in done.stderr.splitlines() if line.startswith("stat::")
        )
        fault = "" if done.returncode == 0 else _fault(done)
        if keep and not fault:
            least = Path(place) / "least"
            least.mkdir()
            _run(program, name, least, "-merge=1", str(folder))
            found = [path.read_bytes() for path in sorted(least.iterdir())]
            print(f"{name}: {corpus_files.add(name, found)} inputs are new")
    runs = int(figures.get("number_of_executed_units", 0))
    return Guided(runs, fault, int(figures.get("peak_rss_mb", 0)))


def _run(program: Path, name: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(program), name, str(folder), *options],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def _fault(done: subprocess.CompletedProcess[str]) -> str:
    said = (done.stdout + done.stderr).splitlines()
    telling = [line.strip() for line in said if "Error" in line or "ERROR" in line]
    return "; ".join(telling[:2]) or f"exit code {done.returncode}"


def row_of_brute(found: Brute, control: Brute) -> Row:
    return Row(
        "8",
        f"{found.count:,} mutants of frames and payloads",
        f"only the documented error, memory grows by {FLAT_BYTES >> 20} MiB at most",
        found.fault or f"0 other errors, memory {found.grown / 1024:+.0f} KiB, "
        f"{found.count / found.seconds:,.0f} a second",
        not found.fault and found.grown <= FLAT_BYTES,
        f"a decoder that does not look at the length: found by mutant {control.count}"
        if control.fault else f"not found by {control.count} mutants",
        noticed([control.fault], SIGN),
    )  # fmt: skip


def row_of_guided(found: dict[str, Guided], seconds: int, control: Guided) -> Row:
    faults = [f"{name}: {one.fault}" for name, one in found.items() if one.fault]
    runs = ", ".join(f"{name} {one.runs:,}" for name, one in found.items())
    return Row(
        "8",
        f"atheris, {len(found)} targets of {seconds} s each",
        "no input that makes a target raise",
        "; ".join(faults) or f"0 faults in {sum(one.runs for one in found.values()):,} runs "
        f"({runs}); at most {max(one.mib for one in found.values())} MiB",
        not faults and all(one.runs for one in found.values()),
        "a decoder that does not look at the length, under its target `frames`: "
        + (f"{control.fault.partition(';')[0][:60]} after {control.runs:,} runs" if control.fault
           else f"not found in {CONTROL_S} s"),
        noticed([control.fault], SIGN),
    )


def main(words: list[str]) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=int, default=450, help="of each target under atheris")
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--keep", action="store_true", help="add what is new to the corpus")
    options = parser.parse_args(words)
    seconds = min(options.seconds, 5) if options.quick else options.seconds
    found = brute_force(min(options.frames, 100_000) if options.quick else options.frames)
    control = brute_control()
    rows = [row_of_brute(found, control)]
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed (pip install -e .[proof], CPython 3.11 only): not run")
    else:
        each = {name: guided(name, seconds, options.keep) for name in TARGETS}
        bad = guided("frames", CONTROL_S, False, BAD_PROGRAM)
        rows.append(row_of_guided(each, seconds, bad))
    return finish(rows, options.json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
