/** How data is sent to this server: the protocols that it accepts, and for each what to copy. */
import { quoted } from './clipboard';

export const PROTOCOL_NAMES = ['influx', 'prometheus', 'opentsdb', 'monasca'] as const;
export type ProtocolName = (typeof PROTOCOL_NAMES)[number];

export interface Snippet {
  tool: string;
  /** Where it goes: a shell, or a file of that name. */
  place: string;
  text: string;
}

export interface Protocol {
  name: ProtocolName;
  title: string;
  /** Method and path that take it. */
  routes: string[];
  about: string;
  /** Whether a body is bytes that nobody types. */
  binary: boolean;
  snippets: (server: string, token: boolean) => Snippet[];
  /** A body to start from, of about `now`. */
  example: (now: number) => string;
}

/** Units of the line protocol's timestamps, as the server names them. */
export const PRECISIONS = ['ns', 'us', 'ms', 's'] as const;
export type Precision = (typeof PRECISIONS)[number];

const shell = (text: string): Snippet => ({ tool: 'curl', place: 'shell', text });
const header = (token: boolean) => (token ? ` -H "Authorization: Bearer $TIDEGATE_TOKEN"` : '');

function python(url: string, body: string[], token: boolean): Snippet {
  const auth = token ? `, "Authorization": "Bearer " + os.environ["TIDEGATE_TOKEN"]` : '';
  const text = [
    `import json, ${token ? 'os, ' : ''}time, urllib.request`,
    '',
    ...body,
    `request = urllib.request.Request(${JSON.stringify(url)}, json.dumps(points).encode(),`,
    `                                 {"Content-Type": "application/json"${auth}})`,
    'urllib.request.urlopen(request)',
  ].join('\n');
  return { tool: 'Python', place: 'send.py', text };
}

const OPENTSDB = (now: number) =>
  JSON.stringify({
    metric: 'queue.depth',
    timestamp: Math.floor(now / 1000),
    value: 12,
    tags: { host: 'node0', container: 'web' },
  });
const MONASCA = (now: number) =>
  JSON.stringify({
    name: 'queue.depth',
    timestamp: Math.floor(now),
    value: 12,
    dimensions: { host: 'node0', container: 'web' },
  });

/** Each takes gzip, too; what they answer is what clients of the protocol expect. */
export const PROTOCOLS: Protocol[] = [
  {
    name: 'influx',
    title: 'Influx line protocol',
    routes: ['POST /api/v2/write', 'POST /write'],
    about:
      'Telegraf and every InfluxDB client, version 1 or 2. Each field with a number is a metric of its own, named measurement.field; texts are passed over.',
    binary: false,
    snippets: (server, token) => [
      shell(
        `curl -i${header(token)} ${quoted(`${server}/api/v2/write?precision=s`)} \\\n  --data-binary "queue,host=node0,container=web depth=12 $(date +%s)"`,
      ),
      {
        tool: 'Telegraf',
        place: 'telegraf.conf',
        text: [
          '[[outputs.influxdb_v2]]',
          `  urls = [${JSON.stringify(server)}]`,
          `  token = "${token ? '$TIDEGATE_TOKEN' : ''}"`,
          '  organization = "tidegate"  # any; it is not looked at',
          '  bucket = "tidegate"',
        ].join('\n'),
      },
    ],
    example: (now) => {
      const s = Math.floor(now / 1000);
      return `queue,host=node0,container=web depth=12,workers=4i ${s}\nqueue,host=node0,container=cart depth=3,workers=2i ${s}`;
    },
  },
  {
    name: 'prometheus',
    title: 'Prometheus remote write',
    routes: ['POST /api/v1/write'],
    about:
      'Prometheus, its agent mode, vmagent, Grafana Alloy, the OpenTelemetry collector: versions 1.0 and 2.0. Samples are kept; histograms and exemplars are passed over.',
    binary: true,
    snippets: (server, token) => [
      {
        tool: 'Prometheus',
        place: 'prometheus.yml',
        text: [
          'remote_write:',
          `  - url: ${server}/api/v1/write`,
          ...(token ? ['    authorization:', '      credentials_file: /etc/prometheus/tidegate.token'] : []),
        ].join('\n'),
      },
      {
        tool: 'vmagent',
        place: 'shell',
        text: `vmagent -promscrape.config=scrape.yml \\\n  -remoteWrite.url=${server}/api/v1/write${token ? ' \\\n  -remoteWrite.bearerTokenFile=/etc/tidegate/push.token' : ''}`,
      },
    ],
    example: () => '',
  },
  {
    name: 'opentsdb',
    title: 'OpenTSDB JSON',
    routes: ['POST /api/put'],
    about:
      "OpenTSDB 2 as BDWatchdog's feeder and Serverless Containers speak it: a point or an array of points; ?summary and ?details tell what became of them.",
    binary: false,
    snippets: (server, token) => [
      shell(
        `curl -i${header(token)} ${quoted(`${server}/api/put?details`)} \\\n  -H 'Content-Type: application/json' \\\n  -d '{"metric": "queue.depth", "timestamp": '"$(date +%s)"', "value": 12,\n       "tags": {"host": "node0", "container": "web"}}'`,
      ),
      python(
        `${server}/api/put`,
        [
          'points = [{"metric": "queue.depth", "timestamp": int(time.time()), "value": 12,',
          '           "tags": {"host": "node0", "container": "web"}}]',
        ],
        token,
      ),
    ],
    example: (now) => `[\n  ${OPENTSDB(now)},\n  ${OPENTSDB(now - 1000)}\n]`,
  },
  {
    name: 'monasca',
    title: 'Monasca',
    routes: ['POST /v2.0/metrics'],
    about:
      'OpenStack Monasca as Asperathos speaks it: a metric or an array of metrics, of which all are taken or none; the token may come as X-Auth-Token.',
    binary: false,
    snippets: (server, token) => [
      shell(
        `curl -i${token ? ' -H "X-Auth-Token: $TIDEGATE_TOKEN"' : ''} ${quoted(`${server}/v2.0/metrics`)} \\\n  -H 'Content-Type: application/json' \\\n  -d '{"name": "queue.depth", "timestamp": '"$(date +%s)"'000, "value": 12,\n       "dimensions": {"host": "node0", "container": "web"}}'`,
      ),
      python(
        `${server}/v2.0/metrics`,
        [
          'points = [{"name": "queue.depth", "timestamp": int(time.time() * 1000), "value": 12,',
          '           "dimensions": {"host": "node0", "container": "web"}}]',
        ],
        token,
      ),
    ],
    example: (now) => `[\n  ${MONASCA(now)},\n  ${MONASCA(now - 1000)}\n]`,
  },
];

export const protocolOf = (name: string | undefined): Protocol =>
  PROTOCOLS.find((protocol) => protocol.name === name) ?? (PROTOCOLS[0] as Protocol);

/** Where in a text a line begins and ends; the first is 1. */
export function lineRange(text: string, line: number): [number, number] {
  const lines = text.split('\n');
  const at = Math.min(Math.max(1, line), lines.length) - 1;
  const start = lines.slice(0, at).reduce((sum, one) => sum + one.length + 1, 0);
  return [start, start + (lines[at]?.length ?? 0)];
}

/** Tags as one reads them in a query: `host=node0 container=web`. */
export const tagText = (tags: Record<string, string>) =>
  Object.entries(tags)
    .map(([key, value]) => `${key}=${value}`)
    .join(' ');
