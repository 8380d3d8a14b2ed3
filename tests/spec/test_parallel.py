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


def test_an_expert_that_is_everywhere_is_computed_where_its_tokens_are():
    both = [Parallel(((3, 0), (1, 2)), rank).everywhere(1) for rank in (0, 1)]
    assert both[0].placement == ((3, 0, 4), (1, 2, 4))
    assert [[row[4] for row in one.routes()[0]] for one in both] == [[0, 0], [1, 1]]


def test_a_map_says_which_ranks_hold_each_expert():
    owners = [[0], [1], [1], [1, 0]]
    assert Parallel.mapped(owners, 2, rank=1).local == (1, 2, 3)
    assert Parallel.mapped(owners, 2).local == (0, 3)


def test_pairs_stay_where_their_expert_is_and_else_share_the_ranks_that_hold_it():
    """GIVEN an expert 0 on ranks 0 and 1 WHEN ranks choose THEN those keep it and rank 2 sends to both in turn."""
    ranks, numbers = zip(*(Parallel(((0, 1), (2, 0), (3,)), rank).routes() for rank in range(3)), strict=True)
    assert ranks == ([[0, 0, 1, 2]] * 2, [[1, 0, 1, 2]] * 2, [[0, 0, 1, 2], [1, 0, 1, 2]])
    assert numbers[2] == [[0, 1, 0, 0], [1, 1, 0, 0]]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Parallel.contiguous(2, 3), "2 experts cannot be shared by 3 ranks"),
        (lambda: Parallel.contiguous(4, 2, rank=2), "no rank 2 of 2"),
        (lambda: Parallel(((0, 0),)), "Rank 0 holds an expert twice"),
        (lambda: Parallel(((0, 2),)), "Each expert of 0 to 2 must be on a rank; 2 are"),
        (lambda: Parallel(((),)), "must be on a rank"),
        (lambda: Parallel(()), "no rank 0 of 0"),
        (lambda: Parallel.mapped([[0], []], 2), "Expert 1 must be on some of the ranks 0 to 1"),
        (lambda: Parallel.mapped([[0], [2]], 2), "Expert 1 must be on some"),
    ],
)
def test_impossible_placements_are_refused_in_a_sentence(make, said):
    with pytest.raises(UserError, match=said):
        make()
