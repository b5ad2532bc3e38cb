"""Every lesson in JupyterLab, in a real browser: opened, all cells run, every picture drawn."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading

import lessons as tool
import nbformat
import pytest

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
def page(course, tmp_path_factory):
    """A page of Chromium, logged in to JupyterLab on this machine."""
    home = tmp_path_factory.mktemp("jupyter")
    settings = {  # draw what is off the screen too; ask nobody for news
        "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
        "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    }
    file = home / "CONFIG" / "labconfig" / "default_setting_overrides.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(settings))
    env = os.environ | {f"JUPYTER_{x}_DIR": str(home / x) for x in ("CONFIG", "DATA", "RUNTIME")}
    env.pop("MPLBACKEND", None)  # the tests set it; a reader has none
    options = "--no-browser --allow-root --port=0 --ip=127.0.0.1 --LabApp.expose_app_in_browser=True"
    command = [sys.executable, "-m", "jupyter", "lab", *options.split()]
    process = subprocess.Popen(command, cwd=course, env=env, stderr=subprocess.PIPE, text=True)
    address = re.compile(r"http://127\.0\.0\.1:\d+/lab\?token=\w+").search
    found = next(filter(None, map(address, process.stderr)))[0]  # or JupyterLab did not start
    threading.Thread(target=process.stderr.read, daemon=True).start()  # so that its log never blocks it
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=0)
        page = browser.new_page(viewport={"width": 1300, "height": 1000}, base_url=found)
        page.set_default_timeout(600_000)  # for a slow machine; a few seconds are usual
        page.goto(found)
        yield page
        browser.close()
    process.terminate()
    process.wait()


def run_all(page, name):
    """Open a lesson, run all its cells, wait for the last; fail with what a cell writes to stderr."""
    page.goto(f"/lab/tree/notebooks/{name}?reset")
    page.wait_for_function(READY)
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    last = page.locator(".jp-Notebook .jp-CodeCell").last.locator(".jp-InputPrompt")
    done = last.filter(has_text=re.compile(r"\[\d+\]")).or_(page.locator(WRONG)).first
    done.wait_for(state="attached")
    assert page.locator(WRONG).all_inner_texts() == []


@pytest.mark.parametrize("path", tool.lessons(), ids=lambda path: path.stem)
def test_a_lesson_runs_in_jupyterlab(path, page):
    run_all(page, path.name)
    page.wait_for_timeout(500)
    cells = tool.code(tool.read(path))
    prompts = page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt").all_inner_texts()
    assert prompts == [f"[{i + 1}]:" for i in range(len(cells))]
    images = page.locator(".jp-OutputArea-output img")
    widths = images.evaluate_all("all => all.map(i => i.naturalWidth)")
    stored = sum("image/jpeg" in output.get("data", {}) for cell in cells for output in cell.outputs)
    assert len(widths) == stored and min(widths) > 100
    assert page.get_by_text("Error displaying widget").count() == 0
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")


def test_a_cell_that_fails_is_reported_at_once_with_its_error(page):
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_all(page, "fails.ipynb")
