"""Writes the performance section of the README from the results in target/bench.

    tests/bench/run report [--check]

What stands between the two markers is replaced; a part that was not measured anew stays as it is. --check prints the section
and changes nothing.
"""

import json
import re
import sys

from servers import ROOT

BEGIN, END = "<!-- performance: begin, written by tests/bench/run report -->", "<!-- performance: end -->"


def result(name):
    path = ROOT / "target/bench" / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def markdown(head, rows):
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def where(found):
    machine, peers = found["machine"], found.get("versions", {})
    versions = ", ".join(f"{name} {version}" for name, version in peers.items())
    return (f"{machine['cpu']}, {machine['cores']} cores shared by server and loader, {machine['memory_gib']} GiB, Linux "
            f"{machine['kernel']}, {machine['date']}{'; ' + versions if versions else ''}")


def ingest(found):
    rows = []
    for row in found["rows"]:
        ratio = "" if row["ratio"] is None or row["server"] == "Tidegate" else f"{row['ratio']:.1f} x"
        rows.append([row["title"], row["server"], f"{row['cpu_s_per_million']:.2f}", ratio,
                     f"{row['settled_cpu_s_per_million']:.2f}", f"{row['points_per_s'] / 1e3:,.0f} k", f"{row['peak_rss_mib']:.0f}",
                     f"{row['p99_ms']:.1f}"])
    head = ["pushed as", "into", "CPU s a million points", "", "flush and merge included", "points/s", "peak MiB", "request p99, ms"]
    return (f"**Ingest.** {found['points'] / 1e6:.1f} M points of 1,000 containers, 1,000 points a request, {found['connections']} "
            f"connections, medians of {found['rounds']} rounds ({where(found)}):\n\n{markdown(head, rows)}")


def queries(found):
    rows = []
    for row in found["rows"]:
        of_ours = lambda ratio: "" if row["server"] == "Tidegate" else f"{row[ratio]:.1f} x"
        rows.append([f"{row['query']} {row['title']}", row["server"], f"{row['in_a_row_ms']:.2f}", of_ours("ratio_in_a_row"),
                     f"{row['median_ms']:.2f}", of_ours("ratio"), f"{row['cpu_ms']:.2f}"])
    sizes = ", ".join(f"{name} {size:.2f}" for name, size in found["bytes_per_point"].items() if size is not None)
    return (f"**Questions.** Over {found['points'] / 1e6:.1f} M points, 12 h at 10 s, as of the newest sample, through HTTP, medians of "
            f"{found['runs']} runs, each about another container: in a row, and all six in turn with new samples before each "
            f"turn ({where(found)}):\n\n"
            f"{markdown(['', 'asked of', 'in a row, ms', '', 'in turn, ms', '', 'in turn, CPU ms'], rows)}\n\n"
            f"Bytes a point on disk of that set, everything included: {sizes or 'not measured'}.")


def soak(found):
    parts = ("middle_quiet", "last_quiet", "middle", "last")
    rows = [[row["title"], *(f"{row[part]:.2f}" for part in parts)] for row in found["rows"]]
    facts = found["facts"]
    return (f"**Soak.** {found['minutes']:g} minutes at {found['rate']:,} points/s of {found['containers']:,} containers with these "
            f"questions (over five minutes at most) and three rules a second: {facts['errors']} errors, {facts['lost']} samples lost, "
            f"{facts['cpu_share']:.2f} cores, peak memory {facts['peak_rss_mib']:.0f} MiB ({where(found)}):\n\n"
            f"{markdown(['', 'middle third, quiet', 'last third, quiet', 'middle third, median', 'last third, median'], rows)}\n\n"
            f"Quiet is the least memory, since it is a saw between flushes, and the lower quartile of times; a merge of "
            f"segments shows in the medians.")


LIMITS = {"peak": "fixed, fits the peak", "rules": "default rules", "mean": "fixed, what the rules took in the mean"}


def workloads(found):
    rows = []
    for row in found["rows"]:
        share = lambda kind: f"{100 * row[f'{kind}_used'] / row[f'{kind}_allocated']:.0f} %"
        rows.append([row["workload"], LIMITS[row["arm"]], f"{row['cores_allocated']:.2f}", share("cores"),
                     f"{row['memory_allocated'] / 2**20:.0f}", share("memory"), f"{row['done'] / row['seconds']:.0f}",
                     f"{row['seconds']:.1f}", f"{row['p50_ms']:.1f}", f"{row['p99_ms']:.1f}", row["oom_kills"]])
    head = ["in a container", "limits", "cores allocated", "used", "MiB allocated", "used", "requests/s", "run, s", "p50, ms", "p99, ms",
            "OOM kills"]
    return (f"**Workloads.** Containers of runc under loads that come and go between a twentieth and all of what one core does, "
            f"about {found['seconds']} s each: nginx that compresses pages under wrk, PostgreSQL with so many transactions to do "
            f"under pgbench, Redis that grows to 350 MiB, is emptied and grows again ({where(found)}):\n\n{markdown(head, rows)}")


def part(title, name, write, before):
    """One part of the section: from what was measured, or as it stands in the section `before`."""
    found = result(name)
    if found:
        return write(found)
    stands = re.search(rf"^\*\*{title}\.\*\*.*?(?=\n\n\*\*[A-Z]\w+\.\*\*|\Z)", before.strip(), re.DOTALL | re.MULTILINE)
    return stands.group() if stands else f"`tests/bench/run {name}` has not been run."


def section(before):
    parts = [("Ingest", "ingest", ingest), ("Questions", "queries", queries), ("Soak", "soak", soak),
             ("Workloads", "workloads", workloads)]
    return f"{BEGIN}\n" + "\n\n".join(part(*each, before) for each in parts) + f"\n{END}"


def main():
    path = ROOT / "README.md"
    text = path.read_text()
    before, begin, rest = text.partition(BEGIN)
    old, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"README.md has no section between '{BEGIN}' and '{END}'")
    if "--check" in sys.argv:
        print(section(old))
        return
    path.write_text(before + section(old) + after)
    print("README.md: performance section written")


if __name__ == "__main__":
    main()
