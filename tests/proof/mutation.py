"""Do the tests notice when the code is wrong? Mutants of frames, session, deduplication, policy.

    python tests/proof/mutation.py [--quick] [--only fleetnet/frame.py] [--seed 7] [--jobs 2]

Each mutant (mutants.py) is judged by its module's own tests, in a process forked off this one
that imports the changed tree in the module's place; no file is written, so two runs, or an
editor, do not disturb each other. A mutant is killed when a test fails, when the module cannot be
imported, or when the tests use several times the CPU that they need (a loop without an end).

Why not mutmut or cosmic-ray: mutmut 3 rewrites each function into a table of variants, which the
files that MicroPython and mpy-cross read are not to have, and copies the tree; cosmic-ray writes
each mutant over the file in the checkout. Neither judges a module by tests chosen for it. This is
short, and as quick: a fork costs 0.1 s, where a new pytest costs 1 s.

Survivors that no test can kill, since they do the same as the original, are listed with the
reason in equivalent_mutants.txt. One that is killed after all, or does not exist any more, is an
error of that list and fails the row. Expected: 90 % killed, all others listed. --quick draws 60
of all.

The control lets the tests of another module judge.
"""

import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    ROOT = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(ROOT / part) for part in ("", "server", "device_lib", "tests")]

from proof.equivalents import Listed, read_list
from proof.forked_tests import Verdict, judge_all
from proof.mutants import Mutant, mutants_of
from proof.verdict import ROOT, Row, arguments, finish

LEAST_SHARE = 0.9
QUICK = 60
CONTROL = 6
LIST = Path(__file__).with_name("equivalent_mutants.txt")

_CORE = "tests/core/test_"
_STORE = "tests/server/store/test_"
# Module -> its own tests, those that kill most per second first.
OWN: dict[str, tuple[str, ...]] = {
    "fleetnet/varint.py": (_CORE + "varint.py", _CORE + "vectors.py"),
    "fleetnet/kinds.py": (_CORE + "frame.py",),
    "fleetnet/frame.py": (_CORE + "frame.py", _CORE + "acks.py", _CORE + "vectors.py"),
    "fleetnet/fields.py": (_CORE + "fields_handshake.py", _CORE + "vectors.py"),
    "fleetnet/receiver.py": (
        _CORE + "receiver.py", _CORE + "receiver_state.py", _CORE + "acks.py",
        _CORE + "session_pair.py",
    ),
    "fleetnet/sender.py": (
        _CORE + "sender_bounds.py", _CORE + "sender.py", _CORE + "session_rules.py",
        _CORE + "session_pair.py",
    ),
    "fleetnet/session.py": (
        _CORE + "session_bounds.py", _CORE + "session_hears.py", _CORE + "session_rules.py",
        _CORE + "session_pair.py",
    ),
    "server/fleetnet_server/store/batch.py": (
        _STORE + "batch.py", _STORE + "sqlite.py", _STORE + "ordering.py",
    ),
    "server/fleetnet_server/store/known.py": (_STORE + "batch.py",),
    "server/fleetnet_server/identity/policy.py": ("tests/server/identity/test_policy.py",),
    "server/fleetnet_server/core/policing.py": (
        "tests/server/core/test_pace.py", "tests/server/core/test_policing.py",
    ),
}  # fmt: skip
FOREIGN = ("tests/core/test_varint.py",)


class Case(NamedTuple):
    """One mutant of one module, and who judges it."""

    module: str
    mutant: Mutant
    tests: tuple[str, ...]


class Score(NamedTuple):
    """Names are "MODULE FUNCTION: BEFORE -> BEHIND"."""

    judged: int
    killed: int
    unlisted: list[str]
    stale: list[str]

    @property
    def share(self) -> float:
        return self.killed / self.judged if self.judged else 0.0

    def is_good(self) -> bool:
        return self.share >= LEAST_SHARE and not self.unlisted and not self.stale


def cases_of(modules: Sequence[str]) -> list[Case]:
    return [
        Case(module, mutant, OWN[module])
        for module in modules
        for mutant in mutants_of((ROOT / module).read_text())
    ]


def score(cases: Sequence[Case], jobs: int, listed: Listed) -> Score:
    """Judge the cases, and compare the survivors with the list."""
    killed = 0
    unlisted, stale = [], []
    for number, (case, verdict) in enumerate(judge_all(cases, jobs), 1):
        known = case.mutant.name in listed.get(case.module, {})
        name = f"{case.module} {case.mutant.name}"
        if verdict is Verdict.KILLED:
            killed += 1
            if known:
                stale.append(f"{name} (killed)")
        elif not known:
            unlisted.append(name)
            print(f"survived: {name}", flush=True)
        if number % 100 == 0:
            print(f"{number} of {len(cases)}, {killed} killed", flush=True)
    return Score(len(cases), killed, unlisted, stale)


def gone(listed: Listed) -> list[str]:
    """Return what the list names and no module has any more."""
    found = []
    for module, names in listed.items():
        real = {m.name for m in mutants_of((ROOT / module).read_text())} if module in OWN else {""}
        found += [f"{module} {name} (no such mutant)" for name in names if name not in real]
    return found


def control(seed: int, jobs: int) -> Score:
    """Mutants of frames, judged by tests that do not look at frames."""
    cases = cases_of(["fleetnet/frame.py"])
    drawn = random.Random(seed).sample(cases, CONTROL)
    foreign = [case._replace(tests=FOREIGN) for case in drawn]
    killed = sum(verdict is Verdict.KILLED for _, verdict in judge_all(foreign, jobs))
    return Score(CONTROL, killed, [], [])


def row_of(found: Score, everything: int, weak: Score, seconds: float) -> Row:
    survived = found.judged - found.killed
    return Row(
        "31",
        f"{found.judged} of {everything} mutants of frames, session, deduplication and policy",
        f"{LEAST_SHARE:.0%} killed by the module's own tests, every survivor explained",
        f"{found.killed} killed ({found.share:.1%}), {survived} survived, of which "
        f"{len(found.unlisted)} are not explained; {len(found.stale)} entries of the list are "
        f"out of date; {seconds:.0f} s",
        found.is_good(),
        f"judged by tests of another module {weak.share:.0%} are killed",
        weak.share < LEAST_SHARE,
    )


def main(words: list[str]) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--only", action="append", choices=sorted(OWN), help="these modules")
    parser.add_argument("--seed", type=int, default=7, help="of --quick")
    parser.add_argument("--sample", type=int, help="draw so many")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args(words)
    os.chdir(ROOT)
    listed = read_list(LIST)
    everything = cases_of(options.only or list(OWN))
    drawn = options.sample or (QUICK if options.quick else None)
    cases = everything
    if drawn is not None and drawn < len(everything):
        cases = random.Random(options.seed).sample(everything, drawn)
    began = time.monotonic()
    found = score(cases, options.jobs, listed)
    found.stale.extend(gone(listed))
    for name in found.stale:
        print(f"out of date in {LIST.name}: {name}")
    weak = control(options.seed, options.jobs)
    row = row_of(found, len(everything), weak, time.monotonic() - began)
    return finish([row], options.json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
