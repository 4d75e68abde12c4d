"""A dozen devices whose certificates live for ten seconds; tests/proof/rotation.py runs 200."""

from pathlib import Path

from proof.rotation import Proof


async def test_a_small_fleet_rotates_all_the_time(tmp_path: Path) -> None:
    """40 s: nothing lost, nothing twice, no session cut but for a change of identity."""
    proof = Proof(tmp_path / "fleet", devices=12, seconds=40.0, life_s=10.0)
    result = await proof.run()
    assert result.faults() == [], (result, proof.fleet.log()[-3000:])
    # A life of 10 s ends every 6.7 s: a busy machine may be late, none may stand still.
    assert result.fewest >= 2, result
    assert "Traceback" not in proof.fleet.log()
