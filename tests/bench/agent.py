"""What an agent costs its host: CPU and memory of `tidegate agent` beside many containers, connected to a server on loopback.

    tests/bench/run agent [--containers 200] [--seconds 60] [--networks] [--strace] [--tidegate PATH]

The containers are bare cgroups with a sleeping process in each `--busy`-th of them. The CPU is that of /proc/PID/stat, of the
agent's process alone, over the time after the containers are known. With --networks each process is in a network of its own,
with a veth pair to one that plays the host's, which is a new one, too; in every tenth both directions have a limit. With --strace the system calls of ten seconds more are
counted as well, which costs time but is not part of it.

Needs root. On cgroup v1 and on v2.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

from servers import Tidegate, end_on_signals, machine, save, table

CGROUPS = pathlib.Path("/sys/fs/cgroup")
NAME = f"tidegate-test-bench-{os.getpid()}"
CONTROLLERS = ["cpu", "cpuacct", "memory", "blkio"]
# The goal: a share of a core and MiB.
MOST_CPU, MOST_MIB = 0.02, 40
# Set in the process that plays the host in a network of its own.
IN_ANOTHER = "BENCH_IN_A_NETWORK"


class Containers:
    """Bare cgroups below one of our own; some have a process that sleeps."""

    def __init__(self, count, busy, networks):
        v2 = (CGROUPS / "cgroup.controllers").exists()
        mounts = [CGROUPS] if v2 else [CGROUPS / name for name in CONTROLLERS if (CGROUPS / name).is_dir()]
        self.v2, self.roots, self.processes = v2, [mount / NAME for mount in mounts], []
        for root in self.roots:
            root.mkdir()
            if v2:
                (root / "cgroup.subtree_control").write_text("+cpu +memory +io")
            for number in range(count):
                (root / f"c{number:03}").mkdir()
        for number in range(0, count, busy) if busy else []:
            command = ["unshare", "--net"] if networks else []
            sleeper = subprocess.Popen([*command, "sleep", "86400"])
            self.processes.append(sleeper)
            if networks:
                connect(sleeper.pid, number, limited=number // busy % 10 == 0)
            for root in self.roots:
                (root / f"c{number:03}" / "cgroup.procs").write_text(str(sleeper.pid))

    def remove(self):
        for process in self.processes:
            process.kill()
            process.wait()
        for root in self.roots:
            for directory in [*root.glob("c*/"), root]:
                for _ in range(50):
                    try:
                        directory.rmdir()
                        break
                    except OSError:
                        time.sleep(0.02)


def connect(pid, number, limited):
    """A pair between the network of a process and this one."""
    ours = os.readlink("/proc/self/ns/net")
    while os.readlink(f"/proc/{pid}/ns/net") == ours:
        time.sleep(0.01)
    inside, outside = f"nsenter --net=/proc/{pid}/ns/net", f"outer{number}"
    bucket = "root handle 7d9e: tbf rate 80mbit burst 100kb latency 50ms"
    commands = [f"ip link add {outside} type veth peer name eth0 netns {pid}", f"ip link set {outside} up",
                f"{inside} ip link set eth0 up"]
    if limited:
        commands += [f"tc qdisc add dev {outside} {bucket}", f"{inside} tc qdisc add dev eth0 {bucket}"]
    for command in commands:
        subprocess.run(command.split(), check=True)


class Agent:
    """An agent of the same binary as the server's."""

    def __init__(self, server):
        self.dir = tempfile.mkdtemp(prefix="tidegate-bench-", dir=os.environ.get("TIDEGATE_BENCH_DIR"))
        command = [Tidegate.binary, "--log", "warn", "agent", "--server", f"http://127.0.0.1:{server.ports['http']}",
                   "--actuator-host", "bench", "--actuator-state-dir", f"{self.dir}/state",
                   "--actuator-roots", f'["/{NAME}"]', "--actuator-discover", "false"]
        self.log = open(f"{self.dir}/agent.log", "ab")
        self.process = subprocess.Popen([str(word) for word in command], cwd=self.dir, stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=self.log)

    def cpu_s(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def threads(self):
        """CPU seconds by thread name."""
        taken = {}
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            fields = (task / "stat").read_text().rsplit(")", 1)
            name, rest = fields[0].split("(", 1)[1], fields[1].split()
            taken[name] = taken.get(name, 0) + (int(rest[11]) + int(rest[12])) / os.sysconf("SC_CLK_TCK")
        return taken

    def memory_mib(self, field="VmRSS"):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+)", status)[1]) / 1024

    def strace(self, seconds):
        with tempfile.NamedTemporaryFile() as out:
            command = ["timeout", "-s", "INT", str(seconds), "strace", "-c", "-f", "-o", out.name, "-p", str(self.process.pid)]
            subprocess.run(command, stderr=subprocess.DEVNULL)
            return pathlib.Path(out.name).read_text()

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


def known(server):
    return server.sql("SELECT count(*) AS n FROM containers WHERE host = 'bench'")[0][0]


def measure(arguments):
    containers = Containers(arguments.containers, arguments.busy, arguments.networks)
    try:
        with Tidegate() as server:
            agent = Agent(server)
            try:
                started = time.monotonic()
                while known(server) < arguments.containers:
                    if time.monotonic() - started > 60:
                        raise SystemExit("the containers do not become known: " + open(f"{agent.dir}/agent.log").read())
                    time.sleep(0.5)
                # What a start costs is over by then.
                time.sleep(10)
                began, cpu, threads = time.monotonic(), agent.cpu_s(), agent.threads()
                time.sleep(arguments.seconds)
                took, used = time.monotonic() - began, agent.cpu_s() - cpu
                after = agent.threads()
                result = {
                    "containers": arguments.containers,
                    "seconds": round(took, 1),
                    "cpu_share": round(used / took, 4),
                    "threads": {name: round((after[name] - threads.get(name, 0)) / took, 4) for name in sorted(after)},
                    "rss_mib": round(agent.memory_mib(), 1),
                    "peak_mib": round(agent.memory_mib("VmHWM"), 1),
                    "samples_per_s": round(samples(server, took), 1),
                }
                if arguments.strace:
                    print(agent.strace(10))
                return result
            finally:
                agent.stop()
    finally:
        containers.remove()


def samples(server, seconds):
    """How many samples a second the server has of the time that was measured, but for its last seconds."""
    since = f"now() - INTERVAL '{int(seconds)} seconds'"
    rows = server.sql(f"SELECT count(*) AS n FROM samples WHERE time > {since} AND time <= now() - INTERVAL '3 seconds'")
    return rows[0][0] / max(1, int(seconds) - 3)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--containers", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--busy", type=int, default=20, help="one container in so many has a process; 0: none has")
    parser.add_argument("--networks", action="store_true", help="each process has a network of its own")
    parser.add_argument("--strace", action="store_true")
    parser.add_argument("--tidegate", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.tidegate:
        Tidegate.binary = arguments.tidegate.resolve()
    if arguments.networks and IN_ANOTHER not in os.environ:
        os.execvpe("unshare", ["unshare", "--net", sys.executable, *sys.argv], {**os.environ, IN_ANOTHER: "1"})
    if arguments.networks:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    end_on_signals()
    result = {**measure(arguments), "machine": machine()}
    save("agent", result)
    table(["containers", "CPU, share of a core", "resident MiB", "peak MiB", "samples a second"],
          [[result[key] for key in ["containers", "cpu_share", "rss_mib", "peak_mib", "samples_per_s"]]])
    print("by thread:", ", ".join(f"{name} {share}" for name, share in result["threads"].items() if share))
    if result["cpu_share"] > MOST_CPU or result["rss_mib"] > MOST_MIB:
        raise SystemExit(f"more than {MOST_CPU:.0%} of a core or {MOST_MIB} MiB")


if __name__ == "__main__":
    main()
