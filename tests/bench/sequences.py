"""Closed loop: the reference sequences of Serverless Containers, each played alone to rules at one sample a second.

    tests/bench/run sequences [--rules FILE|PACK ...] [--held 0.0] [--worst 10] [--tidegate PATH]

A window of ten seconds is ten samples of its demand; usage is what the limit lets through. Demand above the upper bound is cut to
it, since nothing may serve it. What counts as allocated of memory is what holds the container, the lower one of its limit and memory.high. `--held` is the share of memory that cannot be reclaimed: the sequences do not say. For comparison, over
all of them: the original at its windows 0.57 used of allocated at 21 % unmet, doubling on saturation and fitting to the last
10 s 0.82 at 2.3 %, all there is on saturation and fitting to the last 5 s 0.84 at 0.9 %.
"""

import argparse
import concurrent.futures
import csv
import json
import os
import pathlib
import subprocess
import tempfile

from servers import ROOT, Tidegate, machine, save, table

CASES = ROOT / "tests/fixtures/conformance/serverless-containers/guardian_cases.jsonl"
WINDOW_S = 10
BEGIN_S = 1_700_000_000
# Resource of the sequences: ours, and how much of our unit one of theirs is.
RESOURCES = {"cpu": ("cpu", 0.01), "mem": ("memory", 1 << 20)}


def limits_of_sequences():
    """Each limit of each sequence that knows its demand: id, what it is about, resource, bounds, demand by window."""
    for line in CASES.read_text().splitlines():
        case = json.loads(line)
        if case["kind"] != "sequence" or "demand" not in case["in"]["windows"][0]:
            continue
        for resource, bounds in case["in"]["resources"].items():
            demand = [window["demand"].get(resource) for window in case["in"]["windows"]]
            if resource in RESOURCES and demand[0] is not None:
                yield case["id"], case["note"], resource, bounds, [min(value, bounds["max"]) for value in demand if value is not None]


def played(sequence, binary, rules, held):
    """Figures of one limit under the rules."""
    name, about, resource, bounds, demand = sequence
    ours, unit = RESOURCES[resource]
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as directory:
        path = pathlib.Path(directory, "trace.csv")
        with open(path, "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["time", "container", ours, f"{ours}_limit", f"{ours}_min", f"{ours}_max"] + ["memory_anon"] * (resource == "mem"))
            for second in range(len(demand) * WINDOW_S):
                wanted = demand[second // WINDOW_S] * unit
                row = [BEGIN_S + second, "c", wanted, *(bounds[bound] * unit for bound in ("current", "min", "max"))]
                rows.writerow(row + [wanted * held] * (resource == "mem"))
        command = [binary, "simulate", "--trace", path, "--output", "json"]
        command += [word for file in rules for word in ("--rules", file)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TMPDIR": directory})
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr.strip()}")
    figures = json.loads(done.stdout)["report"]["limits"][0]
    kept = ("utilisation", "unmet", "changes", "oom_kills")
    return {"sequence": name, "about": about, "resource": ours} | {figure: figures[figure] for figure in kept}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", nargs="*", default=["default"], help="files of rules, or names of packs")
    parser.add_argument("--held", type=float, default=0.0, help="share of memory that cannot be reclaimed")
    parser.add_argument("--worst", type=int, default=10, help="how many with most unmet demand to list")
    parser.add_argument("--tidegate", type=pathlib.Path, default=Tidegate.binary, help="the binary to measure")
    options = parser.parse_args()
    sequences = list(limits_of_sequences())
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        play = lambda sequence: played(sequence, options.tidegate.resolve(), options.rules, options.held)
        rows = list(pool.map(play, sequences))
    shown = []
    for resource in ("cpu", "memory", None):
        found = [row for row in rows if resource in (None, row["resource"])]
        mean = lambda figure: sum(row[figure] for row in found) / len(found)
        shown.append([resource or "all", len(found), f"{mean('utilisation'):.3f}", f"{100 * mean('unmet'):.2f} %",
                      sum(row["oom_kills"] for row in found)])
    table(["mean of", "limits", "used of allocated", "unmet", "OOM kills"], shown)
    print()
    worst = sorted(rows, key=lambda row: -row["unmet"])[:options.worst]
    table(["most unmet", "", "used of allocated", "unmet", "changes"],
          [[row["sequence"], row["about"][:50], f"{row['utilisation']:.3f}", f"{100 * row['unmet']:.2f} %", row["changes"]] for row in worst])
    save("sequences", {"machine": machine(), "rules": options.rules, "held": options.held, "rows": rows})


if __name__ == "__main__":
    main()
