"""One target under atheris; run by tests/proof/fuzzing.py.

    run_atheris.py TARGET FOLDER [options of libFuzzer]

FOLDER has the corpus, and gets what is new. Ends with libFuzzer's exit code: 77 when an input
made the target raise, which is then in FOLDER/../crash-*.
"""

import sys

import atheris

with atheris.instrument_imports(include=["fleetnet", "fleetnet_server"]):
    from fuzz.targets import TARGETS


def main() -> None:
    target = TARGETS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[3:], sys.argv[2]], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
