"""Time and memory of a report, and how quickly its page answers.

    python benchmarks/report.py --out benchmarks/results/report.json

Fits a Mutual Choice autoencoder for one pass to made-up rows, then makes the report of
more of them, from a float16 memmap, with made-up words as tokens. ``peak_mb`` is the
largest resident memory of the whole process, fitting and libraries included. With
selenium, chromium and chromedriver at hand the page is opened too: ``first_paint_ms``
and ``ready_ms`` count from navigation, ``search_ms`` and ``sort_ms`` are the slowest of
several, with layout. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import results_file

N_COLUMNS = 576
N_FITTED = 36_000
WORDS = 20_000
QUERIES = ("w", "w1", "w123", "123", "nothing", "")


def made_up_file(path: Path, n_rows: int, seed: int = 0) -> np.ndarray:
    """Write sums of a few of many directions; return them as a memmap."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((4096, N_COLUMNS), dtype=np.float32)
    X = np.lib.format.open_memmap(path, "w+", np.float16, (n_rows, N_COLUMNS))
    weight = 1.0 / np.arange(1, len(directions) + 1)
    for first in range(0, n_rows, 4096):
        n = min(4096, n_rows - first)
        which = rng.choice(len(directions), (n, 24), p=weight / weight.sum())
        size = rng.exponential(size=(n, 24, 1)).astype(np.float32)
        X[first : first + n] = (directions[which] * size).sum(1)
    X.flush()
    return np.load(path, mmap_mode="r")


def open_page(page: Path) -> dict:
    """Return how quickly the page is there and answers, in milliseconds."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        driver.get(page.resolve().as_uri())
        ready = driver.execute_async_script(
            """const done = arguments[0];
            const look = () => "ready" in document.documentElement.dataset
              ? done(performance.now()) : requestAnimationFrame(look);
            look();"""
        )
        paint = driver.execute_script(
            "return performance.getEntriesByName('first-contentful-paint')[0].startTime"
        )
        times = driver.execute_script(
            """const [queries] = arguments, search = document.getElementById("search");
            const timed = (act) => {
              const start = performance.now();
              act();
              document.body.offsetHeight;
              return performance.now() - start;
            };
            const searches = queries.map((words) => timed(() => {
              search.value = words;
              search.dispatchEvent(new Event("input", { bubbles: true }));
            }));
            const heads = [...document.querySelectorAll("th button")];
            return [searches, heads.map((head) => timed(() => head.click()))];""",
            list(QUERIES),
        )
    finally:
        driver.quit()
    return {
        "first_paint_ms": paint,
        "ready_ms": ready,
        "search_ms": max(times[0]),
        "sort_ms": max(times[1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--features", type=int, default=8192)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    from skchoice import MutualChoiceSAE, report

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        X = made_up_file(Path(folder, "X.npy"), args.rows)
        tokens = [f" w{n}" for n in rng.zipf(1.3, args.rows) % WORDS]
        sae = MutualChoiceSAE(args.features, k=32, max_iter=1, random_state=0)
        sae.fit(np.array(X[:N_FITTED]))
        page = Path(folder, "report.html")
        start = time.perf_counter()
        report(sae, X, tokens=tokens, path=page)
        result = {
            "n_features": args.features,
            "n_rows": args.rows,
            "threads": len(os.sched_getaffinity(0)),
            "seconds": time.perf_counter() - start,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,
            "page_mb": page.stat().st_size / 1e6,
        }
        if shutil.which("chromium") and shutil.which("chromedriver"):
            result |= open_page(page)
    print(json.dumps(result, indent=1))
    results_file.write(args.out, [result])


if __name__ == "__main__":
    main()
