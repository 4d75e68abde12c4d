"""Every input that was ever interesting, again, and some thousand mutants of them."""

import random

import pytest

from fleetnet import frame as wire
from fuzz import corpus_files
from fuzz.targets import TARGETS, Target, frames
from test_frame_fuzz import mutate

# policy.toml is written to a disk for each.
MUTANTS = {name: 150 if name == "policy" else 1500 for name in TARGETS}


def bombard(target: Target, corpus: list[bytes], count: int, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(count):
        target(mutate(chance.choice(corpus), chance, chance.choice(corpus)))


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_and_its_mutants(name: str) -> None:
    corpus = corpus_files.read(name)
    assert len(corpus) >= 5
    for data in corpus:
        TARGETS[name](data)
    bombard(TARGETS[name], corpus, MUTANTS[name], 11)


def test_a_decoder_that_checks_no_length_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of tests/proof/fuzzing.py, short."""
    careful = wire.decode_frame
    monkeypatch.setattr(wire, "decode_frame", lambda data, at, _most: careful(data, at, 1 << 30))
    with pytest.raises(AssertionError):
        bombard(frames, corpus_files.read("frames"), 20_000, 5)
