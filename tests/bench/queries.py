"""Queries: six questions over twelve hours of 1,000 containers, Tidegate beside VictoriaMetrics, in one run.

    tests/bench/run queries [--runs 25] [--steps 4320] [--tidegate PATH]

Both get the same 12 h at 10 s (43.2 M points; --steps for less) in the same order: all but the last 15 minutes, then rest
(flush, merge), then the 15 minutes, as a server in use would have them. Each run pushes one more step, asks as of that
step, and asks about other containers than the run before. Times are from the first byte sent to the last received, over
one keep-alive connection. VictoriaMetrics shows a sample only seconds later, so it is told to flush after each step. Texts: queries.sql, and METRICSQL below.
"""

import argparse
import json
import pathlib
import socket
import subprocess
import time
import urllib.parse

from servers import (LOADER, OPENTSDB, REMOTE_WRITE, Tidegate, VictoriaMetrics, end_on_signals, installed_peers, load, machine,
                     median, save, table)

WARM_UPS = 5
STEP_S = 10
# Steps that come after the rest: 15 minutes, what Tidegate keeps in memory by default.
RECENT = 90
TITLES = {"Q1": "last value of all", "Q2": "60 s average of all", "Q3": "5 min average above 80 % of the limit",
          "Q4": "p95 of one over 1 h", "Q5": "per-minute maxima of 8 over 12 h", "Q6": "6 h panel of one, 10 metrics"}
GOALS_MS = {"Q1": 2, "Q2": 2, "Q3": 3, "Q4": 0.8, "Q5": 3, "Q6": 3}
# Text, and seconds of the range when it is a range query with a step of a minute.
METRICSQL = {
    "Q1": ("cpu_user", None),
    "Q2": ("avg_over_time(cpu_user[1m])", None),
    "Q3": ("avg_over_time(cpu_user[5m]) > 0.8 * cpu_limit", None),
    "Q4": ('quantile_over_time(0.95, cpu_user{{container="{container}"}}[1h])', None),
    "Q5": ('max(max_over_time(cpu_user{{container=~"{alternatives}"}}[1m]))', 12 * 3600),
    "Q6": ('avg_over_time({{container="{container}"}}[1m]) keep_metric_names', 6 * 3600),
}


def sql_texts():
    texts, name = {}, None
    for line in pathlib.Path(__file__).with_name("queries.sql").read_text().splitlines():
        if line.startswith("-- Q"):
            name = line[3:].strip()
        elif name:
            texts[name] = f"{texts.get(name, '')}{line}\n"
    return texts


class Connection:
    """A keep-alive connection that does no more than HTTP needs: the client's part of a time should be small."""

    def __init__(self, port):
        self.port = port
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray(1 << 20)

    def post(self, path, body, content_type):
        """Gives the answer's body and the seconds until its last byte."""
        head = (f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Type: {content_type}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n").encode()
        request, answer = head + body, b""
        started = time.perf_counter()
        self.socket.sendall(request)
        while not complete(answer):
            count = self.socket.recv_into(self.buffer)
            if count == 0:
                raise RuntimeError(f"the server closed the connection after {answer[:300]}")
            answer += self.buffer[:count]
        took = time.perf_counter() - started
        head, _, body = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{answer[:600]}")
        return (unchunked(body) if b"chunked" in head.lower() else body), took


def complete(answer):
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = answer[:end].lower()
    at = head.find(b"content-length:")
    if at >= 0:
        return len(answer) >= end + 4 + int(head[at + 15:].split(b"\r\n", 1)[0])
    return answer.endswith(b"0\r\n\r\n")


def unchunked(body):
    out = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        size = int(size, 16)
        out, body = out + rest[:size], rest[size + 2:]
    return out


class SqlAsker:
    """Asks Tidegate."""

    def __init__(self, server):
        self.server, self.texts = server, sql_texts()
        self.connection = Connection(server.ports["http"])

    def ask(self, query, at, containers):
        quoted = ", ".join(f"'{name}'" for name in containers)
        sql = self.texts[query].replace("{containers}", quoted).replace("{container}", containers[0])
        body = json.dumps({"sql": sql, "now": at, "limit": 100_000}).encode()
        return self.connection.post("/api/v1/sql", body, "application/json")

    @staticmethod
    def values(body):
        """All values of an answer; the value is the last column."""
        return [row[-1] for row in json.loads(body)["rows"]]


class MetricsQlAsker:
    """Asks VictoriaMetrics."""

    def __init__(self, server):
        self.server = server
        self.connection = Connection(server.ports["http"])

    def ask(self, query, at, containers):
        text, range_s = METRICSQL[query]
        if "{{" in text:
            text = text.format(container=containers[0], alternatives="|".join(containers))
        # It caches results of ranges; a question about another instant and container should cost what it costs.
        form = {"query": text, "nocache": 1}
        if range_s is None:
            path, form = "/api/v1/query", {**form, "time": at / 1000}
        else:
            path, form = "/api/v1/query_range", {**form, "start": at / 1000 - range_s + 60, "end": at / 1000, "step": 60}
        return self.connection.post(path, urllib.parse.urlencode(form).encode(), "application/x-www-form-urlencoded")

    @staticmethod
    def values(body):
        result = json.loads(body)["data"]["result"]
        return [float(value) for series in result for _, value in series.get("values") or [series["value"]]]


class Feeder:
    """Pushes one step after the other into a server."""

    def __init__(self, server, protocol, args, skip, until):
        command = [LOADER, "feed", "--format", protocol, "--port", server.push_port(protocol), "--path",
                   server.paths[protocol], "--hosts", args.hosts, "--steps", args.steps, "--skip", skip, "--until", until]
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)

    def step(self):
        """Pushes a step and gives its time."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found = json.loads(self.process.stdout.readline())
        if found["errors"]:
            raise RuntimeError("a step was not stored")
        return found["at"]

    def end(self):
        self.process.stdin.close()
        self.process.wait(30)


def prepare(kind, args, until):
    """A server with the whole set in it: old data at rest, the last minutes as they came."""
    old = args.steps - RECENT
    server = kind()
    try:
        protocol = REMOTE_WRITE if server.takes(REMOTE_WRITE) else OPENTSDB
        hosts = ["--hosts", args.hosts]
        # The first steps of the set are also those of a shorter one that ends earlier.
        found = load(server, protocol, *hosts, "--steps", old, "--until", until - RECENT * STEP_S * 1000)
        print(f"{kind.name}: {found['points'] / 1e6:.1f} M points loaded, {found['errors']} errors", flush=True)
        settled = server.settle()
        if not settled:
            print(f"{kind.name}: not flushed and merged, so its size says nothing")
        bytes_per_point = server.disk_bytes() / max(found["points"], 1) if settled else None
        load(server, protocol, *hosts, "--steps", args.steps, "--skip", old, "--until", until)
        return server, Feeder(server, protocol, args, args.steps, until), bytes_per_point
    except BaseException:
        server.stop()
        raise


def containers_of(run, hosts):
    """Eight containers of the fleet, others in each run."""
    numbers = [(run * 7 + at * 131) % (hosts * 20) for at in range(8)]
    return [f"node{number // 20:03}-c{number % 20:02}" for number in numbers]


def measure(askers, feeders, args):
    """Per query and server: milliseconds, CPU milliseconds, rows and the sum of the values of the last answer."""
    found = {(query, name): {"ms": [], "cpu_ms": []} for query in TITLES for name in askers}
    for run in range(-WARM_UPS, args.runs):
        times = {feeder.step() for feeder in feeders.values()}
        assert len(times) == 1, times
        for asker in askers.values():
            asker.server.make_visible()
        at, containers = times.pop(), containers_of(run + WARM_UPS, args.hosts)
        for query in TITLES:
            names = sorted(askers, reverse=run % 2 == 1)
            for name in names:
                asker, entry = askers[name], found[query, name]
                cpu_before = asker.server.fine_cpu_s()
                body, took = asker.ask(query, at, containers)
                time.sleep(0.003)  # threads are accounted for when they sleep
                cpu = asker.server.fine_cpu_s() - cpu_before
                if run >= 0:
                    entry["ms"].append(took * 1e3)
                    entry["cpu_ms"].append(cpu * 1e3)
                    values = asker.values(body)
                    entry.setdefault("rows", []).append(len(values))
                    entry.setdefault("sums", []).append(sum(values))
    return found


def measure_in_a_row(askers, at, args):
    """Per query and server: milliseconds of the same question many times, about another instant and container each time,
    with nothing in between."""
    found = {}
    for query in TITLES:
        for name, asker in askers.items():
            times = []
            for run in range(-WARM_UPS, args.runs):
                instant = at - (args.runs - run) * STEP_S * 1000
                times.append(asker.ask(query, instant, containers_of(run + WARM_UPS, args.hosts))[1] * 1e3)
            found[query, name] = times[WARM_UPS:]
    return found


def agreement(query, ours, theirs):
    """Whether two servers answered alike: rows, and for the instant questions the values too."""
    # Minutes begin elsewhere: SQL's bins on the full minute, PromQL's steps at the instant.
    edges = {"Q5": 1, "Q6": 10}.get(query, 0)
    for a, b, sum_a, sum_b in zip(ours["rows"], theirs["rows"], ours["sums"], theirs["sums"]):
        if abs(a - b) > edges:
            return f"rows differ: {a} and {b}"
        if not edges and abs(sum_a - sum_b) > 1e-6 * max(abs(sum_a), 1):
            return f"values differ: sums {sum_a:.3f} and {sum_b:.3f}"
    return "yes"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--steps", type=int, default=4320)
    parser.add_argument("--hosts", type=int, default=50)
    parser.add_argument("--tidegate", default=Tidegate.binary)
    args = parser.parse_args()
    Tidegate.binary = args.tidegate
    if args.steps <= RECENT:
        parser.error(f"--steps must be above {RECENT}")
    end_on_signals()
    kinds = [Tidegate] + [VictoriaMetrics] * (VictoriaMetrics in installed_peers())
    # The last run's step is of now: no server is asked to take samples of the future.
    until = int(time.time()) // STEP_S * STEP_S * 1000 - (WARM_UPS + args.runs + 1) * STEP_S * 1000
    servers, feeders, sizes = {}, {}, {}
    try:
        for kind in kinds:
            servers[kind.name], feeders[kind.name], sizes[kind.name] = prepare(kind, args, until)
        askers = {name: (SqlAsker if name == Tidegate.name else MetricsQlAsker)(server) for name, server in servers.items()}
        found = measure(askers, feeders, args)
        at = max(feeder.step() for feeder in feeders.values())
        in_a_row = measure_in_a_row(askers, at, args)
        for feeder in feeders.values():
            feeder.end()
        rss = {name: round(server.rss_mib("VmHWM")) for name, server in servers.items()}
    finally:
        for server in servers.values():
            server.stop()
    rows = []
    for (query, name), entry in found.items():
        ours = found[query, Tidegate.name]
        rows.append({"query": query, "title": TITLES[query], "server": name, "goal_ms": GOALS_MS[query],
                     "in_a_row_ms": median(in_a_row[query, name]), "median_ms": median(entry["ms"]), "min_ms": min(entry["ms"]), "cpu_ms": sum(entry["cpu_ms"]) / len(entry["cpu_ms"]),
                     "rows": median(entry["rows"]), "ratio": median(entry["ms"]) / median(ours["ms"]),
                     "ratio_in_a_row": median(in_a_row[query, name]) / median(in_a_row[query, Tidegate.name]),
                     "agrees": agreement(query, ours, entry)})
    result = {"machine": machine(), "points": args.hosts * 200 * args.steps, "runs": args.runs, "rows": rows,
              "bytes_per_point": sizes, "peak_rss_mib": rss, "versions": {kind.name: kind.version() for kind in kinds}}
    show(result)
    save("queries", result)


def show(result):
    print(f"\n{result['points'] / 1e6:.1f} M points, {result['runs']} runs")
    rows = [[row["query"], row["title"], row["server"], f"{row['in_a_row_ms']:.2f}", f"{row['median_ms']:.2f}", f"{row['min_ms']:.2f}",
             f"{row['cpu_ms']:.2f}", f"{row['goal_ms']}" if row["server"] == Tidegate.name else "",
             f"{row['ratio_in_a_row']:.1f}", f"{row['ratio']:.1f}", f"{row['rows']:.0f}", row["agrees"]]
            for row in result["rows"]]
    table(["", "question", "server", "in a row ms", "median ms", "min ms", "CPU ms", "goal ms", "ratio in a row", "ratio", "rows",
           "agrees"], rows)
    for name, size in result["bytes_per_point"].items():
        at_rest = "no size at rest" if size is None else f"{size:.3f} bytes a point at rest"
        print(f"{name}: {at_rest}, peak memory {result['peak_rss_mib'][name]} MiB")


if __name__ == "__main__":
    main()
