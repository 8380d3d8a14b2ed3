import os
import secrets
import shutil
import sys
import tempfile
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from zlib import crc32

import pytest
from checkout import REPO
from recipes import only

from moe_lab.spec import plugins


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu", action="store_true", help="run on the GPU, with the tests that need one")
    about = (
        "where random inputs begin, to draw those of an earlier run again (default: fresh ones, named where one fails)"
    )
    parser.addoption("--inputs", type=int, metavar="N", help=about)


def pytest_configure(config: pytest.Config) -> None:
    given = getattr(config, "workerinput", vars(config.option))["inputs"]
    config.option.inputs = secrets.randbelow(2**31) if given is None else given
    gpu = False
    if config.getoption("--gpu") and find_spec("torch"):
        import torch

        gpu = torch.cuda.is_available()
    config.stash[GPU] = gpu
    if not gpu:
        os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
        os.environ["MOE_LAB_PEERS"] = os.devnull  # other projects' kernels are for the GPU: the interpreter is slow
    # Processes share no temporary folder: one would find, and report, what a test of another kills there.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # pytest's own folders stay
    os.environ["TMPDIR"] = config.stash[TEMPORARY] = tempfile.mkdtemp(prefix="pytest_moe_lab_")
    tempfile.tempdir = None  # it is read again


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node) -> None:
    """Give a process of the tests the inputs of all."""
    node.workerinput["inputs"] = node.config.option.inputs


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if terminalreporter.stats.get("failed"):
        terminalreporter.line(f"Random inputs are those of --inputs {config.option.inputs}.")


def pytest_unconfigure(config: pytest.Config) -> None:
    if folder := config.stash.get(TEMPORARY, None):
        shutil.rmtree(folder, ignore_errors=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.stash[GPU]:
        return
    reason = "no GPU is visible to torch" if config.getoption("--gpu") else "needs a GPU: ./scripts/test --gpu"
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let Triton's interpreter put its functions into the language once a launch.

    It does so again at each call of a device function, with the same result: half the time of kernels in tests.
    """
    interpreter = sys.modules.get("triton.runtime.interpreter")
    if not hasattr(interpreter, "_patch_lang"):
        return
    patch, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
    patched: set[str] = set()  # modules of device functions since the last launch

    def patch_once(function):
        if function.__module__ in patched:
            return None
        patched.add(function.__module__)
        return patch(function)

    def launch_anew(self, *arguments, **options):
        patched.clear()
        return launch(self, *arguments, **options)

    interpreter._patch_lang, interpreter.GridExecutor.__call__ = patch_once, launch_anew


GPU, TEMPORARY = pytest.StashKey[bool](), pytest.StashKey[str]()


@pytest.fixture(autouse=True)
def inputs(request: pytest.FixtureRequest) -> None:
    """Random inputs follow from --inputs and the name of the test: alone or among others, it draws the same."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(crc32(f"{request.config.option.inputs} {request.node.nodeid}".encode()))


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> str:
    """Where the kernels run: the GPU with --gpu, else the CPU under Triton's interpreter."""
    return "cuda" if pytestconfig.stash[GPU] else "cpu"


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the notebooks, runs and examples, in which the commands that the docs show are followed."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("notebooks", "profiles", "examples"):
        shutil.copytree(REPO / name, folder / name)
    return folder


@pytest.fixture
def without_profiler(monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    """Captures end where the profiler would start."""

    def capture(profiler: object, workload: list[str], name: str, **options: object) -> object:
        assert workload[0] in ("python", "vllm"), workload
        return type("Run", (), {"path": project / "profiles" / "h100" / name, "manifest": {}})()

    monkeypatch.setattr("moe_lab.runs.capture.capture", capture)


@pytest.fixture(scope="session")
def interpreter(device: str) -> None:
    """Skip where Triton compiles: the test runs kernels on the CPU, which only the interpreter does."""
    if device != "cpu":
        pytest.skip("runs kernels under Triton's interpreter: leave --gpu out")


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill every uninitialised tensor with NaN, or with the largest integer, so that an element nobody wrote shows."""
    import torch

    def fill(tensor):
        if tensor.is_floating_point():
            return tensor.fill_(float("nan"))
        return tensor.fill_(torch.iinfo(tensor.dtype).max) if tensor.dtype != torch.bool else tensor

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, original=original, **k: fill(original(*a, **k)))


@pytest.fixture
def opened_ranges(monkeypatch):
    """The ranges that a workload opens, as (depth, name) in that order, without the flush, which only a GPU has."""
    from moe_lab.gpu.workloads import window

    opened, depth, silent = [], [0], window.ranges.marker("none")

    @contextmanager
    def mark(name):
        opened.extend([(depth[0], name)] * (name != "flush"))
        depth[0] += 1
        yield
        depth[0] -= 1

    monkeypatch.setattr(window.ranges, "marker", lambda api: silent if api == "none" else mark)
    monkeypatch.setattr(window, "range_api", lambda: "torch")
    return opened


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Write the file of a recipe into a folder outside of the package; no plugin of it is left afterwards."""
    monkeypatch.setenv(plugins.FILES, "")

    def write(title: str) -> Path:
        path = tmp_path / "newcomer.py"
        path.write_text(only(title))
        return path

    yield write
    for name in [m for m in sys.modules if m.startswith("moe_lab_plugin_")]:
        del sys.modules[name]
