"""Peers without a network: tiny wheels made here stand for released ones."""

import json
import os
import sys
import zipfile
from pathlib import Path

import pytest
from wheel_builder import FILES, KERNEL, MOE, TILES, wheel

from moe_lab import cli
from moe_lab.gpu.experts import _standins
from moe_lab.spec import peers
from moe_lab.spec.errors import UserError
from moe_lab.spec.peers import fetch


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOE_LAB_PEERS", str(tmp_path / "peers"))
    return tmp_path / "peers"


def test_add_unpacks_only_what_runs_the_kernels_with_hashes_and_licence(cache: Path, tmp_path: Path) -> None:
    vllm, ogs = fetch.add(str(wheel(tmp_path)))
    names = {p.relative_to(vllm.root).as_posix() for p in vllm.root.rglob("*") if p.is_file()}
    assert names == {
        *(f"{MOE}/fused_moe.py", f"{MOE}/configs/{TILES}"),
        *("vllm-1.2.dist-info/licenses/LICENSE", "peer.json"),
    }
    facts = json.loads((vllm.root / "peer.json").read_text())
    assert (facts["wheel"], facts["licence"], facts["version"]) == ("vllm-1.2-py3-none-any.whl", "Apache-2.0", "1.2")
    assert facts["sha256"] == fetch._sha256(tmp_path / facts["wheel"])
    assert set(facts["files"]) == names - {"peer.json"}
    assert (ogs.project, ogs.version, ogs.facts["licence"]) == ("triton_kernels", "vllm-1.2", "MIT")
    assert (ogs.root / "triton_kernels" / "inner" / "deep.py").is_file(), "the path in the wheel is cut off"
    assert [p.name for p in cache.iterdir() if p.name.startswith(".")] == [], "no temporary folder is left"


def test_newest_release_is_taken_unless_one_is_named(cache: Path, tmp_path: Path) -> None:
    for version in ("1.9", "1.10", "1.10rc1"):
        fetch.add(str(wheel(tmp_path, version=version)))
    assert peers.get("vllm").version == "1.10"
    assert peers.get("vllm", "1.9").version == "1.9"
    with pytest.raises(UserError, match=r"moe-lab peers add vllm==3.0"):
        peers.get("vllm", "3.0")
    with pytest.raises(UserError, match=r"moe-lab peers add vllm==3.0"):
        peers.get("triton_kernels", "vllm-3.0")


def test_add_again_replaces_the_release(cache: Path, tmp_path: Path) -> None:
    fetch.add(str(wheel(tmp_path)))
    fetch.add(str(wheel(tmp_path, files={**FILES, f"{MOE}/fused_moe.py": KERNEL + "NEW = 1\n"})))
    assert "NEW" in peers.get("vllm").file("kernel").read_text()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "numpy", "files": {}}, "lacks kernels that moe_lab can read"),
        ({"files": {f"{MOE}/layer.py": "class Layer: ..."}}, "lacks its library of cutlass_fp8"),
        ({"files": {**FILES, "../evil.py": KERNEL}}, r"has the file '../evil.py', which would lie outside"),
    ],
    ids=["another-package", "moved-files", "escaping-path"],
)
def test_add_refuses_a_wheel_without_the_kernels(cache: Path, tmp_path: Path, given: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        fetch.add(str(wheel(tmp_path, **given)))
    assert peers.cached() == []


def test_add_refuses_names_that_carry_nothing_before_it_downloads(cache: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(fetch.subprocess, "run", lambda *a, **k: pytest.fail("must not download"))
    assert cli.main(["peers", "add", "numpy==2.0"]) == 2
    assert "choose one of: sgl_deep_gemm, sglang, vllm" in capsys.readouterr().err
    assert cli.main(["peers", "add", "triton_kernels"]) == 2
    assert "PyPI is another project); vllm carries it" in capsys.readouterr().err


def test_add_says_what_pip_said(cache: Path, monkeypatch) -> None:
    def run(argv, **options):
        assert argv[1:4] == ["-m", "pip", "download"]
        assert "--no-deps" in argv
        said = "WARNING: x\nERROR: Could not find vllm==9 (from versions: 1)\nERROR: No matching"
        return type("Done", (), {"returncode": 1, "stderr": said})()

    monkeypatch.setattr(fetch.subprocess, "run", run)
    with pytest.raises(UserError, match=r"pip could not download vllm==9: Could not find vllm==9\.$"):
        fetch.add("vllm==9")


def test_peers_lists_what_is_here_and_how_to_get_the_rest(cache: Path, tmp_path: Path, capsys) -> None:
    assert cli.main(["peers", "add", str(wheel(tmp_path))]) == 0
    assert "vllm 1.2: 3 files, licence Apache-2.0" in capsys.readouterr().out
    assert cli.main(["peers"]) == 0
    out = capsys.readouterr().out
    assert "vllm-1.2-py3-none-any.whl" in out
    assert "sglang is not here: moe-lab peers add sglang==" in out
    assert cli.main(["peers", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {f["peer"] for f in found} == {"vllm", "triton_kernels"}
    assert {len(f["sha256"]) for f in found} == {64}


def test_installed_package_is_preferred_and_not_imported(cache: Path, tmp_path: Path, monkeypatch) -> None:
    fetch.add(str(wheel(tmp_path)))
    place = tmp_path / "site"
    (place / "vllm").mkdir(parents=True)
    (place / "vllm" / "__init__.py").write_text("raise RuntimeError('half the world')")
    (place / MOE).mkdir(parents=True)
    (place / MOE / "fused_moe.py").write_text(KERNEL)
    monkeypatch.syspath_prepend(str(place))
    found = peers.get("vllm")
    assert (found.origin, found.root) == ("installed", place)
    assert found.file("kernel") == place / MOE / "fused_moe.py"
    assert "vllm" not in sys.modules
    assert peers.get("vllm", "1.2").origin == "wheel"


def test_an_unrelated_package_called_triton_kernels_is_no_peer(cache: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "triton_kernels").mkdir()
    (tmp_path / "triton_kernels" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert peers.find("triton_kernels") is None


def test_one_file_is_imported_with_stand_ins_for_the_rest(cache: Path, tmp_path: Path) -> None:
    fetch.add(str(wheel(tmp_path)))
    before = set(sys.modules)
    module = _standins.load_file(peers.get("vllm").file("kernel"), "vllm", {"true_answer": lambda x: x + 1})
    assert module.double(3) == 6, "a decorator that is a stand-in leaves the function as it is"
    assert module.Experts().run() == "ran", "a base class that is a stand-in is left out"
    assert module.kernel_of(1) == 2, "what the file really uses is true"
    with pytest.raises(UserError, match="is not in the files"):
        bool(module.FAST)
    assert {name for name in set(sys.modules) - before if name.startswith("vllm")} == set()
    with pytest.raises(UserError, match=r"'vllm.platforms.current_platform.device' is not in the files"):
        module.needs_more(1)


def test_a_file_that_cannot_be_imported_alone_is_one_sentence(cache: Path, tmp_path: Path) -> None:
    broken = KERNEL + "\nimport no_such_library_at_all\n"
    fetch.add(str(wheel(tmp_path, files={**FILES, f"{MOE}/fused_moe.py": broken})))
    with pytest.raises(UserError, match=r"'fused_moe\.py' of vllm cannot be imported alone"):
        _standins.load_file(peers.get("vllm").file("kernel"), "vllm", {"true_answer": None})
    assert not [name for name in sys.modules if name.startswith("vllm")]
    assert not [finder for finder in sys.meta_path if isinstance(finder, _standins._Finder)]


def test_two_releases_of_a_package_live_side_by_side(cache: Path, tmp_path: Path) -> None:
    for version, value in (("1.2", 7), ("1.3", 8)):
        deep = {**FILES, "vllm/third_party/triton_kernels/inner/deep.py": f"VALUE = {value}\n"}
        fetch.add(str(wheel(tmp_path, version=version, files=deep)))
    roots = [peers.get("triton_kernels", f"vllm-{version}").root for version in ("1.2", "1.3")]
    loaded = [_standins.load_package(root, "triton_kernels", ["matmul_ogs"])["matmul_ogs"] for root in roots]
    assert [module.VALUE for module in loaded] == [7, 8]
    assert loaded[0].NAME == "triton_kernels.matmul_ogs"
    assert not [name for name in sys.modules if name.startswith("triton_kernels")]
    assert not {str(root) for root in roots} & set(sys.path)


def test_tests_never_see_a_cache_of_this_machine(pytestconfig: pytest.Config) -> None:
    assert os.environ["MOE_LAB_PEERS"] == os.devnull or pytestconfig.getoption("--gpu")


@pytest.mark.parametrize("version", ["/../../../precious", "../../precious", "1/2", "not a version", "", "1.0\n /../x"])
def test_add_refuses_a_version_that_is_none_and_removes_nothing(version: str, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "peer.json").write_text('{"project": "vllm", "files": {}}')
    path = tmp_path / "vllm-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("vllm-1.dist-info/METADATA", f"Name: vllm\nVersion: {version}\n\n")
        for inside, text in FILES.items():
            archive.writestr(inside, text)
    with pytest.raises(UserError, match=r"PEP 440"):
        fetch.add(str(path))
    assert (tmp_path / "precious" / "peer.json").is_file()
    assert not cache.exists()


def member(name: str, mode: int = 0o100644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize(
    "bad",
    [member("/vllm/x.py"), member("vllm/../../x.py"), member("vllm\\x.py"), member("C:/x.py"), member("v/l", 0o120777)],
    ids=["absolute", "dots", "backslash", "drive", "link"],
)
def test_add_refuses_members_that_lead_outside(bad: zipfile.ZipInfo, cache: Path, tmp_path: Path) -> None:
    path = wheel(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(bad, "/etc/passwd")
    with pytest.raises(UserError, match="nothing was unpacked"):
        fetch.add(str(path))
    assert not cache.exists()


def test_add_reads_no_more_than_kernels_have(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "vllm-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("vllm-1.2.dist-info/METADATA", "Name: vllm\nVersion: 1.2\n\n")
        archive.writestr(f"{MOE}/fused_moe.py", b"#" * 101_000_000)
    with pytest.raises(UserError, match="unpacks to more than"):
        fetch.add(str(path))


def test_add_reads_a_compiled_extension_as_large_as_released_ones(cache: Path, tmp_path: Path) -> None:
    """DeepGEMM's, in vLLM 0.33.0, has 29.5 MB."""
    path = wheel(tmp_path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("vllm/third_party/deep_gemm/include/deep_gemm/x.hpp", "//")
        archive.writestr("vllm/third_party/deep_gemm/_C_extension.abi3.so", bytes(29_500_000))
    assert "deep_gemm" in {peer.project for peer in fetch.add(str(path))}


def test_add_takes_a_library_with_what_its_compiler_reads(cache: Path, tmp_path: Path) -> None:
    files = {"deep_gemm/__init__.py": "", "deep_gemm/_C.so": "code", "deep_gemm/include/cute/a.hpp": "//"}
    [peer] = fetch.add(str(wheel(tmp_path, "sgl_deep_gemm", "0.1.7", files)))
    assert (peer.project, peer.version) == ("sgl_deep_gemm", "0.1.7")
    assert all((peer.root / name).is_file() for name in files)


def test_add_replaces_only_a_release(cache: Path, tmp_path: Path) -> None:
    (cache / "vllm" / "1.2").mkdir(parents=True)
    (cache / "vllm" / "1.2" / "mine").write_text("mine")
    with pytest.raises(UserError, match="not a release of moe_lab"):
        fetch.add(str(wheel(tmp_path)))
    assert (cache / "vllm" / "1.2" / "mine").read_text() == "mine"


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"Version: 1\n"], ids=["not-utf8", "empty", "no-name"])
def test_add_says_what_is_wrong_with_metadata(content: bytes, cache: Path, tmp_path: Path, capsys) -> None:
    path = tmp_path / "b-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("b-1.dist-info/METADATA", content)
    assert cli.main(["peers", "add", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


RELEASE = {"project": "vllm", "version": "2", "files": {"a.py": "00"}, "licence": None}
BROKEN = [{"project": ["vllm"]}, {"version": "9" * 5000}, {"files": 5}, {"licence": [5]}]


@pytest.mark.parametrize(
    "text",
    [
        *(json.dumps(RELEASE | wrong) for wrong in BROKEN),
        "{",
        "[]",
        '{"project": "vllm"}',
        '{"project": "vllm", "version": 5}',
        "\udcff",
    ],
)
def test_a_release_whose_manifest_is_broken_is_none(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOE_LAB_PEERS", str(tmp_path))
    for version, said in (("1", text), ("2", json.dumps(RELEASE))):
        (tmp_path / "vllm" / version).mkdir(parents=True)
        (tmp_path / "vllm" / version / peers.MANIFEST).write_bytes(said.encode(errors="surrogateescape"))
    assert [peer.version for peer in peers.cached()] == ["2"]
