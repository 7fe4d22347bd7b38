import pytest

from phdlspec.fitting.progress import ENDS, listening, portion, tell


def test_shares_of_all_work_grow_through_the_stages():
    told = []
    with listening(lambda stage, share: told.append((stage, share)), "fast"):
        for start in (0.0, 0.5):  # two groups of stars
            with portion(start, 0.5):
                for stage in ENDS["fast"]:
                    tell(stage)
                    tell(stage, 0.5)
                tell("posterior", 1.0)
                tell("direct synthesis")
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[0] == 0.0
    assert shares[-1] == pytest.approx(1.0)
    assert dict(told)["optimise"] == pytest.approx(0.5 + 0.5 * 0.55)


def test_nobody_has_to_listen():
    tell("posterior", 0.5)
    with portion(0.0, 0.5):
        tell("posterior", 0.5)
