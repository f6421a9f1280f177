"""The notebook runs from its own folder, in a kernel, and shows bars, a table and figures."""

from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.enable_socket, pytest.mark.filterwarnings("ignore")]


def test_the_notebook_runs_and_shows_what_a_person_would_look_at(tmp_path, monkeypatch):
    import jupytext
    from nbclient import NotebookClient

    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    notebook = jupytext.read(Path("notebooks/quickstart.py"))
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": "notebooks"}})
    client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    shown = [output.get("data", {}) for output in outputs]
    table = next(data["text/html"] for data in shown if "text/html" in data)
    assert "<table>" in table
    assert "tuned" in table
    assert "Fine-tuning" in table
    assert any("application/vnd.jupyter.widget-view+json" in data for data in shown)  # bars of the notebook's own kind
    assert "AUROC 0." in outputs[-1]["text"]
