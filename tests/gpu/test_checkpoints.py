import pytest

torch = pytest.importorskip("torch")

from moe_lab.gpu import checkpoints
from moe_lab.gpu.formats import dense
from moe_lab.spec.errors import UserError

E, K, N = 2, 256, 16


def words(nibbles):
    """[..., 8] numbers of 0 to 15, the first in the lowest bits -> [...] int32."""
    shifted = sum(nibbles[..., i].long() << 4 * i for i in range(8))
    return torch.where(shifted >= 2**31, shifted - 2**32, shifted).int()


def drawn(group):
    """Codes [E, K, N], zero points and scales [E, K / group, N], and the weights [E, N, K] that they stand for."""
    codes, zeros = (torch.randint(0, 16, (E, rows, N)) for rows in (K, K // group))
    scales = torch.rand(E, K // group, N).bfloat16()
    spread = [t.repeat_interleave(group, 1) for t in (zeros, scales.double())]
    return codes, zeros, scales, ((codes - spread[0]) * spread[1]).transpose(1, 2)


@pytest.mark.parametrize(("group", "name"), [(128, "int4_w4a16_zeros"), (32, "int4_w4a16_g32_zeros")])
def test_awq_is_read_with_its_order_of_columns(group, name):
    codes, zeros, scales, expected = drawn(group)
    packed = [words(t.view(E, -1, N // 8, 8)[..., [0, 2, 4, 6, 1, 3, 5, 7]]) for t in (codes, zeros)]
    found = checkpoints.from_awq(*packed, scales)
    assert found.format == name
    torch.testing.assert_close(dense(found, torch.float64), expected)


@pytest.mark.parametrize("v2", [False, True])
def test_gptq_is_read_along_its_inputs_and_zero_points_are_one_more_unless_v2(v2):
    codes, zeros, scales, expected = drawn(64)
    along = words(codes.view(E, K // 8, 8, N).transpose(2, 3))
    beside = words(((zeros - (0 if v2 else 1)) % 16).view(E, -1, N // 8, 8))
    found = checkpoints.from_gptq(along, beside, scales, torch.arange(K) // 64, v2=v2)
    assert found.format == "int4_w4a16_g64_zeros"
    torch.testing.assert_close(dense(found, torch.float64), expected)


def test_symmetric_gptq_needs_no_zero_points():
    codes, _, scales, _ = drawn(128)
    along, sevens = words(codes.view(E, K // 8, 8, N).transpose(2, 3)), torch.full((E, K // 128, N // 8), 0x77777777)
    found = checkpoints.from_gptq(along, sevens.int(), scales)
    assert (found.format, found.zeros) == ("int4_w4a16", None)
    torch.testing.assert_close(
        dense(found, torch.float64), ((codes - 8) * scales.double().repeat_interleave(128, 1)).transpose(1, 2)
    )


def test_what_no_format_has_is_refused():
    codes, zeros, scales, _ = drawn(16)
    along, beside = words(codes.view(E, K // 8, 8, N).transpose(2, 3)), words(zeros.view(E, -1, N // 8, 8))
    with pytest.raises(UserError, match="no format 'int4_w4a16_g16_zeros'; choose one of"):
        checkpoints.from_gptq(along, beside, scales)
    with pytest.raises(UserError, match=r"in another order \(desc_act\)"):
        checkpoints.from_gptq(along, beside, scales, torch.randperm(K) // 16)
