"""The servers that are measured: how each is started on loopback, pushed to, brought to rest and ended.

Every process is a child of the script, listens on free ports of 127.0.0.1, keeps its data in a temporary directory and is
ended by its id when the script ends, however it ends.
"""

import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEERS_MISSING = "skipped: apt install victoria-metrics influxdb"
OPENTSDB, LINES, REMOTE_WRITE = "opentsdb", "lines", "remote-write"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def end_on_signals():
    """Turns SIGTERM into an orderly exit, so that `with` blocks end the servers."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))


class Server:
    """A running server; a context manager that ends the process and removes its data."""

    name = "?"
    # Wire format: path to push to.
    paths = {}

    def __init__(self, settings=()):
        """`settings` are further arguments of the command."""
        self.dir = tempfile.mkdtemp(prefix="tidegate-bench-", dir=os.environ.get("TIDEGATE_BENCH_DIR"))
        self.process = None
        self.ports = {}
        try:
            self.start(list(settings))
        except BaseException:
            self.stop()
            raise

    def start(self, settings):
        raise NotImplementedError

    def spawn(self, command):
        log = open(os.path.join(self.dir, "server.log"), "ab")
        self.process = subprocess.Popen([str(word) for word in command], cwd=self.dir, stdin=subprocess.DEVNULL,
                                        stdout=log, stderr=log)

    def wait_ready(self, path, ready=lambda status, body: status < 300, seconds=120):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended at its start:\n{self.log()}")
            try:
                if ready(*self.get(path)):
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise RuntimeError(f"{self.name} was not ready within {seconds} s:\n{self.log()}")

    def log(self):
        text = pathlib.Path(self.dir, "server.log").read_text(errors="replace")
        return text[-2000:]

    @property
    def pid(self):
        return self.process.pid

    def request(self, method, path, body=None, headers=None, seconds=120):
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["http"], timeout=seconds)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def get(self, path):
        return self.request("GET", path)

    def push_port(self, protocol):
        return self.ports["http"]

    def stop(self):
        """Ends the process and removes its data."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def cpu_s(self):
        """CPU seconds of all threads, those that ended too; steps of 10 ms."""
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def fine_cpu_s(self):
        """CPU seconds of the living threads, in ns steps: for short spans in which none ends."""
        total = 0
        for task in pathlib.Path(f"/proc/{self.pid}/task").iterdir():
            try:
                total += int((task / "schedstat").read_text().split()[0])
            except OSError:
                pass
        return total / 1e9

    def rss_mib(self, field="VmRSS"):
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
        return 0.0

    def disk_bytes(self):
        """What the data takes on disk, everything included but the log of this script."""
        total = 0
        for parent, _, files in os.walk(self.dir):
            for name in files:
                try:
                    total += 0 if name == "server.log" else os.lstat(os.path.join(parent, name)).st_blocks * 512
                except OSError:
                    pass
        return total

    def make_visible(self):
        """Makes what was pushed visible to queries, where that is not so at once."""

    def at_rest(self):
        """Asks for flush and merge, where the server has such a thing, before `settle` waits for their end."""

    def settle(self, seconds=600, quiet_s=3.0):
        """Waits until background work is over: neither CPU nor disk moves. Whether it came to that."""
        self.at_rest()
        end, quiet_since, before = time.monotonic() + seconds, time.monotonic(), None
        while time.monotonic() < end:
            time.sleep(0.5)
            now = (self.cpu_s(), self.disk_bytes())
            busy = before is None or now[1] != before[1] or now[0] - before[0] > 0.1
            before = now
            if busy:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since >= quiet_s:
                return True
        return False


class Tidegate(Server):
    name = "Tidegate"
    paths = {OPENTSDB: "/api/put", LINES: "/write", REMOTE_WRITE: "/api/v1/write"}
    binary = ROOT / "target/release/tidegate"

    def start(self, settings):
        self.ports = {"http": free_port()}
        self.spawn([self.binary, "--log", "warn", "serve", "--listen", f"127.0.0.1:{self.ports['http']}",
                    "--data-dir", os.path.join(self.dir, "data"), "--local-host", "false",
                    "--install-default-rules", "false", *settings])
        self.wait_ready("/health")

    def sql(self, sql, **more):
        status, body = self.request("POST", "/api/v1/sql", json.dumps({"sql": sql, **more}),
                                    {"Content-Type": "application/json"})
        if status != 200:
            raise RuntimeError(f"{sql}: {status} {body.decode(errors='replace')}")
        return json.loads(body)["rows"]

    def takes(self, protocol):
        """Whether this build has the route at all."""
        status, _ = self.request("POST", self.paths[protocol], b"")
        return status != 404

    def at_rest(self):
        status, answer = self.request("POST", "/api/v1/compact", seconds=1_800)
        # An earlier build has no such route: then there is only waiting.
        if status not in (200, 404, 405):
            raise RuntimeError(f"compaction: {status} {answer.decode(errors='replace')}")

    @classmethod
    def version(cls):
        return subprocess.run([cls.binary, "--version"], capture_output=True, text=True).stdout.split()[-1]


class VictoriaMetrics(Server):
    name = "VictoriaMetrics"
    paths = {OPENTSDB: "/api/put", LINES: "/write?db=x", REMOTE_WRITE: "/api/v1/write"}
    binary = shutil.which("victoria-metrics") or shutil.which("victoria-metrics-prod")

    def start(self, settings):
        self.ports = {"http": free_port(), OPENTSDB: free_port()}
        self.spawn([self.binary, f"-httpListenAddr=127.0.0.1:{self.ports['http']}",
                    f"-opentsdbHTTPListenAddr=127.0.0.1:{self.ports[OPENTSDB]}",
                    f"-storageDataPath={self.dir}/data", "-retentionPeriod=1y", "-loggerLevel=WARN", *settings])
        self.wait_ready("/health")

    def push_port(self, protocol):
        return self.ports[OPENTSDB if protocol == OPENTSDB else "http"]

    def takes(self, protocol):
        return True

    def make_visible(self):
        self.get("/internal/force_flush")

    def at_rest(self):
        self.make_visible()
        self.get("/internal/force_merge")

    @classmethod
    def version(cls):
        return package_version("victoria-metrics")


class InfluxDb(Server):
    name = "InfluxDB"
    paths = {LINES: "/write?db=x"}
    binary = shutil.which("influxd")

    def start(self, settings):
        self.ports = {"http": free_port(), "rpc": free_port()}
        config = f"""reporting-disabled = true
bind-address = "127.0.0.1:{self.ports['rpc']}"
[meta]
dir = "{self.dir}/meta"
[data]
dir = "{self.dir}/data"
wal-dir = "{self.dir}/wal"
cache-snapshot-write-cold-duration = "10s"
compact-full-write-cold-duration = "15s"
query-log-enabled = false
[monitor]
store-enabled = false
[http]
bind-address = "127.0.0.1:{self.ports['http']}"
log-enabled = false
"""
        path = pathlib.Path(self.dir, "influxdb.conf")
        path.write_text(config)
        self.spawn([self.binary, "-config", path, *settings])
        self.wait_ready("/ping")
        self.request("POST", "/query", "q=CREATE DATABASE x", {"Content-Type": "application/x-www-form-urlencoded"})

    def takes(self, protocol):
        return protocol in self.paths

    @classmethod
    def version(cls):
        return package_version("influxdb")


def package_version(package):
    found = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True)
    return found.stdout.split("+")[0].split("~")[0] or "unknown"


PEERS = [VictoriaMetrics, InfluxDb]


def installed_peers():
    """The peers that are installed; says how to get those that are not."""
    found = [peer for peer in PEERS if peer.binary]
    if len(found) < len(PEERS):
        missing = ", ".join(peer.name for peer in PEERS if not peer.binary)
        print(f"{missing} {PEERS_MISSING}", file=sys.stderr)
    return found


LOADER = ROOT / "target/bench-load/release/fleet-load"


def load(server, protocol, *options, verb="send"):
    """Pushes with the load generator and gives what it printed."""
    command = [LOADER, verb, "--format", protocol, "--port", server.push_port(protocol), "--path",
               server.paths[protocol], "--pid", server.pid, *options]
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def machine():
    """What the figures were measured on."""
    info = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), "unknown CPU")
    memory = int(pathlib.Path("/proc/meminfo").read_text().split()[1]) / 2**20
    return {"cpu": model, "cores": os.cpu_count(), "memory_gib": round(memory, 1), "kernel": os.uname().release,
            "date": time.strftime("%Y-%m-%d")}


def median(values):
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def save(name, result):
    directory = ROOT / "target/bench"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {path.relative_to(ROOT)}")


def table(head, rows):
    """Prints aligned columns; all but the first to the right."""
    rows = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[at]) for row in rows) for at in range(len(head))]
    for row in rows:
        print("  ".join(cell.ljust(width) if at == 0 else cell.rjust(width)
                        for at, (cell, width) in enumerate(zip(row, widths))).rstrip())
