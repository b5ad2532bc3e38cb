"""Every lesson in JupyterLab, in a real browser: opened, all cells run, every picture drawn."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import lessons as tool  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SCREENSHOTS = ROOT / "data" / "runs" / "browser"
QUICK = {"DATA": "sample", "BASE_WIDTH": 4, "EPOCHS": 1, "BATCH_SIZE": 64}
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A copy of the course with its knobs turned down."""
    folder = tmp_path_factory.mktemp("course")
    for part in ("notebooks", "colorize_utils", "data/results"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder / "notebooks").glob("*.ipynb"):
        notebook = tool.read(path)
        tool.set_knobs(notebook, QUICK)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        tool.nbformat.write(notebook, path)
    return folder


@pytest.fixture(scope="module")
def server(course, tmp_path_factory):
    """JupyterLab on this machine: its address, with the token."""
    home = tmp_path_factory.mktemp("jupyter")
    settings = {
        "notebook-extension/tracker": {
            "windowingMode": "none"
        },  # else only what is on the screen exists
        "apputils-extension/notification": {"fetchNews": "false"},
    }
    for name, values in settings.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(values))
    folders = {
        name: str(home / name)
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    }
    env = {**os.environ, **folders, "JUPYTERLAB_SETTINGS_DIR": str(home / "settings")}
    env.pop("MPLBACKEND", None)  # the tests set it; a reader has none
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--port=0", "--ip=127.0.0.1",
               f"--ServerApp.root_dir={course}", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]  # fmt: skip
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    address = next(
        (
            m[0]
            for m in map(re.compile(r"http://127\.0\.0\.1:\d+/lab\?token=\w+").search, process.stderr)
            if m
        ),
        None,
    )
    assert address, "JupyterLab did not start"
    threading.Thread(target=process.stderr.read, daemon=True).start()  # so that its log never blocks it
    yield address
    process.terminate()
    process.wait(timeout=30)


@pytest.fixture(scope="module")
def page(server):
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        yield page
        browser.close()


def prompts(page):
    return page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt").all_inner_texts()


def run_all(page):
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()


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
    page.goto(server.replace("/lab?", f"/lab/tree/notebooks/{path.name}?reset&"))
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    page.wait_for_selector(
        ".jp-Notebook-ExecutionIndicator[data-status=idle]", state="attached", timeout=60_000
    )
    cells = sum(cell.cell_type == "code" for cell in tool.read(path).cells)
    sync_api.expect(page.locator(".jp-Notebook .jp-CodeCell")).to_have_count(cells, timeout=60_000)
    run_all(page)
    clicked = time.monotonic()
    limit = time.monotonic() + 400  # for a slow machine; half a minute is usual
    while prompts(page)[-1].strip("[]: ") != str(cells):
        errors = page.locator("[data-mime-type='application/vnd.jupyter.error']")
        assert errors.count() == 0, errors.all_inner_texts()
        assert time.monotonic() < limit, prompts(page)
        if time.monotonic() > clicked + 20 and not "".join(prompts(page)).replace("[ ]:", "").strip():
            run_all(page)  # on a slow machine, the first click can come before Lab listens
            clicked = time.monotonic()
        time.sleep(0.5)
    page.wait_for_timeout(500)
    photograph(page, SCREENSHOTS / f"{path.stem}.png")
    assert [text.strip("[]: ") for text in prompts(page)] == [str(i + 1) for i in range(cells)]
    for kind in ("error", "stderr"):
        assert page.locator(f"[data-mime-type='application/vnd.jupyter.{kind}']").all_inner_texts() == []
    widths = page.eval_on_selector_all(
        ".jp-OutputArea-output img", "images => images.map(i => i.naturalWidth)"
    )
    stored = sum(
        "image/jpeg" in o.get("data", {}) for c in tool.read(path).cells for o in c.get("outputs", [])
    )
    assert len(widths) == stored and min(widths) > 100
    assert page.get_by_text("Error displaying widget").count() == 0
