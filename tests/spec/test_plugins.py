import subprocess
import sys

import pytest

from moe_lab.spec import plugins
from moe_lab.spec.errors import UserError


def test_listing_and_describing_plugins_imports_none_of_them():
    """A backend whose library is missing must still be listed, so listing may not import: nor torch, nor the plugin."""
    code = (
        "import sys; sys.modules['torch'] = sys.modules['triton'] = None\n"
        "from moe_lab.spec import plugins\n"
        "found = {f: {n: plugins.info(f, n)['about'] for n in plugins.names(f)} for f in plugins.FOLDERS}\n"
        "assert all(found.values()), found\n"
        "loaded = [m for m in sys.modules if m.startswith(('moe_lab.gpu', 'moe_lab.runs'))]\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", plugins.FOLDERS)
def test_every_plugin_says_what_it_is_and_what_it_needs(folder):
    for name in plugins.names(folder):
        info = plugins.info(folder, name)
        assert info["about"]
        assert all(isinstance(module, str) for module in info.get("needs", []))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """One plugin folder with a plugin that cannot be imported and one that has no INFO."""
    (tmp_path / "gpu" / "align").mkdir(parents=True)
    (tmp_path / "gpu" / "align" / "far.py").write_text(
        'INFO = {"about": "x", "needs": ["json", "no_such_library"]}\nimport no_such_library\n'
    )
    (tmp_path / "gpu" / "align" / "bare.py").write_text("INFORMATION = {}\n")
    (tmp_path / "gpu" / "align" / "_shared.py").write_text("")
    monkeypatch.setattr(plugins, "PACKAGE", tmp_path)


def test_a_file_is_a_plugin_and_an_underscore_hides_it(folder):
    assert plugins.names("align") == ["bare", "far"]


def test_missing_library_makes_a_plugin_unavailable_not_an_import_error(folder):
    assert plugins.unavailable("align", "far") == "unavailable: needs no_such_library"
    with pytest.raises(UserError, match="'far' is unavailable: needs no_such_library; install that"):
        plugins.load("align", "far")


def test_unknown_plugin_is_refused_with_the_known_ones(folder):
    with pytest.raises(UserError, match="choose one of: bare, far"):
        plugins.load("align", "near")


def test_plugin_without_info_says_so(folder):
    with pytest.raises(UserError, match="has no INFO dictionary"):
        plugins.info("align", "bare")
