"""All benchmarks, one after the other, each in a process of its own, as one page of Markdown.

    python tests/benchmarks [--quick] [--only NAME] [--output FOLDER]

Each prints medians with their ranges, and ratios to a peer that took turns with ours in the same process. Run it on an idle machine. With
``--output`` the page is written to ``benchmarks.md`` in that folder, beside ``growth.png``. No test depends on any of it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from measure import machine

HERE = Path(__file__).parent
BENCHMARKS: dict[str, tuple[str, list[str], list[str]]] = {
    "outer_step": ("An outer step, beside a plain torch loop", [], []),
    "pairwise": (
        "Sums over all pairs, beside KeOps and torch.cdist",
        [],
        ["--points", "1000", "--dimensions", "2", "--turns", "2", "--cells", "2000", "--no-keops"],
    ),
    "sinkhorn": ("A Sinkhorn flow step, beside geomloss at equal accuracy", [], ["--quick"]),
    "transport": ("A transport potential, beside geomloss' Sinkhorn on KeOps", [], ["--points", "1000", "--no-debias"]),
    "exact": ("An exact W2 potential, beside POT", [], ["--quick"]),
    "growth": ("Growth", [], ["--quick", "--turns", "3"]),
    "demand": ("Memory of runs, beside what was foretold", [], ["--cases", "2"]),
}
"""By name: a title, and the words for a whole and for a quick run."""


def main() -> None:
    there = [name for name in BENCHMARKS if (HERE / f"{name}.py").exists()]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small problems, to see that all work")
    parser.add_argument("--only", action="append", choices=there, help="this one; may be given several times")
    parser.add_argument("--output", type=Path, help="a folder for benchmarks.md and growth.png")
    options = parser.parse_args()
    page = [f"# Benchmarks\n\n{machine()}."]
    print(page[0], flush=True)
    failed = []
    for name in options.only or there:
        title, whole, quick = BENCHMARKS[name]
        words = [*(quick if options.quick else whole)]
        if name == "growth" and options.output:
            words += ["--output", str(options.output)]
        begin = time.perf_counter()
        found = subprocess.run([sys.executable, str(HERE / f"{name}.py"), *words], capture_output=True, text=True)
        text = found.stdout.strip()
        if found.returncode:
            failed.append(name)
            text += f"\n\nIt failed: {(found.stderr.strip().splitlines() or ['no reason given'])[-1]}"
        line = " ".join(["python", f"tests/benchmarks/{name}.py", *words])
        page.append(f"## {title}\n\n`{line}` ({time.perf_counter() - begin:.0f} s)\n\n{text}")
        print("\n" + page[-1], flush=True)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "benchmarks.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
