"""Ingest: Tidegate and the installed peers under the same load in one run, interleaved.

    tests/bench/run ingest [--rounds 3] [--steps 600] [--hosts 50] [--connections 8] [--tidegate PATH]

Each round starts every server anew for every wire format it has, pushes hosts x 20 containers x 10 metrics x steps points
in bodies of 1,000 over keep-alive connections, closed loop, then lets it flush and merge. What to compare are the CPU
seconds a million points: wall-clock rates depend on the loader, which shares the cores.
"""

import argparse

from servers import (LINES, OPENTSDB, REMOTE_WRITE, Tidegate, end_on_signals, installed_peers, load, machine, median, save,
                     table)

# Server CPU seconds a million points that Tidegate is to stay below, and bytes a point.
GOALS = {OPENTSDB: 0.5, LINES: 0.35, REMOTE_WRITE: 0.45}
TITLES = {OPENTSDB: "OpenTSDB JSON", LINES: "line protocol", REMOTE_WRITE: "remote write"}


def measure(kind, protocol, args):
    """One load into a fresh server; `None` when it has no such route."""
    with kind() as server:
        if not server.takes(protocol):
            return None
        found = load(server, protocol, "--steps", args.steps, "--hosts", args.hosts, "--connections", args.connections)
        settled = server.settle()
        millions = found["points"] / 1e6
        return {**found, "settled": settled, "settled_cpu_s_per_million": round(server.cpu_s() / millions, 4),
                "bytes_per_point": round(server.disk_bytes() / found["points"], 4)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--hosts", type=int, default=50)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--tidegate", default=Tidegate.binary)
    args = parser.parse_args()
    Tidegate.binary = args.tidegate
    end_on_signals()
    kinds = [Tidegate, *installed_peers()]
    runs = {}
    for number in range(args.rounds):
        for protocol in TITLES:
            for kind in kinds:
                if protocol not in kind.paths:
                    continue
                found = measure(kind, protocol, args)
                if found is None:
                    print(f"round {number + 1}: {kind.name} has no {TITLES[protocol]}", flush=True)
                    continue
                runs.setdefault((protocol, kind.name), []).append(found)
                print(f"round {number + 1}: {TITLES[protocol]} into {kind.name}: {found['cpu_s_per_million']:.3f} CPU s a "
                      f"million, {found['points_per_s'] / 1e3:.0f} k points/s, {found['errors']} errors", flush=True)
    rows = [summary(protocol, name, found, runs) for (protocol, name), found in runs.items()]
    points = args.hosts * 20 * 10 * args.steps
    result = {"machine": machine(), "points": points, "connections": args.connections, "rounds": args.rounds,
              "versions": {kind.name: kind.version() for kind in kinds}, "rows": rows}
    show(result)
    save("ingest", result)


def summary(protocol, name, found, runs):
    def middle(key):
        return median([run[key] for run in found])

    own = runs.get((protocol, Tidegate.name))
    ratio = middle("cpu_s_per_million") / max(median([run["cpu_s_per_million"] for run in own]), 1e-9) if own else None
    return {"protocol": protocol, "title": TITLES[protocol], "server": name, "goal": GOALS[protocol], "ratio": ratio,
            "cpu_s_per_million": middle("cpu_s_per_million"), "cpu_s_per_million_least": min(r["cpu_s_per_million"] for r in found),
            "settled_cpu_s_per_million": middle("settled_cpu_s_per_million"), "points_per_s": middle("points_per_s"),
            "peak_rss_mib": max(run["peak_rss_mib"] for run in found), "bytes_per_point": middle("bytes_per_point"),
            "p50_ms": middle("p50_ms"), "p99_ms": middle("p99_ms"), "errors": sum(run["errors"] for run in found),
            "settled": all(run["settled"] for run in found)}


def show(result):
    print(f"\n{result['points'] / 1e6:.1f} M points, {result['connections']} connections, medians of {result['rounds']} rounds")
    head = ["", "server", "CPU s/M", "goal", "ratio", "incl. merge", "k points/s", "p50 ms", "p99 ms", "RSS MiB", "B/point",
            "errors"]
    rows = []
    for row in result["rows"]:
        ours = row["server"] == Tidegate.name
        rows.append([row["title"], row["server"], f"{row['cpu_s_per_million']:.3f}", f"{row['goal']:.2f}" if ours else "",
                     "1" if ours else f"{row['ratio']:.1f}" if row["ratio"] else "", f"{row['settled_cpu_s_per_million']:.3f}",
                     f"{row['points_per_s'] / 1e3:.0f}", f"{row['p50_ms']:.2f}", f"{row['p99_ms']:.1f}",
                     f"{row['peak_rss_mib']:.0f}", f"{row['bytes_per_point']:.3f}" + ("" if row["settled"] else "*"),
                     row["errors"]])
    table(head, rows)
    if not all(row["settled"] for row in result["rows"]):
        print("* was still busy with background work")


if __name__ == "__main__":
    main()
