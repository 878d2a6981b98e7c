#!/usr/bin/env python3
"""Pushes awkward values to a running server, waits until they are in segments, and reads those with DuckDB and pyarrow.

    VENV/bin/python segments.py http://127.0.0.1:PORT DATA_DIR/store/segments

The server must flush soon: --store-flush-every-s 1 --store-hot-s 0. Prints `ok NAME` per check; exits with 1 at the first
that fails. What `in_duckdb` does is the documented way to read segments without Tidegate.
"""

import glob
import json
import math
import os
import random
import struct
import sys
import time
import urllib.request

import duckdb
import pyarrow.parquet

WAIT_S = 60


def bits(value):
    """A float as its bits: 0.0 and -0.0 are equal as numbers, and must not be here."""
    return struct.pack("<d", value).hex()


def samples(now_ms, seed=5):
    """(metric, tags, time in ms, value) of every kind of number that an encoding may treat in a way of its own."""
    draw = random.Random(seed)
    gauge, counter = 50.0, 2**53 - 3000
    kinds = {"gauge.two_decimals": [], "counter.whole": [], "gauge.all_digits": [], "decimals.mixed": [],
             "two_decimals.one_odd": [], "zeros.both_signs": [], "constant": [], "bursts": []}
    for at in range(400):
        gauge = round(min(max(gauge + draw.uniform(-8, 8), 0), 400), 2)
        counter = 0 if at == 250 else counter + draw.randrange(40)
        kinds["gauge.two_decimals"].append(gauge)
        kinds["counter.whole"].append(float(counter))
        kinds["gauge.all_digits"].append(draw.gauss(0, 1e3))
        kinds["decimals.mixed"].append(round(draw.uniform(-1e4, 1e4), at % 7))
        kinds["two_decimals.one_odd"].append(math.pi if at == 200 else gauge)
        kinds["zeros.both_signs"].append([0.0, -0.0, 0.01, -0.01][at % 4])
        kinds["constant"].append(42.0)
        kinds["bursts"].append(round(draw.uniform(0, 200), 2) if at % 20 < 3 else 0.0)
    kinds["awkward"] = [
        0.0, -0.0, 5e-324, -5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, -1.7976931348623157e308, 0.1 + 0.2,
        1 / 3, 2.0**53, 2.0**53 + 2, -(2.0**53), 2.0**63, -(2.0**63), 2.0**64, 1e15 + 0.3, 1e-7, 123456789.12345679, 0.07,
        1.005, 4.35, 0.285, 1e22, 1e23, 92233720368547758.07, 90071992547409.93, 1e300, 1e-300, 4503599627370496.5]
    # What a JSON text and a line have to escape, and tags that only some series have.
    tags = [{"container": "a"}, {"container": 'quote"and\\slash é', "host": "n1"}, {"container": "b", "app": "x=y, z"}]
    for metric, values in kinds.items():
        for number, tag in enumerate(tags):
            at = now_ms - 3_600_000
            for value in values:
                at += 1_000 if metric != "gauge.all_digits" else draw.randrange(1, 9_000)
                yield metric, tag, at, value + number if metric == "gauge.two_decimals" else value


def line(metric, tags, at, value):
    def escaped(text):
        return "".join("\\" + c if c in ",= " else c for c in text)
    keys = "".join(f",{key}={escaped(text)}" for key, text in sorted(tags.items()))
    return f"{metric}{keys} value={value!r} {at}"


def push(base, rows):
    body = "\n".join(line(*row) for row in rows).encode()
    with urllib.request.urlopen(f"{base}/write?precision=ms", data=body, timeout=30) as answer:
        assert answer.status == 204, answer.read()


def wait_for_flush(base):
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        with urllib.request.urlopen(f"{base}/api/v1/status", timeout=30) as answer:
            if json.load(answer)["store"]["hot_samples"] == 0:
                return
        time.sleep(0.2)
    sys.exit(f"FAILED nothing was flushed within {WAIT_S} s")


def value_expression(columns):
    """A value is kept as a double, or as a whole number of `scale` decimals where that gives the same double."""
    return "coalesce(value, scaled / pow(10, scale))" if "scaled" in columns else "value"


def in_duckdb(files):
    """The samples of the segments; where two files have the same one, the later counts."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    columns = [row[0] for row in connection.execute("DESCRIBE SELECT * FROM read_parquet($1)", [files]).fetchall()]
    return connection.execute(
        f"""SELECT metric, tags, epoch_ms(time), {value_expression(columns)}
            FROM read_parquet($1, filename = true)
            QUALIFY row_number() OVER (PARTITION BY series, time ORDER BY filename DESC) = 1""", [files]).fetchall()


def in_pyarrow(files):
    rows = {}
    for file in sorted(files):
        for row in pyarrow.parquet.read_table(file).to_pylist():
            value = row.get("value")
            if value is None:
                value = row["scaled"] / 10.0 ** row["scale"]
            rows[row["series"], row["time"]] = (row["metric"], row["tags"], round(row["time"].timestamp() * 1000), value)
    return list(rows.values())


def compare(name, expected, rows):
    found = {(metric, json.dumps(json.loads(tags), sort_keys=True), at): bits(value) for metric, tags, at, value in rows}
    if len(found) != len(rows):
        sys.exit(f"FAILED {name}: {len(rows) - len(found)} rows are there twice")
    wrong = [(key, expected.get(key), found.get(key)) for key in sorted(expected.keys() | found.keys())
             if expected.get(key) != found.get(key)]
    if wrong:
        sys.exit(f"FAILED {name}: {len(wrong)} of {len(expected)} differ (key, pushed, read), the first: {wrong[:5]}")
    print(f"ok {name}: {len(found)} samples, every bit", flush=True)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    base, directory = sys.argv[1].rstrip("/"), sys.argv[2]
    rows = list(samples(int(time.time()) * 1000))
    expected = {(metric, json.dumps(tags, sort_keys=True), at): bits(value) for metric, tags, at, value in rows}
    # The second half of the times first: late samples go to a segment of their own until they are merged.
    middle = sorted(row[2] for row in rows)[len(rows) // 2]
    for half in ([row for row in rows if row[2] >= middle], [row for row in rows if row[2] < middle]):
        push(base, half)
        wait_for_flush(base)
    files = sorted(glob.glob(os.path.join(directory, "*-samples.parquet")))
    compare("duckdb", expected, in_duckdb(files))
    compare("pyarrow", expected, in_pyarrow(files))


if __name__ == "__main__":
    main()
