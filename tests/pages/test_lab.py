"""What a notebook in JupyterLab gets: a run picker, and data frames in the style of the pages."""

import sys

import pandas as pd
import plotly.io as pio
import pytest
from checkout import REPO
from IPython.core.interactiveshell import InteractiveShell

import moe_lab
from moe_lab.pages.show import figures, lab

TYPED = pd.DataFrame({"M": [16], "limiter": ["<b>"], "dram_pct": [90.123]})


@pytest.fixture(autouse=True)
def committed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOE_LAB_PROFILES", str(REPO / "profiles"))


def test_picker_lists_the_runs_that_hold_a_word_and_loads_the_chosen_one() -> None:
    pytest.importorskip("ipywidgets", reason="ipywidgets is not installed: pip install moe-lab[lab]")
    picker = moe_lab.pick("align_sweep")
    assert [value for _, value in picker.widget.options] == ["h100/align_sweep", "h200/align_sweep"]
    assert picker.name == "h100/align_sweep"
    picker.widget.value = "h200/align_sweep"
    assert picker.load().name == "h200/align_sweep"
    with pytest.raises(moe_lab.UserError, match="No run in profiles/ has 'nonsense'"):
        moe_lab.pick("nonsense")


def test_picker_without_widgets_is_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    picker = moe_lab.pick("align_sweep")
    assert ">h200/align_sweep</td>" in picker._repr_mimebundle_()["text/html"]
    assert picker.load().name == "h100/align_sweep"


def test_data_frames_have_heads_units_and_digits_of_the_schema() -> None:
    text = lab.html(TYPED) or ""
    assert ">limited by</th>" in text
    assert "<td>90</td>" in text
    assert "&lt;b&gt;" in text
    assert lab.html(TYPED.set_index("M")) is None, "pandas shows what has an index"
    assert "61 rows, the first 60 of them shown" in (lab.html(pd.DataFrame({"a": range(61)})) or "")


def test_extension_registers_tables_and_the_template_of_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pio.templates, "default", "plotly")
    shell = InteractiveShell.instance()
    moe_lab.load_ipython_extension(shell)
    bundle, _ = shell.display_formatter.format(TYPED)
    assert 'class="lab"' in bundle["text/html"]
    assert pio.templates.default == figures.TEMPLATE
    InteractiveShell.clear_instance()
