import pytest

from moe_lab.spec.errors import UserError
from moe_lab.spec.parallel import Parallel


def test_contiguous_experts_are_shared_in_order():
    assert Parallel.contiguous(8, 2).placement == ((0, 1, 2, 3), (4, 5, 6, 7))
    second = Parallel.contiguous(7, 3, rank=1)
    assert (second.ranks, second.experts, second.local) == (3, 7, (3, 4))
    assert second.expert_map() == [-1, -1, -1, 0, 1, -1, -1]


def test_a_redundant_expert_has_several_owners_and_a_number_on_each():
    first, second = (Parallel(((3, 0), (1, 2, 3)), rank) for rank in (0, 1))
    assert [first.owners(expert) for expert in range(4)] == [(0,), (1,), (1,), (0, 1)]
    assert first.expert_map() == [1, -1, -1, 0]
    assert second.expert_map() == [-1, 0, 1, 2]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Parallel.contiguous(2, 3), "2 experts cannot be shared by 3 ranks"),
        (lambda: Parallel.contiguous(4, 2, rank=2), "no rank 2 of 2"),
        (lambda: Parallel(((0, 0),)), "Rank 0 holds an expert twice"),
        (lambda: Parallel(((0, 2),)), "Each expert of 0 to 2 must be on a rank; 2 are"),
        (lambda: Parallel(((),)), "must be on a rank"),
        (lambda: Parallel(()), "no rank 0 of 0"),
    ],
)
def test_impossible_placements_are_refused_in_a_sentence(make, said):
    with pytest.raises(UserError, match=said):
        make()
