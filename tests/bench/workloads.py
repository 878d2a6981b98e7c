"""Real workloads in real containers: nginx under wrk, PostgreSQL under pgbench, a growing Redis; limits that the default rules
move beside limits that stay.

    tests/bench/run workloads [--only nginx,pgbench,redis] [--seconds 90] [--rules FILE ...] [--tidegate PATH]

Each program runs in a container of runc with a network of its own, three times under the same load, which comes and goes:
with a fixed limit that its peak fits into, with the default rules between that limit and a small one, and with a fixed limit
as large as what the rules took in the mean. Used and allocated are read from the kernel's files by this script, five times a second.
The generators are outside of the containers, on the same machine.

Needs root, cgroup v1, and: apt install runc nginx-light wrk postgresql redis-server
"""

import argparse
import json
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
import time

from servers import Tidegate, end_on_signals, free_port, machine, save, table

CGROUPS = pathlib.Path("/sys/fs/cgroup")
MIB = 1 << 20
PERIOD_US = 100_000
# Seconds between two looks at a container.
LOOK_S = 0.2
# What a container with an unhindered peak is given, and what rules may go down to: cores and bytes.
PEAK, LEAST = (1.0, 512 * MIB), (0.05, 32 * MIB)
# Share of the full load, one after the other, each for a ninth of the time.
SHAPE = [1.0, 0.1, 0.5, 0.05, 0.05, 1.0, 0.3, 0.05, 0.7]


class Container:
    """A program in a container of runc, whose root is this machine's programs, to be read only, and `/data`."""

    def __init__(self, group, name, command, user, limits):
        self.group, self.name = group, name
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-bench-", dir=os.environ.get("TIDEGATE_BENCH_DIR")))
        self.data = self.dir / "data"
        self.data.mkdir()
        self.dir.chmod(0o755)
        who = pwd.getpwnam(user)
        os.chown(self.data, who.pw_uid, who.pw_gid)
        root = self.dir / "rootfs"
        for place in ("usr", "etc", "proc", "dev", "tmp", "run", "var", "data"):
            (root / place).mkdir(parents=True)
        for link in ("bin", "sbin", "lib", "lib64"):
            (root / link).symlink_to(f"usr/{link}")
        read_only = [{"destination": f"/{place}", "type": "bind", "source": f"/{place}", "options": ["rbind", "ro"]}
                     for place in ("usr", "etc")]
        empty = [{"destination": f"/{place}", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]}
                 for place in ("tmp", "run", "var")]
        (cores, memory) = limits
        config = {
            "ociVersion": "1.0.2",
            "process": {"args": command, "cwd": "/data", "user": {"uid": who.pw_uid, "gid": who.pw_gid},
                        "env": ["PATH=/usr/bin:/usr/sbin", "LC_ALL=C"]},
            "root": {"path": "rootfs", "readonly": False},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
                       {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
                       {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["mode=1777"]},
                       *read_only, *empty,
                       {"destination": "/data", "type": "bind", "source": str(self.data), "options": ["rbind", "rw"]}],
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "network", "ipc", "uts")],
                      "cgroupsPath": f"/{group}/{name}",
                      "resources": {"cpu": {"quota": int(cores * PERIOD_US), "period": PERIOD_US},
                                    "memory": {"limit": memory}}},
        }
        (self.dir / "config.json").write_text(json.dumps(config))

    def runc(self, *words, **more):
        return subprocess.run(["runc", "--root", str(self.dir / "state"), *words], **more)

    def start(self):
        with open(self.dir / "log", "ab") as log:
            self.runc("run", "--detach", "--bundle", str(self.dir), self.name, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        state = self.runc("state", self.name, capture_output=True, text=True)
        if state.returncode:
            raise RuntimeError((self.dir / "log").read_text(errors="replace"))
        self.pid = json.loads(state.stdout)["pid"]

    def wait(self, ready, seconds=30):
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                raise RuntimeError(f"{self.name} was not ready: " + (self.dir / "log").read_text(errors="replace")[-2000:])
            time.sleep(0.1)

    def file(self, path):
        controller, name = path.split("/")
        return (CGROUPS / controller / self.group / self.name / name).read_text()

    def cpu_s(self):
        return int(self.file("cpuacct/cpuacct.usage")) / 1e9

    def cores(self):
        return int(self.file("cpu/cpu.cfs_quota_us")) / int(self.file("cpu/cpu.cfs_period_us"))

    def memory(self):
        """What is used, without what is only cached, and the limit: bytes."""
        stat = dict(line.split() for line in self.file("memory/memory.stat").splitlines())
        return int(stat["total_rss"]) + int(stat["total_shmem"]), int(self.file("memory/memory.limit_in_bytes"))

    def oom_kills(self):
        return int(dict(line.split() for line in self.file("memory/memory.oom_control").splitlines()).get("oom_kill", 0))

    def throttled(self):
        stat = dict(line.split() for line in self.file("cpu/cpu.stat").splitlines())
        return int(stat["nr_throttled"]), int(stat["nr_periods"])

    def stop(self):
        if (self.dir / "state").exists():
            self.runc("delete", "--force", self.name, capture_output=True)
        shutil.rmtree(self.dir, ignore_errors=True)


class Watch(threading.Thread):
    """Integrals of what a container used and of what it was allowed, while its load runs."""

    def __init__(self, container):
        super().__init__(daemon=True)
        self.container, self.over, self.failure = container, threading.Event(), None
        self.cores = self.memory_used = self.memory_limit = self.seconds = 0.0
        self.peak = 0
        self.cpu_before, self.throttled_before = container.cpu_s(), container.throttled()

    def run(self):
        before = time.monotonic()
        try:
            while not self.over.wait(LOOK_S):
                now = time.monotonic()
                span, before = now - before, now
                used, limit = self.container.memory()
                self.seconds += span
                self.cores += span * self.container.cores()
                self.memory_used += span * used
                self.memory_limit += span * limit
                self.peak = max(self.peak, used)
        except OSError as error:
            self.failure = error

    def end(self):
        self.over.set()
        self.join()
        if self.failure:
            raise RuntimeError(f"{self.container.name} went away: {self.failure}")
        throttled, periods = (after - before for after, before in zip(self.container.throttled(), self.throttled_before))
        return {"cores_used": (self.container.cpu_s() - self.cpu_before) / self.seconds,
                "cores_allocated": self.cores / self.seconds, "memory_used": self.memory_used / self.seconds,
                "memory_allocated": self.memory_limit / self.seconds, "memory_peak": self.peak,
                "throttled": throttled / max(periods, 1), "oom_kills": self.container.oom_kills()}


class Rules(Tidegate):
    """A server whose default rules, or those of `files`, may move the limits of one group of containers."""

    files = []

    def start(self, settings):
        self.ports = {"http": free_port()}
        spans = zip(("cpu", "memory"), LEAST, PEAK)
        bounds = ", ".join(f"{resource} = {{ min = {float(least)}, max = {float(peak)} }}" for resource, least, peak in spans)
        self.spawn([self.binary, "--log", "warn", "serve", "--listen", f"127.0.0.1:{self.ports['http']}",
                    "--data-dir", os.path.join(self.dir, "data"), "--actuator-host", "bench", "--actuator-discover", "false",
                    "--actuator-state-dir", os.path.join(self.dir, "state"), "--policy-default-mode", "on",
                    "--actuator-default-bounds", f"{{ {bounds} }}",
                    "--install-default-rules", str(not self.files).lower(), *settings])
        self.wait_ready("/ready")
        for file in self.files:
            status, answer = self.request("POST", "/api/v1/rules", file.read_bytes())
            if status >= 300:
                raise RuntimeError(f"{file}: {answer.decode(errors='replace')}")


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else float("nan")


def nginx(container, seconds):
    """Pages that are compressed for each request; 32 connections that pause between requests as the shape has it."""
    lua = container.dir / "shape.lua"
    full_rate = 260  # requests a second; a page takes about 3 ms
    shape = ", ".join(str(share) for share in SHAPE)
    lua.write_text(f"""local shape, began = {{{shape}}}, os.time()
wrk.headers["Accept-Encoding"] = "gzip"
function delay()
  local at = math.floor((os.time() - began) / {seconds} * #shape) % #shape + 1
  return 32 / ({full_rate} * shape[at]) * 1000 * (0.5 + math.random())
end
function done(summary, latency)
  print(string.format("RESULT %d %d %f %f", summary.requests, summary.errors.status + summary.errors.timeout, latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
""")
    command = ["nsenter", "--target", str(container.pid), "--net", "wrk", "-t1", "-c32", f"-d{seconds}s", "--timeout", "10s",
               "-s", str(lua), "http://127.0.0.1:8080/page.txt"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    requests, errors, p50, p99 = next(line for line in text.splitlines() if line.startswith("RESULT")).split()[1:]
    return {"done": int(requests), "errors": int(errors), "p50_ms": float(p50), "p99_ms": float(p99), "seconds": seconds}


def start_nginx(container):
    words = pathlib.Path("/usr/share/dict/words")
    text = words.read_text(errors="replace") if words.exists() else "".join(f"{n * 2654435761 % 2**32:08x} container\n" for n in range(4_000))
    (container.data / "page.txt").write_text((text * 2)[:64_000])
    (container.data / "nginx.conf").write_text("""daemon off; worker_processes 2; user root; pid /tmp/nginx.pid; error_log /data/error.log;
events { worker_connections 256; }
http { client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi; uwsgi_temp_path /tmp/uwsgi;
  scgi_temp_path /tmp/scgi; access_log off; gzip on; gzip_comp_level 6; gzip_types text/plain; default_type text/plain;
  server { listen 127.0.0.1:8080; root /data; } }
""")
    container.start()
    probe = ["nsenter", "--target", str(container.pid), "--net", "curl", "-sf", "-o", "/dev/null", "http://127.0.0.1:8080/page.txt"]
    container.wait(lambda: subprocess.run(probe, check=False, capture_output=True).returncode == 0)


def pgbench(container, seconds):
    """So many transactions: a rate that the shape gives, and at its peaks as fast as they go. Its run time is what counts."""
    base = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", pg("pgbench"), "-h", str(container.data), "-f", str(container.data / "sum.sql"),
            "-M", "prepared", "-n", "-c", "4", "-j", "1", "-l"]
    full_rate, latencies, began = 700, [], time.monotonic()  # transactions a second; one takes about a millisecond
    for number, share in enumerate(SHAPE):
        amount = int(full_rate * share * seconds / len(SHAPE))
        prefix = container.data / f"phase-{number}"
        limit = [] if share == 1.0 else ["-R", str(int(full_rate * share))]
        run = subprocess.run([*base, *limit, "-t", str(amount // 4), f"--log-prefix={prefix}", "postgres"], capture_output=True, text=True,
                             cwd=container.data)
        if run.returncode:
            raise RuntimeError(run.stderr)
        for log in container.data.glob(f"phase-{number}.*"):
            latencies += [int(line.split()[2]) / 1000 for line in log.read_text().splitlines()]
            log.unlink()
    return {"done": len(latencies), "errors": 0, "p50_ms": percentile(latencies, 0.5), "p99_ms": percentile(latencies, 0.99),
            "seconds": time.monotonic() - began}


def pg(program):
    return str(sorted(pathlib.Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))[-1])


def start_pgbench(container):
    as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    quiet = {"check": True, "capture_output": True, "cwd": container.data}
    subprocess.run([*as_postgres, pg("initdb"), "-D", str(container.data / "db"), "-A", "trust"], **quiet)
    container.start()
    ready = [pg("pg_isready"), "-h", str(container.data)]
    container.wait(lambda: subprocess.run(ready, check=False, capture_output=True).returncode == 0)
    subprocess.run([*as_postgres, pg("pgbench"), "-h", str(container.data), "-i", "-s", "5", "-q", "postgres"], **quiet)
    (container.data / "sum.sql").write_text("""\\set first random(1, 490000)
SELECT sum(abalance), avg(length(filler)) FROM pgbench_accounts WHERE aid BETWEEN :first AND :first + 3000;
""")


def redis(container, seconds):
    """Grows to about 350 MiB, is emptied, and grows again twice as fast."""
    link = Redis(container.data / "redis.sock")
    value, latencies, began = os.urandom(64 << 10), [], time.monotonic()
    done = 0
    for megabytes, span, pause in ((350, 0.4, 0.1), (300, 0.2, 0.1)):
        count, phase = megabytes * MIB // len(value), time.monotonic()
        for number in range(count):
            due = phase + number / count * span * seconds
            time.sleep(max(0.0, due - time.monotonic()))
            sent = time.monotonic()
            link.ask(b"SET", b"key:%d" % number, value)
            # From when it was due: what waits behind a slow one waits too.
            latencies.append((time.monotonic() - min(sent, due)) * 1000)
            done += 1
        time.sleep(pause * seconds)
        link.ask(b"FLUSHALL", b"SYNC")
        time.sleep(pause * seconds)
    return {"done": done, "errors": 0, "p50_ms": percentile(latencies, 0.5), "p99_ms": percentile(latencies, 0.99),
            "seconds": time.monotonic() - began}


class Redis:
    """As much of a client as it takes."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))

    def ask(self, *words):
        self.socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))
        answer = self.socket.recv(4096)
        if not answer.startswith(b"+"):
            raise RuntimeError(f"redis: {answer!r}")


def start_redis(container):
    container.start()
    container.wait(lambda: (container.data / "redis.sock").exists())


# Name: command, user, start, load, what it does.
WORKLOADS = {
    "nginx": (["/usr/sbin/nginx", "-c", "/data/nginx.conf"], "root", start_nginx, nginx, "requests"),
    "pgbench": ([], "postgres", start_pgbench, pgbench, "transactions"),
    "redis": (["/usr/bin/redis-server", "--port", "0", "--unixsocket", "/data/redis.sock", "--save", "", "--dir", "/data"],
              "root", start_redis, redis, "writes"),
}


def measured(name, arm, limits, seconds):
    """One container under its load. With the arm `rules`, a server may move its limits from the start."""
    command, user, start, load, _ = WORKLOADS[name]
    group = f"tidegate-bench-{os.getpid()}"
    if name == "pgbench":
        command = [pg("postgres"), "-D", "/data/db", "-k", "/data", "-c", "listen_addresses=", "-c", "fsync=off"]
    container, server = Container(group, name, command, user, limits), None
    try:
        start(container)
        if arm == "rules":
            server = Rules(["--actuator-roots", json.dumps([f"/{group}"])])
            # Rules learn what the idle program takes, as they would have long since.
            time.sleep(20)
        watch = Watch(container)
        watch.start()
        result = load(container, seconds)
        result |= watch.end() | {"workload": name, "arm": arm}
        if server:
            rows = server.sql("SELECT outcome, count(*) FROM decisions GROUP BY outcome")
            result["decisions"] = {outcome: count for outcome, count in rows}
        return result
    except (RuntimeError, OSError) as error:
        log = server.sql("SELECT time, rule, resource, limit_before, decided, outcome, reason FROM decisions ORDER BY time") if server else []
        raise SystemExit("\n".join([f"{name}, {arm}: {error}", *map(str, log)])) from error
    finally:
        if server:
            server.stop()
        container.stop()
        for controller in CGROUPS.iterdir():
            try:
                (controller / group).rmdir()
            except OSError:
                pass


def report(rows):
    shown = []
    for row in rows:
        shown.append([row["workload"], row["arm"], f"{row['cores_used']:.3f}", f"{row['cores_allocated']:.3f}",
                      f"{100 * row['cores_used'] / row['cores_allocated']:.0f} %", f"{row['memory_used'] / MIB:.0f}",
                      f"{row['memory_allocated'] / MIB:.0f}", f"{100 * row['memory_used'] / row['memory_allocated']:.0f} %",
                      f"{row['done'] / row['seconds']:.1f}", f"{row['seconds']:.1f}", f"{row['p50_ms']:.1f}", f"{row['p99_ms']:.1f}",
                      f"{100 * row['throttled']:.1f} %", row["oom_kills"], row.get("decisions", {}).get("applied", "")])
    table(["workload", "limits", "cores used", "allocated", "", "MiB used", "allocated", "", "a second", "run s", "p50 ms", "p99 ms",
           "throttled", "OOM", "changes"], shown)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(WORKLOADS), help="workloads, with commas")
    parser.add_argument("--seconds", type=int, default=90, help="how long one load runs, about")
    parser.add_argument("--rules", type=pathlib.Path, nargs="*", default=[], help="rules instead of the default ones")
    parser.add_argument("--tidegate", type=pathlib.Path, help="the binary to measure")
    options = parser.parse_args()
    end_on_signals()
    Rules.files = options.rules
    if options.tidegate:
        Rules.binary = options.tidegate.resolve()
    missing = [program for program in ("runc", "nginx", "wrk", "redis-server") if not shutil.which(program)]
    if missing or not list(pathlib.Path("/usr/lib/postgresql").glob("*/bin/pgbench")):
        raise SystemExit(f"missing: {', '.join(missing) or 'pgbench'}; apt install runc nginx-light wrk postgresql redis-server")
    if not (CGROUPS / "cpuacct").exists() or os.geteuid() != 0:
        raise SystemExit("this needs root and the hierarchies of cgroup v1")
    rows = []
    for name in options.only.split(","):
        rows.append(measured(name, "peak", PEAK, options.seconds))
        rows.append(measured(name, "rules", PEAK, options.seconds))
        took = rows[-1]
        # A program that would not fit into the mean at all would only be killed.
        mean = (round(took["cores_allocated"], 2), max(int(took["memory_allocated"]), int(rows[-2]["memory_peak"] * 1.1)))
        rows.append(measured(name, "mean", mean, options.seconds))
        report(rows)
    save("workloads", {"machine": machine(), "seconds": options.seconds, "rows": rows})


if __name__ == "__main__":
    main()
