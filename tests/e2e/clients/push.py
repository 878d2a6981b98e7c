#!/usr/bin/env python3
"""Pushes to a running server as real clients do and checks with SQL what became of it.

    python3 -m venv VENV && VENV/bin/pip install -r requirements.txt
    VENV/bin/python push.py http://127.0.0.1:PORT

Prints `ok NAME` per check; stops at the first failure with what was expected and what came, and exits with 1.
Where the server wants a token, the environment variable TIDEGATE_TOKEN holds one that may push and read.
"""

import gzip
import json
import os
import sys
import time

import requests
from influxdb_client import InfluxDBClient, Point, WritePrecision
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException
from keystoneauth1 import noauth, session as keystone, token_endpoint
from monascaclient import client as monasca
from prometheus_remote_writer import RemoteWriter

MIB = 2**20
# BDWatchdog's feeder gives up after 3 s, and so do we.
TIMEOUT_S = 3


class Failure(Exception):
    pass


def expect(name, expected, found):
    if not same(expected, found):
        raise Failure(f"{name}\n  expected: {expected!r}\n  found:    {found!r}")
    print(f"ok {name}", flush=True)


def same(expected, found):
    """Equality, with floats equal to a relative 1e-9 and a callable as a question."""
    if callable(expected):
        return expected(found)
    if isinstance(expected, (list, tuple)):
        return (isinstance(found, (list, tuple)) and len(expected) == len(found)
                and all(same(e, f) for e, f in zip(expected, found)))
    if isinstance(expected, float) and isinstance(found, (int, float)):
        return abs(expected - found) <= 1e-9 * max(1.0, abs(expected))
    return expected == found


class Server:
    def __init__(self, base):
        self.base = base.rstrip("/")
        self.token = os.environ.get("TIDEGATE_TOKEN", "")
        self.http = requests.Session()
        if self.token:
            self.http.headers["Authorization"] = f"Bearer {self.token}"

    def rows(self, sql):
        answer = self.http.post(f"{self.base}/api/v1/sql", json={"sql": sql}, timeout=30)
        if answer.status_code != 200:
            raise Failure(f"query failed with {answer.status_code}: {answer.text}\n  {sql}")
        return answer.json()["rows"]

    def put(self, documents, query=""):
        """One request exactly as BDWatchdog's feeder sends it."""
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        body = gzip.compress(json.dumps(documents).encode())
        return self.http.post(f"{self.base}/api/put{query}", data=body, headers=headers, timeout=TIMEOUT_S)


def document(metric, at, value, **tags):
    """A document of the feeder: every field is a string, the time is in seconds."""
    return {"metric": metric, "timestamp": str(at), "value": value, "tags": tags}


def bdwatchdog(server, now, run):
    container, at = f"bdw-{run}", now - 10
    processes = {"4242": ("java", "45.00", "5.25", "1024.00"), "4243": ("kworker_slash_0_twodot_1-ev", "120.50", "0.25", "96.50")}
    documents = [document("sys.cpu.user", at, "45.00", host=container, core="0")]
    for pid, (command, user, kernel, resident) in processes.items():
        tags = {"host": container, "pid": pid, "command": command}
        documents += [
            document("proc.cpu.user", at, user, **tags),
            document("proc.cpu.kernel", at, kernel, **tags),
            document("proc.mem.resident", at, resident, **tags),
        ]
    answer = server.put(documents)
    expect("bdwatchdog: a plain put is answered 204 with an empty body", (204, b""), (answer.status_code, answer.content))

    usage = f"FROM usage WHERE container = '{container}' AND resource = "
    rows = server.rows(f"SELECT to_unixtime(time), value {usage}'cpu'")
    expect("bdwatchdog: usage is the sum of the processes, in cores", [[at, 1.71]], rows)
    rows = server.rows(f"SELECT value {usage}'memory'")
    expect("bdwatchdog: resident memory is in bytes", [[1120.5 * MIB]], rows)
    rows = server.rows(f"SELECT command, value FROM metric.\"proc.cpu.user\" WHERE host = '{container}' ORDER BY pid")
    expect("bdwatchdog: each process is a series with its tags", [["java", 45.0], ["kworker_slash_0_twodot_1-ev", 120.5]], rows)
    rows = server.rows(f"SELECT core, value FROM metric.\"sys.cpu.user\" WHERE host = '{container}'")
    expect("bdwatchdog: what is no usage is kept as pushed", [["0", 45.0]], rows)

    good = document("proc.cpu.user", at + 5, "70.00", host=container, pid="4242", command="java")
    bad = document("proc.cpu.user", at + 5, "nan%", host=container, pid="4243", command="java")
    answer = server.put([good, bad], "?details")
    expected = {"success": 1, "failed": 1, "errors": [
        {"datapoint": {**bad, "timestamp": at + 5}, "error": "Unable to parse value to a number"}]}
    expect("bdwatchdog: ?details names the bad point", (400, expected), (answer.status_code, answer.json()))
    rows = server.rows(f"SELECT pid, value FROM metric.\"proc.cpu.user\" WHERE host = '{container}'"
                       f" AND to_unixtime(time) = {at + 5}")
    expect("bdwatchdog: its good neighbour is stored", [["4242", 70.0]], rows)
    answer = server.put([good, bad])
    expect("bdwatchdog: a plain put with a bad point is answered 400, which the feeder takes for done",
           (400, "One or more data points had errors"), (answer.status_code, answer.json()["error"]["message"]))

    answer = server.put([])
    expect("bdwatchdog: the empty batch at the end of its input is harmless", (204, b""),
           (answer.status_code, answer.content))

    snapshot = [{"metric": "structure.cpu.current", "value": 200, "timestamp": at, "tags": {"structure": container}},
                {"metric": "structure.cpu.usage", "value": 312.47, "timestamp": at + 0.8, "tags": {"structure": container}}]
    answer = server.put(snapshot, "?details")
    expect("serverless containers: numbers without quotes and float seconds are understood",
           (200, {"success": 2, "failed": 0, "errors": []}), (answer.status_code, answer.json()))
    rows = server.rows(f"SELECT to_unixtime(time), value FROM metric.\"structure.cpu.usage\" WHERE structure = '{container}'")
    expect("serverless containers: float seconds are cut", [[at, 312.47]], rows)


def monasca_client(server, now, run):
    endpoint, host = f"{server.base}/v2.0", f"mon-{run}"
    if server.token:
        auth = token_endpoint.Token(endpoint, server.token)
    else:
        auth = noauth.NoAuth(endpoint=endpoint)
    client = monasca.Client("2_0", session=keystone.Session(auth=auth), endpoint=endpoint)

    answer = client.metrics.create(name="e2e.cpu.percent", dimensions={"hostname": host, "service": "a b"}, value=12.5,
                                   timestamp=now * 1000 - 4750, value_meta={"unit": "%"})
    expect("monasca client: one metric is answered 204", 204, answer.status_code)
    rows = server.rows(f"SELECT service, value FROM metric.\"e2e.cpu.percent\" WHERE hostname = '{host}'"
                       f" AND time = to_timestamp_millis({now * 1000 - 4750})")
    expect("monasca client: it is found with its dimensions and its milliseconds", [["a b", 12.5]], rows)

    batch = [{"name": "e2e.load", "dimensions": {"hostname": host}, "timestamp": (now - n) * 1000, "value": n + 0.5}
             for n in range(3)]
    answer = client.metrics.create(jsonbody=batch)
    expect("monasca client: a batch is answered 204", 204, answer.status_code)
    rows = server.rows(f"SELECT value FROM metric.\"e2e.load\" WHERE hostname = '{host}' ORDER BY time")
    expect("monasca client: all of the batch is found", [[2.5], [1.5], [0.5]], rows)

    refused = [{**batch[0], "name": "e2e.never"}, {**batch[0], "name": "bad name"}]
    try:
        client.metrics.create(jsonbody=refused)
        raise Failure("monasca client: a batch with an invalid name was accepted")
    except keystone.exceptions.HttpError as error:
        description = "metric 1: invalid characters in metric name: bad name"
        expect("monasca client: an invalid metric is refused with its index", (422, "Unprocessable Entity (HTTP 422)", description),
               (error.http_status, error.message, error.details))
    rows = server.rows("SELECT count(*) FROM samples WHERE metric = 'e2e.never'")
    expect("monasca client: then nothing of the batch is stored", [[0]], rows)


def influx_client(server, now, run):
    host = f"influx-{run}"
    with InfluxDBClient(url=server.base, token=server.token or "none", org="any", enable_gzip=True) as client:
        expect("influx client: ping", True, client.ping())
        write = client.write_api(write_options=SYNCHRONOUS)
        points = [
            Point("e2e disk").tag("host", host).tag("path", "/var, lib=a b").field("used", 17).field("value", 2.5)
            .field("ok", True).field("note", 'a "quoted", text').time(now * 1000 - 2250, WritePrecision.MS),
            Point("e2e disk").tag("host", host).tag("path", "/").field("used", 0.1).time(now - 3, WritePrecision.S),
        ]
        write.write("any", "any", points)
        rows = server.rows(f"SELECT path, value FROM metric.\"e2e disk.used\" WHERE host = '{host}' ORDER BY time")
        expect("influx client: fields are metrics, escaped tags come back", [["/", 0.1], ["/var, lib=a b", 17.0]], rows)
        rows = server.rows("SELECT metric, value FROM samples WHERE metric LIKE 'e2e disk%' AND "
                           f"time = to_timestamp_millis({now * 1000 - 2250}) ORDER BY metric")
        expect("influx client: the field 'value' is the measurement, booleans are 0 or 1, texts are left out",
               [["e2e disk", 2.5], ["e2e disk.ok", 1.0], ["e2e disk.used", 17.0]], rows)
        try:
            write.write("any", "any", "e2e_bad,host=x value=")
            raise Failure("influx client: a line without a value was accepted")
        except ApiException as error:
            expect("influx client: its error is that of the API", (400, "invalid"),
                   (error.status, json.loads(error.body)["code"]))

    lines = f"e2e_lines,host={host} value=1i {now}\ne2e_lines,host={host} value=x {now - 1}\ne2e_lines,host={host} value=3 {now - 2}\n"
    answer = server.http.post(f"{server.base}/write?db=any&precision=s", data=lines.encode(), timeout=TIMEOUT_S)
    expect("influx lines: a bad line is named by its number",
           (400, {"error": "partial write: line 2: field 'value': 'x' is no number dropped=1"}),
           (answer.status_code, answer.json()))
    rows = server.rows(f"SELECT value FROM metric.e2e_lines WHERE host = '{host}' ORDER BY time")
    expect("influx lines: the good ones are stored", [[3.0], [1.0]], rows)


def prometheus_client(server, now, run):
    instance = f"prom-{run}"
    auth = {"bearer_token": server.token} if server.token else None
    writer = RemoteWriter(url=f"{server.base}/api/v1/write", auth=auth, retries=0, timeout=TIMEOUT_S)
    series = [
        {"metric": {"__name__": "e2e_up", "instance": instance, "job": "a b"}, "values": [1, 0.5],
         "timestamps": [now * 1000 - 4750, now * 1000]},
        {"metric": {"__name__": "e2e_total", "instance": instance}, "values": [1e9], "timestamps": [now * 1000]},
    ]
    for _ in range(3):  # the later ones are recognised by their bytes
        answer = writer.send(series).last_response
        expect("prometheus client: a write is answered 204", (204, "3"),
               (answer.status_code, answer.headers.get("X-Prometheus-Remote-Write-Samples-Written")))
    rows = server.rows(f"SELECT job, value FROM metric.e2e_up WHERE instance = '{instance}' ORDER BY time")
    expect("prometheus client: labels are tags, times are in milliseconds", [["a b", 1.0], ["a b", 0.5]], rows)
    rows = server.rows(f"SELECT value FROM metric.e2e_total WHERE instance = '{instance}'")
    expect("prometheus client: the other series is there", [[1e9]], rows)
    series[1]["values"] = [float("nan")]
    try:
        writer.send(series)
        raise Failure("prometheus client: a value that is no number was accepted")
    except RuntimeError as error:
        expect("prometheus client: it is refused by name", True, "e2e_total" in str(error) and "not a number" in str(error))


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    server, now = Server(sys.argv[1]), int(time.time())
    # Names of this run, so that it may be repeated against a server that keeps its data.
    run = f"{now:x}-{os.getpid():x}"
    try:
        bdwatchdog(server, now, run)
        monasca_client(server, now, run)
        influx_client(server, now, run)
        prometheus_client(server, now, run)
    except Failure as failure:
        sys.exit(f"FAILED {failure}")


if __name__ == "__main__":
    main()
