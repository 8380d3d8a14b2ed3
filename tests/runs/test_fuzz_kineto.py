"""Any field of any event of any kind: a trace is read with its right times, or refused in one sentence."""

import contextlib
import io
import json
import math

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from kineto_builder import KinetoBuilder

from moe_lab import cli

EXTREMES = (
    *(
        0,
        -1,
        2**31,
        2**62,
        2**63 - 1,
        2**63,
        2**64 - 1,
        -(2**63),
        10**30,
        10**400,
        1e308,
        -1e308,
        1e-320,
        0.5,
        math.nan,
    ),
    *(
        math.inf,
        -math.inf,
        True,
        False,
        None,
        "",
        "\u00b2",
        "\u0663",
        "1e400",
        "NaN",
        "9" * 5000,
        "\ud800",
        "\x00\x1b[2J",
    ),
    *("a" * 70_000, "<" * 9000, "{'Module':" * 500, [], {}, [1, 2, 3], [2**31 - 1] * 3, [[]] * 3, {"a": {"b": [1]}}),
    *("X", "kernel", "/home/ada/x", "[" * 500),
)


def sample():
    b = KinetoBuilder(baseTimeNanoseconds=1790857026000000000, host_name="node17")
    b.push("step", 1000, 9000)
    b.module("Experts_0", 2000, 8000)
    b.operator("aten::mm", 2100, 2900, 41)
    b.launch(2200, 1, gpu=(10_000, 20_000), name="fused_moe_kernel")
    b.call(3000, 3100, 2, name="cudaGraphLaunch")
    b.kernel(20_000, 35_000, 2, name="fused_moe_kernel", node=3)
    b.call(4000, 4100, 3, name="cudaMemcpyAsync")
    b.copy(40_000, 41_000, 3)
    b.metadata()
    return json.loads(b.text())


def places(value, at=()):
    """Yield the way to every value of a trace."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*at, key)
        yield from places(inner, (*at, key))


PLACES = sorted(places(sample()), key=str)


def ran(argv):
    """Return (exit code, what was printed): no exception may come out."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(argv)
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def put(trace, way, value):
    for key in way[:-1]:
        trace = trace[key]
    trace[way[-1]] = value


@seed(14)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(EXTREMES)), min_size=1, max_size=2))
def test_any_value_anywhere_is_read_or_refused_in_one_sentence(folder, changes):
    trace = sample()
    for way, value in changes:
        with contextlib.suppress(KeyError, IndexError, TypeError):
            put(trace, way, value)
    path = folder / "t.json"
    with contextlib.suppress(ValueError):
        path.write_text(json.dumps(trace))
    code, out, err = ran(["breakdown", str(path), "--roles", "auto", "--format", "csv"])
    assert code in (0, 2)
    assert code == 0 or (err.count("\n") == 1 and err.startswith("moe-lab: "))
    profiles = ["--profiles", str(folder / "p"), "--overwrite"]
    again, _, said = ran(["import", str(path), "--name", "gpu/run", *profiles])
    assert again in (0, 2)
    if code == again == 0:
        [small] = (folder / "p").rglob("report.json.gz")
        same, copied, _ = ran(["breakdown", str(small), "--roles", "auto", "--format", "csv"])
        assert same == 0
        numbers = [[line.split(",")[1:] for line in text.splitlines()] for text in (out, copied)]
        assert numbers[0] == numbers[1], said


@seed(15)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.binary(min_size=0, max_size=6), st.integers(0, 6))
def test_any_bytes_anywhere_are_read_or_refused_in_one_sentence(folder, at, new, gone):
    data = json.dumps(sample()).encode()
    at %= len(data)
    path = folder / "b.json"
    path.write_bytes(data[:at] + new + data[at + gone :])
    code, _, err = ran(["breakdown", str(path), "--roles", "auto"])
    assert code in (0, 2)
    assert code == 0 or (err.count("\n") == 1 and err.startswith("moe-lab: "))
