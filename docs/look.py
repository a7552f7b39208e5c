"""Look at every page of the built site in headless Chromium, at the width of a phone and of a desktop.

    make docs && python docs/look.py site        # needs chromium on the PATH, or CHROMIUM=...

A page fails if it is wider than the screen, if an image is broken, a formula is not set, or something came from another
host. `--shots FOLDER` writes pictures of some pages, light and dark.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

WIDTHS = (390, 1280)
SHOWN = ("index", "theory", "how_to_choose", "api/functions", "tutorials/polynomial", "results/bench-step")
CHROMIUM = (os.environ.get("CHROMIUM", "chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")

# Loads each page in a frame of each width, and sends what is wrong with it back.
WATCH = """<!doctype html><body><script>
const pages = PAGES, widths = WIDTHS, found = [];
const pause = ms => new Promise(done => setTimeout(done, ms));
async function look(page, width) {
  const frame = document.createElement("iframe");
  frame.style = `width:${width}px;height:800px;border:0`;
  frame.src = "/" + page;
  document.body.append(frame);
  await new Promise(done => frame.onload = done);
  await pause(150);
  const inside = frame.contentDocument, root = inside.documentElement, wrong = [];
  if (root.scrollWidth > width) {
    const boxes = [...inside.querySelectorAll("article *")].filter(box => box.getBoundingClientRect().right > width + 1
      && !box.closest(".md-typeset__scrollwrap, pre, .katex-display"));
    wrong.push(`wide: ${root.scrollWidth} px, ${boxes.slice(0, 3).map(box => box.outerHTML.slice(0, 90)).join(" | ")}`);
  }
  for (const image of inside.images) {
    image.loading = "eager";
    await image.decode().catch(() => wrong.push(`image: ${image.src}`));
  }
  const formulas = [...inside.querySelectorAll(".arithmatex")];
  for (const formula of formulas)
    if (!formula.querySelector(".katex") || formula.querySelector(".katex-error"))
      wrong.push(`formula: ${formula.textContent.slice(0, 60)}`);
  if (/\\$[^$\\n]{1,80}\\$/.test(inside.querySelector("article").innerText)) wrong.push("a dollar sign is left");
  for (const entry of frame.contentWindow.performance.getEntriesByType("resource"))
    if (new URL(entry.name).host != location.host && !entry.name.startsWith("data:")) wrong.push(`host: ${entry.name}`);
  frame.remove();
  found.push({page, width, wrong, formulas: formulas.length});
}
onload = async () => {
  for (const page of pages) for (const width of widths)
    await look(page, width).catch(error => found.push({page, width, wrong: [String(error)]}));
  await fetch("/found", {method: "POST", body: JSON.stringify(found)});
};
</script>"""


class Quiet(SimpleHTTPRequestHandler):
    """Serve the site and the page that watches it, without a log."""

    watch = b""
    found: queue.Queue[list[dict[str, Any]]] = queue.Queue()

    def do_GET(self) -> None:
        """Answer with the page that watches, or a file."""
        if self.path != "/watch":
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(self.watch)
        return None

    def do_POST(self) -> None:
        """Take what the watching page found."""
        self.found.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def chromium(*options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run Chromium with a profile of its own, and end it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [*CHROMIUM, f"--user-data-dir={profile}", *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


def main() -> int:
    """Look at the pages; return 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path)
    parser.add_argument("--shots", type=Path)
    parser.add_argument("--only", default="", help="pages whose path contains this text")
    asked = parser.parse_args()
    pages = sorted(str(path.relative_to(asked.site)) for path in asked.site.rglob("*.html"))
    pages = [page for page in pages if asked.only in page]
    watch = WATCH.replace("PAGES", json.dumps(pages)).replace("WIDTHS", json.dumps(WIDTHS))
    Quiet.watch = watch.encode()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(asked.site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = f"http://127.0.0.1:{server.server_port}"
    with chromium("--window-size=1400,900", "--remote-debugging-port=0", f"{home}/watch"):
        found = Quiet.found.get(timeout=600)
    wrong = [entry for entry in found if entry["wrong"]]
    for entry in wrong:
        print(f"{entry['page']} at {entry['width']} px: {'; '.join(entry['wrong'])}")
    formulas = sum(entry.get("formulas", 0) for entry in found) // len(WIDTHS)
    print(f"{len(found)} looks at {len(pages)} pages with {formulas} formulas: {len(wrong)} with a fault")
    for page in SHOWN if asked.shots else ():
        for width in WIDTHS:
            for scheme, number in (("light", 1), ("dark", 0)):
                name = asked.shots.resolve() / f"{page.replace('/', '-')}-{width}-{scheme}.png"
                colours = f"--blink-settings=preferredColorScheme={number}"
                size = f"--window-size={width},1600"
                with chromium(colours, size, f"--screenshot={name}", f"{home}/{page}.html") as process:
                    process.wait(60)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
