// A page that is open while its server ends and is started again.
//   TIDEGATE=../../target/debug/tidegate node e2e/restart.mjs
// CHROMIUM  the browser's executable
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { chromium } from 'playwright-core';

const WAIT_MS = 60_000;
const port = await new Promise((found) => {
  const taken = createServer().listen(0, '127.0.0.1', () => {
    const { port } = taken.address();
    taken.close(() => found(port));
  });
});
const BASE = `http://127.0.0.1:${port}/`;

let server = null;
async function start() {
  const args = ['demo', '--simulate', '--listen', `127.0.0.1:${port}`, '--seconds', '300'];
  server = spawn(process.env.TIDEGATE ?? '../../target/debug/tidegate', args, { stdio: 'ignore' });
  await until(
    () =>
      fetch(`${BASE}health`).then(
        (answer) => answer.ok,
        () => false,
      ),
    (ok) => ok,
    'the server does not begin',
  );
}
async function stop() {
  const ended = once(server, 'exit');
  server.kill('SIGTERM');
  await ended;
}

async function until(read, good, what) {
  const end = Date.now() + WAIT_MS;
  let value;
  do {
    value = await read();
    if (good(value)) return value;
    await new Promise((done) => setTimeout(done, 100));
  } while (Date.now() < end);
  throw new Error(`${what}; it is ${JSON.stringify(value)}`);
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu'],
});
try {
  await start();
  const page = await browser.newPage();
  await page.goto(`${BASE}#/`);
  await page.waitForSelector('[data-container]');
  const state = () => page.getAttribute('[data-live]', 'data-live');
  const newest = async () => Number(await page.getAttribute('[data-sparks]', 'data-last-t'));
  await until(state, (now) => now === 'live', 'the stream is not live');
  const before = await until(newest, (t) => t > 0, 'there are no charts');
  await stop();
  await until(state, (now) => now !== 'live', 'a page without a server is called live');
  await start();
  await until(state, (now) => now === 'live', 'the page does not find the server again');
  await until(newest, (t) => t > before, 'the charts do not go on');
  // The address that was open is still the one that is.
  if (page.url() !== `${BASE}#/`) throw new Error(`the page went to ${page.url()}`);
  console.log('ok a page is live again after a restart of its server');
} finally {
  await browser.close();
  if (server !== null && server.exitCode === null) await stop();
}
