import pytest

torch = pytest.importorskip("torch")

from moe_lab.gpu.kernels import activation, combine, norm, rope
from moe_lab.spec.errors import UserError

DTYPES = [torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]


def near(y, expected):
    """Both sides compute in fp32 and round once: halves differ by a rounding, fp32 also by a GPU's fast exp."""
    eps = torch.finfo(expected.dtype).eps
    torch.testing.assert_close(y, expected, rtol=(32 if y.dtype == torch.float32 else 2) * eps, atol=8 * eps)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["silu", "swigluoai", "gelu_no_mul"])
@pytest.mark.parametrize(("rows", "N"), [(1, 48), (5, 300), (517, 7), (0, 16)])  # below and past a tile, both tilings
def test_gated_activation_equals_torch(rows, N, name, dtype, device, poison):
    gate_up = 6 * torch.randn(rows, 2 * N, device=device).to(dtype)  # 6: reaches the clamp of swigluoai
    exact = activation.gated_activation_torch(gate_up.double(), name)  # torch's fp32 gelu is off by 1e-6 around -3.5
    near(activation.gated_activation(gate_up, name), exact.to(dtype))


def test_swigluoai_is_clamped_as_published():
    """gate 100 is cut to 7, up -100 to -7: (-7 + 1) * 7 * sigmoid(1.702 * 7)."""
    y = activation.gated_activation_torch(torch.tensor([[100.0, -100.0]], dtype=torch.float64), "swigluoai")
    assert float(y) == pytest.approx(-6 * 7 / (1 + 2.718281828459045 ** (-1.702 * 7)))


def test_gated_activation_refuses_an_unknown_name():
    with pytest.raises(UserError, match="choose one of: silu, gelu, "):
        activation.gated_activation(torch.zeros(1, 2), "relu6")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("M", "K", "topk"), [(1, 64, 1), (3, 300, 8), (260, 33, 2), (0, 16, 2)])
def test_combine_equals_torch(M, K, topk, dtype, device, poison):
    rows = torch.randn(M * topk, K, device=device).to(dtype)
    near(combine.combine(rows, topk), combine.combine_torch(rows.float(), topk).to(dtype))
    weights = torch.linspace(0.5, 2, M * topk, device=device).view(M, topk)  # no two alike, none of them 1
    weighted = combine.combine(rows, topk, weights)
    near(weighted, combine.combine_torch(rows.float() * weights.view(-1, 1), topk).to(dtype))
    assert M == 0 or not torch.allclose(weighted, combine.combine(rows, topk), rtol=0.1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "K"), [(1, 64), (7, 600), (0, 16)])
def test_add_rms_norm_equals_torch(rows, K, dtype, device, poison):
    x, residual = torch.randn(2, rows, K, device=device).to(dtype)
    weight = torch.randn(K, device=device).to(dtype)
    for y, expected in zip(
        norm.add_rms_norm(x, residual, weight, 1e-6), norm.add_rms_norm_torch(x, residual, weight, 1e-6), strict=True
    ):
        near(y, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize(("tokens", "start"), [(5, 0), (1, 4)], ids=["prefill", "decode"])
def test_rope_cache_equals_torch_and_touches_no_other_position(tokens, start, normed, dtype, device):
    batch, heads, kv_heads, head_dim, length = 2, 6, 2, 16, 5
    qkv = torch.randn(batch * tokens, (heads + 2 * kv_heads) * head_dim, device=device).to(dtype)
    caches = torch.randn(2, batch, length, kv_heads, head_dim, device=device).to(dtype)
    gains = tuple(torch.randn(2, head_dim, device=device).to(dtype)) if normed else None
    table = rope.rotary_table(length, head_dim, 1e4, device)
    mine, theirs = caches.clone(), caches.clone()
    expected = rope.rope_cache_torch(qkv.clone(), *theirs, *table, start, gains, 1e-6)
    near(rope.rope_cache(qkv.clone(), *mine, *table, start, gains, 1e-6), expected)
    near(mine, theirs)
    assert torch.equal(mine[:, :, :start], caches[:, :, :start])


def test_rotary_embedding_makes_scores_depend_on_distance_only():
    """What RoPE is for: q at position 7 with k at 4 scores as q at 3 with k at 0."""
    head_dim = 16
    q, k = torch.randn(2, head_dim, generator=torch.Generator().manual_seed(1))
    cos, sin = rope.rotary_table(8, head_dim, 1e4, "cpu")

    def at(vector, position):
        qkv = torch.cat([vector, vector, vector])[None].clone()
        cache = torch.zeros(2, 1, 8, 1, head_dim)
        return rope.rope_cache_torch(qkv, *cache, cos, sin, position, None, 1e-6).flatten()

    assert float(at(q, 7) @ at(k, 4)) == pytest.approx(float(at(q, 3) @ at(k, 0)), rel=1e-4, abs=1e-5)
    assert float(at(q, 7) @ at(k, 4)) != pytest.approx(float(at(q, 7) @ at(k, 0)), rel=1e-2)
