"""Acceptance on one GPU, within a time limit: checks, times, a short training. What ends early leaves what it has.

    python benchmarks/accept.py --out results/accept --data_root data --seconds 500
    python benchmarks/accept.py --out results/more --data_root data --seconds 330 \\
        --only times goldens nccl profile flags

Every stage is a process of its own (an error of CUDA ends a process for good), with a limit of its own; stages run in
the order of their worth while time is left: all of them need both calls. After each, results.json and table.txt are
written anew. With `--dry` the same stages run in a small form, on a GPU or without.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# name -> (seconds at most, seconds that must be left to begin)
STAGES = {
    "facts": (40, 30),
    "bits": (60, 40),
    "graph": (90, 60),
    "resume": (120, 60),
    "train": (240, 220),
    "times": (200, 60),
    "goldens": (60, 40),
    "nccl": (60, 30),
    "profile": (45, 30),
    "flags": (200, 60),
}


def write(out: Path, results: dict) -> None:
    """results.json and table.txt, each replaced as a whole."""
    stages = results["stages"].items()
    rows = [f"{name:8} {r.get('seconds', 0):6.1f} s  {r['state']:7} {r['line']}" for name, r in stages]
    rows += [f"{name:8} {f['name']:58} {f['value']} {f['unit']}" for name, r in stages for f in r.get("found", ())]
    for name, text in (("results.json", json.dumps(results, indent=1)), ("table.txt", "\n".join(rows) + "\n")):
        (out / f"{name}.tmp").write_text(text)
        (out / f"{name}.tmp").replace(out / name)


def run_stage(name: str, out: Path, args: argparse.Namespace, limit: float) -> dict:
    """One stage as a process; what it found, and how it ended."""
    part, began = out / f"{name}.jsonl", time.monotonic()
    command = [sys.executable, "-u", "-m", "benchmarks.stages", name, part, args.data_root.resolve(), began + limit]
    command = [*map(str, command), *(["--dry"] if args.dry else [])]
    with (out / "log.txt").open("ab") as log:
        log.write(f"== {name}\n".encode())
        log.flush()
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = -signal.SIGKILL
        finally:  # what the stage has started ends with it
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    lines = part.read_text().splitlines(keepends=True) if part.is_file() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]  # the last one may be cut
    part.unlink(missing_ok=True)
    bad = [f["name"] for f in found if f["ok"] is False]
    line = f"{len(found)} findings, exit {code}" + (f"; failed: {', '.join(bad)}" if bad else "")
    state = "FAILED" if bad or code else "ok"
    return {"state": state, "seconds": time.monotonic() - began, "line": line, "found": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for results.json, table.txt and log.txt")
    parser.add_argument("--data_root", type=Path, default=Path("data"), help="folder with Fashion-MNIST's four files")
    parser.add_argument("--seconds", type=float, default=500, help="time for all stages together")
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES), help="these stages alone")
    parser.add_argument("--dry", action="store_true", help="a small form of each stage")
    args = parser.parse_args()
    end, results = time.monotonic() + args.seconds, {"argv": sys.argv[1:], "stages": {}}
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for name in args.only:
        (limit, needed), left = STAGES[name], end - time.monotonic()
        if left < needed:
            results["stages"][name] = {"state": "skipped", "line": f"{left:.0f} s left"}
        else:
            limit = left if args.dry else min(limit, left)  # a test's machine may be busy
            results["stages"][name] = run_stage(name, out, args, limit)
        write(out, results)
        print(name, results["stages"][name]["state"], results["stages"][name]["line"], flush=True)
    print((out / "table.txt").read_text())
    raise SystemExit(any(stage["state"] == "FAILED" for stage in results["stages"].values()))


if __name__ == "__main__":
    main()
