"""Every lesson in JupyterLab, in a real browser: opened, all cells run, every picture drawn."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import lessons as tool
import nbformat
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUICK = {"DATA": "sample", "BASE_WIDTH": 4, "EPOCHS": 1, "BATCH_SIZE": 64}
READY = """() => {
    const kernel = window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel;
    return kernel?.status == "idle" && kernel.connectionStatus == "connected";
}"""
# JupyterLab shows a cell's error as it shows stderr
WRONG = "[data-mime-type='application/vnd.jupyter.stderr']"
if os.environ.get("COLORIZE_BROWSER") == "required":
    import playwright.sync_api as sync_api

    assert CHROMIUM, "COLORIZE_BROWSER=required, and there is no Chromium or Chrome"
else:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")


@pytest.fixture(scope="module")
def course(copy_course, tmp_path_factory):
    """A copy of the course, never run, with its knobs turned down, and a lesson that fails."""
    folder = copy_course(tmp_path_factory.mktemp("course"))
    for path in (folder / "notebooks").glob("*.ipynb"):
        notebook = tool.read(path)
        tool.set_knobs(notebook, QUICK)
        for cell in tool.code(notebook):
            cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, path)
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in ("1 / 0", "print('never')")]
    nbformat.write(notebook, folder / "notebooks" / "fails.ipynb")
    return folder


@pytest.fixture(scope="module")
def server(course, tmp_path_factory):
    """JupyterLab on this machine: its address, with the token."""
    home = tmp_path_factory.mktemp("jupyter")
    settings = {
        "notebook-extension/tracker": {"windowingMode": "none"},  # draw what is off the screen too
        "apputils-extension/notification": {"fetchNews": "false"},
    }
    for name, values in settings.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(values))
    folders = {f"JUPYTER_{kind}_DIR": str(home / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    env = {**os.environ, **folders, "JUPYTERLAB_SETTINGS_DIR": str(home / "settings")}
    env.pop("MPLBACKEND", None)  # the tests set it; a reader has none
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--port=0", "--ip=127.0.0.1",
               f"--ServerApp.root_dir={course}", "--LabApp.expose_app_in_browser=True",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]  # fmt: skip
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    address = re.compile(r"http://127\.0\.0\.1:\d+/lab\?token=\w+").search
    found = next(filter(None, map(address, process.stderr)))  # or JupyterLab did not start
    threading.Thread(target=process.stderr.read, daemon=True).start()  # so that its log never blocks it
    yield found[0]
    process.terminate()
    process.wait()


@pytest.fixture(scope="module")
def page(server):
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=0)
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.set_default_timeout(600_000)  # for a slow machine; a few seconds are usual
        yield page
        browser.close()


def run_all(page, server, name):
    """Open a lesson, run all its cells, wait for the last; fail with what a cell writes to stderr."""
    page.goto(server.replace("/lab?", f"/lab/tree/notebooks/{name}?reset&"))
    page.wait_for_function(READY)
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    last = page.locator(".jp-Notebook .jp-CodeCell").last.locator(".jp-InputPrompt")
    done = last.filter(has_text=re.compile(r"\[\d+\]")).or_(page.locator(WRONG)).first
    done.wait_for(state="attached")
    assert page.locator(WRONG).all_inner_texts() == []


def photograph(page, path):
    """The whole lesson, screen by screen, one below the other."""
    panel = page.locator(".jp-WindowedPanel-outer")
    height, seen = panel.evaluate("panel => [panel.scrollHeight, panel.clientHeight]")
    whole = Image.new("RGB", (int(panel.bounding_box()["width"]), height))
    for top in range(0, height, seen):
        at = panel.evaluate("(panel, top) => { panel.scrollTop = top; return panel.scrollTop }", top)
        page.wait_for_timeout(100)
        whole.paste(Image.open(io.BytesIO(panel.screenshot())), (0, int(at)))
    path.parent.mkdir(parents=True, exist_ok=True)
    whole.save(path)


@pytest.mark.parametrize("path", tool.lessons(), ids=lambda path: path.stem)
def test_a_lesson_runs_in_jupyterlab(path, page, server):
    run_all(page, server, path.name)
    page.wait_for_timeout(500)
    photograph(page, ROOT / "data" / "runs" / "browser" / f"{path.stem}.png")
    cells = tool.code(tool.read(path))
    prompts = page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt").all_inner_texts()
    assert prompts == [f"[{i + 1}]:" for i in range(len(cells))]
    images = page.locator(".jp-OutputArea-output img")
    widths = images.evaluate_all("all => all.map(i => i.naturalWidth)")
    stored = sum("image/jpeg" in output.get("data", {}) for cell in cells for output in cell.outputs)
    assert len(widths) == stored and min(widths) > 100
    assert page.get_by_text("Error displaying widget").count() == 0
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")


def test_a_cell_that_fails_is_reported_at_once_with_its_error(page, server):
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_all(page, server, "fails.ipynb")
