"""Every stepper gives the same bits for any team, however it partitions the work."""

import pytest
from workloads import CASES, make_workload, same, trained, with_team

STEPS = 6


@pytest.mark.parametrize("sharing", ["layers", "segments"])
@pytest.mark.parametrize("case", CASES)
def test_the_bits_do_not_depend_on_the_team(case, sharing, dtype, rng):
    workload = make_workload((16, 26, 40, 40, 10), dtype, rng, case, "regression", STEPS)
    if sharing == "segments" and (case == "zigzag" or not workload.plain):
        pytest.skip("segments are for plain two-pass descent on a regression")
    alone, *teams = (trained(with_team(workload, size, sharing)) for size in (1, 2, 3))
    for other in teams:
        same(other, alone)
