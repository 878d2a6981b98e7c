"""Soak: a steady load for minutes, with the six questions and some rules in shadow mode once a second.

    tests/bench/run soak [MINUTES [POINTS_PER_S]] [--protocol remote-write|opentsdb] [--tidegate PATH]

The load is open loop: a fleet of as many containers as make the rate at one step a second, each body at its time whether
the server keeps up or not. Every 10 s memory, CPU and latencies become a line of target/bench/soak.csv; at the end the middle
and the last third are compared. Memory is a saw between flushes, and a merge of segments costs memory and time for some minutes
and then nothing: so what must not grow is what there is in the quiet moments of a third, its least memory and its lower
quartile of each time. Exits with 1 when one of them grows or a sample is lost.
"""

import argparse
import csv
import json
import pathlib
import re
import subprocess
import sys
import threading
import time

from queries import SqlAsker, TITLES, containers_of
from servers import LOADER, OPENTSDB, REMOTE_WRITE, ROOT, Tidegate, end_on_signals, load, machine, median, save, table

REPORT_S = 10
POINTS_PER_HOST = 200
# Which pushed metrics are usage, so that recent() has something to say about the fleet.
USAGE = """[
{resource = "cpu", metrics = ["cpu_user", "cpu_kernel"], container_tag = "container", host_tag = "host", scale = 0.01},
{resource = "memory", metrics = ["mem_resident"], container_tag = "container", host_tag = "host", scale = 1048576.0}]"""
LONG_RANGE = re.compile(r"INTERVAL '\d+ hours?'")
# The last third may be so much above the one before it and still count as level.
LEVEL = {"rss_mib": 1.10, "latency": 1.25}
# Which share of a third's moments is at least as quiet.
QUIET = {"rss_mib": 0.0, "latency": 0.25}


class Asking(threading.Thread):
    """Asks the six questions once a second."""

    def __init__(self, server, hosts):
        super().__init__(daemon=True)
        self.server, self.hosts, self.asker = server, hosts, self.new_asker(server)
        self.taken, self.failures, self.lock, self.going = [], [], threading.Lock(), True

    @staticmethod
    def new_asker(server):
        asker = SqlAsker(server)
        asker.texts = {query: LONG_RANGE.sub("INTERVAL '5 minutes'", text) for query, text in asker.texts.items()}
        return asker

    def run(self):
        turn = 0
        while self.going:
            started = time.monotonic()
            containers = containers_of(turn, self.hosts)
            for query in TITLES:
                try:
                    _, took = self.asker.ask(query, int(time.time() * 1000), containers)
                    with self.lock:
                        self.taken.append((query, took * 1e3))
                except (OSError, RuntimeError) as error:
                    self.failures.append(f"{query}: {error}")
                    self.asker = self.new_asker(self.server)
            turn += 1
            time.sleep(max(0.0, 1 - (time.monotonic() - started)))

    def take(self):
        """Median milliseconds of each question since the last call."""
        with self.lock:
            taken, self.taken = self.taken, []
        times = {query: [took for name, took in taken if name == query] for query in TITLES}
        return {query: round(median(found), 3) if found else None for query, found in times.items()}


def run(server, args, hosts):
    # Rules and questions want their tables to be there.
    sent = load(server, args.protocol, "--hosts", hosts, "--steps", 1)["points"]
    rules = pathlib.Path(__file__).with_name("soak_rules.sql").read_text()
    status, answer = server.request("POST", "/api/v1/sql", rules)
    assert status == 200, answer
    command = [LOADER, "pace", "--format", args.protocol, "--port", server.push_port(args.protocol), "--path",
               server.paths[args.protocol], "--pid", server.pid, "--rate", args.rate, "--seconds", int(args.minutes * 60),
               "--hosts", hosts, "--report-s", REPORT_S, "--connections", args.connections]
    pace = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True)
    asking, samples = Asking(server, hosts), []
    asking.start()
    path = ROOT / "target/bench/soak.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(path, "w", newline="") as file:
            out = None
            for line in pace.stdout:
                pushed = json.loads(line)
                sent += pushed["points"]
                status = json.loads(server.get("/api/v1/status")[1])
                sample = {
                    "at_s": pushed["at_s"], "points": pushed["points"], "errors": pushed["errors"],
                    "push_p50_ms": pushed["p50_ms"], "push_p99_ms": pushed["p99_ms"], "push_max_ms": pushed["max_ms"],
                    "cpu_share": round(pushed["cpu_s"] / REPORT_S, 3), "rss_mib": round(server.rss_mib(), 1),
                    "tick_lag_ms": status["tick_lag_ms"], **asking.take(),
                    **{key: status["store"][key] for key in ("hot_samples", "segments", "segment_bytes", "wal_bytes")}}
                samples.append(sample)
                out = out or csv.DictWriter(file, sample.keys())
                if len(samples) == 1:
                    out.writeheader()
                out.writerow(sample)
                file.flush()
                print(f"{sample['at_s']:7.0f} s  {sample['rss_mib']:7.0f} MiB  CPU {sample['cpu_share']:.2f}  push p99 "
                      f"{sample['push_p99_ms']:.1f} ms  Q1 {sample['Q1']} ms  lag {sample['tick_lag_ms']} ms", flush=True)
        pace.wait(60)
    finally:
        asking.going = False
        if pace.poll() is None:
            pace.terminate()
    asking.join(30)
    rules = server.sql("SELECT name, last_latency_ms, last_error FROM rules")
    return samples, sent, status["store"]["appended_total"], asking.failures, rules


def third(samples, number, key):
    part = samples[len(samples) * number // 3:len(samples) * (number + 1) // 3]
    return sorted(sample[key] for sample in part if sample[key] is not None) or [0.0]


def slope_per_minute(samples, key):
    """Least squares over the last two thirds: the first is for buffers to fill."""
    part = samples[len(samples) // 3:]
    xs, ys = [sample["at_s"] / 60 for sample in part], [sample[key] for sample in part]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((one - x) ** 2 for one in xs)
    return sum((one - x) * (other - y) for one, other in zip(xs, ys)) / spread if spread else 0.0


def verdict(samples, sent, appended, failures, args):
    rows, fine = [], True
    for key, title in [("rss_mib", "memory, MiB"), ("push_p50_ms", "push p50, ms"), ("push_p99_ms", "push p99, ms"),
                       *((query, f"{query} {TITLES[query].split(' over ')[0]}, ms") for query in TITLES)]:
        middle, last = third(samples, 1, key), third(samples, 2, key)
        kind = "rss_mib" if key == "rss_mib" else "latency"
        quiet = [part[int(len(part) * QUIET[kind])] for part in (middle, last)]
        # Below half a millisecond a ratio says nothing.
        level = quiet[1] <= quiet[0] * LEVEL[kind] or (kind == "latency" and quiet[1] - quiet[0] < 0.5)
        fine &= level
        rows.append({"title": title, "key": key, "middle": median(middle), "last": median(last), "middle_quiet": quiet[0],
                     "last_quiet": quiet[1], "level": level})
    errors = sum(sample["errors"] for sample in samples)
    asked = args.rate * args.minutes * 60
    facts = {"points": sent, "points_asked": asked, "errors": errors, "lost": sent - appended, "query_failures": len(failures),
             "rss_slope_mib_per_min": round(slope_per_minute(samples, "rss_mib"), 2),
             "cpu_share": round(sum(sample["cpu_share"] for sample in samples) / len(samples), 3),
             "peak_rss_mib": max(sample["rss_mib"] for sample in samples),
             "tick_lag_ms": max(sample["tick_lag_ms"] for sample in samples)}
    fine &= errors == 0 and facts["lost"] == 0 and not failures and sent >= 0.98 * asked
    return rows, facts, fine


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", nargs="?", type=float, default=20)
    parser.add_argument("rate", nargs="?", type=int, default=200_000)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--protocol", choices=[OPENTSDB, REMOTE_WRITE])
    parser.add_argument("--tidegate", default=Tidegate.binary)
    args = parser.parse_args()
    Tidegate.binary = args.tidegate
    end_on_signals()
    hosts = max(args.rate // POINTS_PER_HOST, 1)
    with Tidegate(["--store-usage-maps", USAGE]) as server:
        args.protocol = args.protocol or (REMOTE_WRITE if server.takes(REMOTE_WRITE) else OPENTSDB)
        samples, sent, appended, failures, rules = run(server, args, hosts)
    if len(samples) < 6:
        sys.exit("too short to compare thirds: at least a minute is needed")
    rows, facts, fine = verdict(samples, sent, appended, failures, args)
    print(f"\n{args.minutes:g} minutes at {args.rate} points/s, {hosts * 20} containers, {args.protocol}")
    table(["", "middle third", "last third", "middle, quiet", "last, quiet", "verdict"],
          [[row["title"], *(f"{row[part]:.2f}" for part in ("middle", "last", "middle_quiet", "last_quiet")),
            "level" if row["level"] else "GROWS"] for row in rows])
    for name, value in facts.items():
        print(f"{name}: {value}")
    for name, latency, error in rules:
        print(f"rule {name}: {latency} ms, {error or 'no error'}")
    for failure in failures[:3]:
        print(f"failed: {failure[:300]}")
    save("soak", {"machine": machine(), "minutes": args.minutes, "rate": args.rate, "containers": hosts * 20,
                  "protocol": args.protocol, "rows": rows, "facts": facts, "fine": fine})
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
