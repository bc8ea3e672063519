"""The digest of a problem: equal for equal data, and different for all else."""

import numpy as np
import pytest
import sweep_cases
from sweep_cases import run, same

import fastdln
from fastdln.sweeps.fingerprint import digest


class Distance:
    """A problem of a user's own: ½‖M − A‖²."""

    d_x, d_y, smoothness = 4, 2, 1.0

    def __init__(self, A=1.0, **members):
        self.A = A * np.ones((2, 4))
        vars(self).update(members)

    def loss(self, M):
        return 0.5 * float(np.sum((M - self.A) ** 2))

    def gradient(self, M):
        return M - self.A


def test_any_objective_can_be_swept_and_is_told_apart_from_others(tmp_path):
    A = np.arange(8.0).reshape(2, 4)
    ds = run(problem=Distance(A), store=tmp_path / "s", inits=["orthogonal"])
    assert ds.attrs["problem"].startswith("Distance(d_x=4, d_y=2) sha256:")
    assert (ds.loss.isel(step=-1) < ds.initial_loss).any()
    again = Distance(np.asfortranarray(A))
    assert same(ds, run(problem=again, store=tmp_path / "s", inits=["orthogonal"]))
    with pytest.raises(ValueError, match=r"problem is .* there and .* here"):
        run(problem=Distance(A + 1e-9), store=tmp_path / "s", inits=["orthogonal"])


def test_what_a_problem_has_computed_does_not_change_its_digest():
    p = sweep_cases.problem()
    before = digest(p)
    assert p.reduced.rank == 4
    assert digest(p) == before != digest(sweep_cases.problem(1))


class Slotted(Distance):
    __slots__ = ("__hidden", "extra")

    def hide(self, value):
        self.__hidden = value


def test_stores_know_problems_by_all_that_they_hold(tmp_path):
    common = {"widths": [3], "depths": [2], "steps": 3, "progress": False, "learning_rate": 0.1}
    one, two = (
        Distance(data={"a": np.ones(2), 3: "x"}),
        Distance(data={3: "x", "a": np.full(2, 2.0)}),
    )
    assert digest(one) == digest(Distance(data={3: "x", "a": np.ones(2)})) != digest(two)
    slotted = Slotted()
    slotted.extra = 1.0
    before = digest(slotted)
    slotted.extra = 2.0
    assert digest(slotted) != before
    before = digest(slotted)
    slotted.hide(1)
    assert digest(slotted) != before
    fastdln.sweep(one, store=tmp_path / "s", **common)
    with pytest.raises(ValueError, match="problem is"):
        fastdln.sweep(two, store=tmp_path / "s", **common)
    unknown = Distance(data=object())
    with pytest.raises(TypeError, match=r"tells problems apart .* but data is a object"):
        fastdln.sweep(unknown, store=tmp_path / "t", **common)
    assert not (tmp_path / "t").exists()
    assert fastdln.sweep(unknown, **common).attrs["problem"] == "Distance(d_x=4, d_y=2)"


@pytest.mark.parametrize(
    "value",
    [1, 1.5, "x", None, True, [1, "x"], {"a": [1.0]}, np.float32(2), np.arange(3), np.arange(3.0)],
    ids=repr,
)
def test_values_of_every_kind_have_digests_of_their_own(value):
    found = digest(Distance(data=value))
    assert found == digest(Distance(data=value))
    assert found not in {digest(Distance()), digest(Distance(data=[value]))}


def test_strides_and_byte_order_do_not_matter_but_shapes_and_dtypes_do():
    A = np.arange(6.0).reshape(2, 3)
    found = digest(Distance(data=A))
    for same_values in (np.asfortranarray(A), A.astype(">f8"), np.repeat(A, 2, axis=1)[:, ::2]):
        assert digest(Distance(data=same_values)) == found
    for other in (A.reshape(3, 2), A.astype("float32"), A.ravel()):
        assert digest(Distance(data=other)) != found
