// How quick the dashboard is, in Chromium without a GPU. A quiet machine, or the figures are of its other work.
//   COPIES=8 npm run mock                                  # a fleet of 112 containers
//   BASE_URL=http://127.0.0.1:8499/ node e2e/speed.mjs
import { loadavg } from 'node:os';
import { chromium } from 'playwright-core';

const BASE = (process.env.BASE_URL ?? 'http://127.0.0.1:8499/').replace(/\/?$/, '/');
const RUNS = 5;
const WATCHED_MS = 6_000;
const POINTS = 50_000;

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu'],
});
const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
const told = (values) => `${Math.round(median(values))} ms in the middle of ${values.map(Math.round).join(', ')}`;

/** A browser that was never here. */
async function fresh(script) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
  const page = await context.newPage();
  if (script) await page.addInitScript(...script);
  return page;
}

/** From asking for the address to something painted, and to every card of the fleet being there. */
async function firstPaint() {
  const [paints, cards] = [[], []];
  for (let run = 0; run < RUNS; run += 1) {
    const page = await fresh();
    await page.goto(BASE);
    await page.waitForSelector('[data-container]');
    cards.push(await page.evaluate(() => performance.now()));
    paints.push(await page.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0].startTime));
    await page.context().close();
  }
  console.log(`first paint: ${told(paints)}`);
  console.log(`fleet shown: ${told(cards)}`);
}

/** Frames while all cards follow the present; each has two charts on the one canvas. */
async function frames() {
  const page = await fresh();
  await page.setViewportSize({ width: 1920, height: 4000 });
  await page.goto(BASE);
  await page.waitForSelector('[data-container]');
  await page.waitForTimeout(3_000);
  const charts = await page.locator('[data-spark]').count();
  const gaps = await page.evaluate(
    (ms) =>
      new Promise((done) => {
        const gaps = [];
        const [begin, seen] = [performance.now(), { at: performance.now() }];
        const frame = (now) => {
          gaps.push(now - seen.at);
          seen.at = now;
          if (now - begin < ms) requestAnimationFrame(frame);
          else done(gaps.slice(1));
        };
        requestAnimationFrame(frame);
      }),
    WATCHED_MS,
  );
  const sorted = gaps.toSorted((a, b) => a - b);
  const fps = (1000 * gaps.length) / gaps.reduce((sum, gap) => sum + gap, 0);
  const p99 = sorted[Math.floor(sorted.length * 0.99)];
  console.log(
    `${charts} live charts: ${fps.toFixed(1)} fps, p99 ${p99.toFixed(1)} ms, worst ${sorted.at(-1).toFixed(1)} ms`,
  );
  await page.context().close();
}

/** The page of a container whose series is answered from memory, so that what is timed is the page's own work. */
async function largeChart() {
  const answered = (points) => {
    const real = window.fetch;
    const column = (make) => Array.from({ length: points }, (_, at) => make(at));
    const now = Date.now();
    const nothing = column(() => null);
    const body = JSON.stringify({
      step_ms: 1000,
      t: column((at) => now - 1000 * (points - at)),
      cpu: {
        usage: column((at) => 1 + Math.sin(at / 300) + Math.sin(at * 12.9898) / 4),
        usage_max: nothing,
        limit: column((at) => 2.5 + Math.floor(Math.sin(at / 900) * 4) / 8),
        upper: column((at) => 2.2 + Math.floor(Math.sin(at / 900) * 4) / 8),
        lower: column((at) => 1.9 + Math.floor(Math.sin(at / 900) * 4) / 8),
        throttled: nothing,
      },
      memory: {
        usage: nothing,
        usage_max: nothing,
        limit: nothing,
        upper: nothing,
        lower: nothing,
        oom_kills: nothing,
      },
    });
    window.fetch = (url, init) =>
      String(url).includes('/series?') ? Promise.resolve(new Response(body)) : real(url, init);
  };
  const times = [];
  for (let run = 0; run < RUNS; run += 1) {
    const page = await fresh([answered, POINTS]);
    await page.goto(BASE);
    const id = await page.getAttribute('[data-container]', 'data-container');
    const [to, from] = [Date.now(), Date.now() - 1000 * POINTS];
    // Once before, so that the script of the page is there.
    await page.goto(`${BASE}#/c/${id}`);
    await page.waitForSelector('[data-chart="cpu"] canvas');
    await page.goto(`${BASE}#/status`);
    await page.waitForSelector('[data-status]');
    times.push(
      await page.evaluate(
        (hash) =>
          new Promise((done) => {
            const begin = performance.now();
            location.hash = hash;
            const look = () =>
              document.querySelector('[data-chart="cpu"] canvas')
                ? requestAnimationFrame(() => done(performance.now() - begin))
                : requestAnimationFrame(look);
            requestAnimationFrame(look);
          }),
        `#/c/${id}?from=${from}&to=${to}`,
      ),
    );
    await page.context().close();
  }
  console.log(`${POINTS} x 4 points: ${told(times)}`);
}

console.log(`load ${loadavg()[0].toFixed(1)}`);
await firstPaint();
await frames();
await largeChart();
await browser.close();
