// What a person does with the dashboard, done by a browser against a running server.
//   BASE_URL=http://127.0.0.1:8499/ SHOTS=/tmp/shots node e2e/journeys.mjs
// BASE_URL  where the dashboard is       SHOTS  where screenshots go (none without)
// CHROMIUM  the browser's executable     TOKEN  signs in with it      ONLY  runs journeys whose name contains it
import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AxeBuilder } from '@axe-core/playwright';
import { chromium } from 'playwright-core';

const BASE = (process.env.BASE_URL ?? 'http://127.0.0.1:8499/').replace(/\/?$/, '/');
const SHOTS = process.env.SHOTS ?? '';
const ONLY = process.env.ONLY ?? '';
const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];
const TIMEOUT = 15_000;

const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
if (!existsSync(executablePath)) {
  console.log(`SKIPPED every journey: there is no browser at ${executablePath}`);
  process.exit(0);
}

const profile = mkdtempSync(join(tmpdir(), 'tidegate-e2e-'));
const context = await chromium.launchPersistentContext(profile, {
  executablePath,
  headless: true,
  args: FLAGS,
  viewport: { width: 1440, height: 900 },
  colorScheme: 'light',
});
context.setDefaultTimeout(TIMEOUT);
const page = context.pages()[0] ?? (await context.newPage());

const noise = [];
page.on(
  'console',
  (message) =>
    ['error', 'warning'].includes(message.type()) && noise.push(`console ${message.type()}: ${message.text()}`),
);
page.on('pageerror', (error) => noise.push(`page error: ${error.message}`));
page.on('request', (request) => {
  const url = request.url();
  if (!url.startsWith(BASE) && !url.startsWith('data:') && !url.startsWith('blob:'))
    noise.push(`request outside the dashboard: ${url}`);
});
page.on('response', (response) => {
  if (response.status() >= 400 && !expected.some((pattern) => pattern.test(response.url())))
    noise.push(`${response.status()} ${response.url()}`);
});
// Addresses that a journey makes fail on purpose.
let expected = [];

function check(condition, what) {
  if (!condition) throw new Error(what);
}

async function until(read, good, what) {
  const end = Date.now() + TIMEOUT;
  let value;
  do {
    value = await read();
    if (good(value)) return value;
    await page.waitForTimeout(100);
  } while (Date.now() < end);
  throw new Error(`${what}; it is ${JSON.stringify(value)}`);
}

const open = async (hash) => {
  await page.goto(`${BASE}${hash}`);
  await page.waitForSelector('main[data-page]');
};
const attribute = (selector, name) => async () => page.getAttribute(selector, name);
const isLive = () =>
  until(attribute('[data-live]', 'data-live'), (state) => state === 'live', 'the stream is not live');
const someDecision = () => page.waitForSelector('[data-decisions] tbody tr[data-decision]', { timeout: 60_000 });

async function accessible(what) {
  const { violations } = await new AxeBuilder({ page }).analyze();
  const told = violations.map(
    (one) =>
      `${one.id}: ${one.nodes
        .slice(0, 3)
        .map((node) => node.target.join(' '))
        .join('; ')}`,
  );
  check(told.length === 0, `${what}: ${told.join(' | ')}`);
}

/** What is on the page only after something was done, in both themes. */
async function accessibleNow(what) {
  for (const theme of ['dark', 'light']) {
    await page.emulateMedia({ colorScheme: theme });
    await page.waitForTimeout(300);
    await accessible(`${what}, ${theme}`);
  }
}

async function typeInto(text) {
  await page.click('[data-editor] .cm-content');
  await page.keyboard.press('Control+a');
  await page.keyboard.insertText(text);
}

const journeys = {
  async 'the fleet is live and moves'() {
    await open('#/');
    await isLive();
    await page.waitForSelector('[data-container]');
    const before = Number(await attribute('[data-sparks]', 'data-last-t')());
    await until(
      attribute('[data-sparks]', 'data-last-t'),
      (t) => Number(t) > before && before >= 0 && Number(t) > 0,
      'the sparklines do not move',
    );
    const painted = () =>
      page.evaluate(() => {
        const canvas = document.querySelector('[data-sparks]');
        const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        let dots = 0;
        for (let at = 3; at < data.length; at += 4) if (data[at] > 0) dots += 1;
        return dots;
      });
    // The minutes before come a moment after the first second.
    await until(painted, (dots) => dots > 500, 'the canvas holds hardly a painted dot');
  },

  async 'the kill switch is turned on, seen and turned off'() {
    await open('#/');
    await isLive();
    await page.keyboard.press('Shift+F');
    await page.fill('dialog input', 'a journey');
    await page.click('[data-freeze]');
    await page.waitForSelector('[data-frozen] >> text=a journey');
    check((await page.locator('button.freeze').count()) === 0, 'it can be frozen twice');
    await open('#/rules');
    await page.waitForSelector('[data-frozen]');
    await page.click('[data-frozen] >> text=Thaw');
    await page.waitForSelector('[data-frozen]', { state: 'detached' });
    await page.waitForSelector('button.freeze');
  },

  async 'a rule is tried on the stored history'() {
    await open('#/rules/cpu_down');
    await page.waitForSelector('[data-verdict="ok"]');
    await page.click('[data-backtest] >> text="1h"');
    await page.waitForSelector('[data-backtest="done"]', { timeout: 120_000 });
    const table = await page.textContent('[data-backtest] table');
    check(table.includes('unmet demand') && table.includes('memory'), `the figures are missing: ${table}`);
    // The rule as it stands, on top of itself, makes no difference.
    check(
      (await page.locator('[data-backtest] .worse, [data-backtest] .better').count()) === 0,
      'it differs from itself',
    );
    // One limit over that time: first that with most changes, another by keyboard, and as a table.
    await page.waitForSelector('[data-course] [data-plot] canvas');
    const first = await attribute('[data-course]', 'data-course')();
    check((await page.textContent('[data-course-text]')).includes('Used at most'), 'the chart is not told in words');
    await accessibleNow('the chart of a backtest');
    await page.focus('[data-course-of]');
    await page.keyboard.press('ArrowDown');
    await until(attribute('[data-course]', 'data-course'), (now) => now !== first, 'no other limit can be chosen');
    await page.waitForSelector('[data-course] [data-plot] canvas');
    await page.focus('[data-course] [data-as-table]');
    await page.keyboard.press('Enter');
    await page.waitForSelector('[data-course] tbody tr');
    await accessibleNow('its table');
  },

  async 'the first steps tick themselves off, are dismissed and come back'() {
    await open('#/');
    await isLive();
    // Dismissed or not by what came before, and whether or not this is a demo.
    await page.keyboard.press('?');
    await page.click('[data-first-steps-again]');
    await page.waitForSelector('[data-first-steps="0"]');
    const done = (step) => attribute(`[data-step="${step}"]`, 'data-done');
    await until(done('watch'), (is) => is === 'true', 'watching is no step');
    await page.click('[data-step="explain"] a');
    await page.waitForSelector('[data-sentence]');
    await open('#/');
    await until(done('explain'), (is) => is === 'true', 'asking why is no step');
    await page.click('[data-step="rule"] a');
    await page.waitForSelector('[data-verdict="ok"]');
    await page.click('[data-editor] .cm-content');
    await page.keyboard.press('Control+End');
    await page.keyboard.type(' -- mine');
    await page.waitForTimeout(600);
    await page.waitForSelector('[data-verdict="ok"]');
    await page.waitForTimeout(300);
    await open('#/');
    await until(done('rule'), (is) => is === 'true', 'changing a rule is no step');
    await context.grantPermissions(['clipboard-read', 'clipboard-write']);
    await page.focus('[data-step="send"] button');
    await page.keyboard.press('Enter');
    await until(done('send'), (is) => is === 'true', 'copying the command is no step');
    const copied = await page.evaluate(() => navigator.clipboard.readText());
    check(copied.includes('curl') && copied.includes(`${BASE}write`), `copied is ${copied}`);
    await page.waitForSelector('[data-first-steps="4"] >> text=That is all of it');
    await page.focus('[aria-label="Dismiss the first steps"]');
    await page.keyboard.press('Enter');
    await page.waitForSelector('[data-first-steps]', { state: 'detached' });
    await page.reload();
    await isLive();
    check((await page.locator('[data-first-steps]').count()) === 0, 'it does not stay dismissed');
    await page.evaluate(() => localStorage.removeItem('tidegate.firststeps'));
    await page.reload();
    await isLive();
  },

  async 'trouble and hosts stand beside the fleet'() {
    await open('#/');
    await isLive();
    await page.waitForSelector('[data-alarms]');
    await page.waitForSelector('[data-host-bars] li');
    const text = await page.textContent('[data-host-bars] .bar');
    check(/used, .* allocated of .*cores/.test(text), `a bar says ${text}`);
    await page.click('[data-host-bars] li a');
    await page.waitForSelector('[data-container]');
    check(decodeURIComponent(page.url()).includes('q=host:'), 'a host does not lead to its containers');
  },

  async 'filter and list show the same containers'() {
    await open('#/');
    await isLive();
    const name = (await page.textContent('[data-container] .name')).trim();
    await page.keyboard.press('/');
    await page.keyboard.type(name);
    await until(
      () => page.locator('[data-container]').count(),
      (n) => n >= 1,
      'the filter hides everything',
    );
    check(decodeURIComponent(page.url()).includes(`q=${name}`), 'the filter is not in the address');
    await page.click('text=List');
    await page.waitForSelector(`table >> text="${name}"`);
  },

  async 'a container shows usage under its limit'() {
    await open('#/');
    await isLive();
    let asked = 0;
    const count = (request) => (asked += request.url().includes('/series?') ? 1 : 0);
    page.on('request', count);
    await page.locator('[data-container]').first().click();
    await page.waitForSelector('[data-chart="cpu"] canvas');
    await page.waitForSelector('[data-chart="memory"] canvas');
    await until(
      attribute('[data-chart="cpu"]', 'data-limit'),
      (limit) => Number(limit) > 0,
      'the CPU chart has no limit',
    );
    const before = Number(await attribute('[data-chart="cpu"]', 'data-last-t')());
    await until(
      attribute('[data-chart="cpu"]', 'data-last-t'),
      (t) => Number(t) > before,
      'the chart does not follow the present',
    );
    // The seconds come through the stream; the past is asked for now and then.
    await page.waitForTimeout(3_000);
    page.off('request', count);
    check(asked <= 2, `the past was asked for ${asked} times in some seconds`);
    // What SQL tells of it comes after the charts.
    await page.waitForSelector('[aria-label="Pressure chart"]');
    await until(attribute('[data-deciders]', 'data-deciders'), (n) => Number(n) >= 1, 'no rule is told of');
    // Kernels with cgroup v1 measure no pressure; then the panel says so.
    if (Number(await page.getAttribute('[aria-label="Pressure chart"]', 'data-lines')) > 0) {
      await page.click('[aria-label="Pressure chart"] >> text="Table"');
      await page.waitForSelector('[aria-label="Pressure chart"] tbody tr');
    }
    await page.click('text=1h');
    check(page.url().includes('range=1h'), 'the range is not in the address');
  },

  async 'a chart zooms by dragging and goes back to live'() {
    await open('#/');
    await isLive();
    await page.locator('[data-container]').first().click();
    const box = await (await page.waitForSelector('[data-chart="cpu"] .u-over')).boundingBox();
    await page.mouse.move(box.x + box.width * 0.4, box.y + 80);
    await page.mouse.down();
    await page.mouse.move(box.x + box.width * 0.7, box.y + 90, { steps: 5 });
    await page.mouse.up();
    await until(
      () => page.url(),
      (url) => /from=\d+/.test(url),
      'dragging did not zoom',
    );
    await page.keyboard.press('l');
    await until(
      () => page.url(),
      (url) => !/from=\d+/.test(url),
      'l does not go back to live',
    );
  },

  async 'a decision is explained'() {
    await open('#/decisions');
    await someDecision();
    await page.click('[data-decisions] tbody tr[data-decision] td.time a');
    const sentence = await page.textContent('[data-sentence]');
    check(sentence.trim().length > 20, `the sentence is too short: ${sentence}`);
    check((await page.locator('text=What was written').count()) === 1, 'the writes are missing');
    await page.click('text=Run its query as of then');
    await page.waitForSelector('[data-result]');
  },

  async 'decisions are filtered by host and time'() {
    await open('#/decisions');
    await someDecision();
    await page.selectOption('select[aria-label="Host"]', { index: 1 });
    await page.selectOption('[data-time]', '1h');
    for (const part of ['host=', 'range=1h']) check(page.url().includes(part), `${part} is not in the address`);
    await someDecision();
    await page.selectOption('[data-time]', 'between');
    await page.fill('input[aria-label="From"]', '2001-01-01T00:00:00');
    await page.fill('input[aria-label="To"]', '2001-01-02T00:00:00');
    await page.keyboard.press('Tab');
    await page.waitForSelector('text=No decision matches');
    await accessibleNow('filters of time');
    check(/from=\d+&to=\d+/.test(page.url()), 'the ends are not in the address');
    await page.reload();
    await page.waitForSelector('text=No decision matches');
    await page.click('text=Clear the filters');
    await someDecision();
    check(!/host|range|from/.test(page.url()), 'the filters stay in the address');
  },

  async 'a decision of a container opens beside its chart'() {
    await open('#/decisions?outcome=applied');
    await someDecision();
    await page.click('[data-decisions] tbody tr[data-decision] td.nowrap a');
    await page.waitForSelector('[data-chart="cpu"] canvas');
    await someDecision();
    await page.click('[data-decisions] tbody tr[data-decision] td.time a');
    await page.waitForSelector('aside [data-sentence]');
    await page.keyboard.press('Escape');
    await until(
      () => page.locator('aside [data-sentence]').count(),
      (n) => n === 0,
      'Escape does not close the drawer',
    );
  },

  async 'the heat grid is walked by keyboard and opens a container'() {
    await open('#/?view=grid');
    await isLive();
    await until(attribute('[data-grid]', 'data-grid'), (n) => Number(n) >= 1, 'no cell is painted');
    await page.selectOption('.bar label:has-text("Fill") select', 'memory');
    await page.selectOption('.bar label:has-text("Size") select', 'memory');
    await page.selectOption('.bar label:has-text("Group") select', 'host');
    for (const part of ['view=grid', 'fill=memory', 'size=memory', 'group=host'])
      check(page.url().includes(part), `${part} is not in the address`);
    check((await page.textContent('[data-summary]')).includes('memory used / limit'), 'the summary is of another fill');
    await page.selectOption('.bar label:has-text("Size") select', 'equal');
    await page.focus('[data-grid]');
    const first = await attribute('[data-grid]', 'data-focused')();
    await page.keyboard.press('ArrowRight');
    await until(attribute('[data-grid]', 'data-focused'), (id) => id !== first, 'the arrow key does not move');
    await page.waitForSelector('[data-tip]');
    await page.click('text=As a table');
    await page.waitForSelector('details tbody tr');
    await page.focus('[data-grid]');
    const id = await attribute('[data-grid]', 'data-focused')();
    await page.keyboard.press('Enter');
    await page.waitForSelector('main[data-page="container"]');
    check(decodeURIComponent(page.url()).endsWith(`#/c/${id}`), `${page.url()} is not of ${id}`);
  },

  async 'a host leads to its containers'() {
    await open('#/hosts');
    await isLive();
    await page.waitForSelector('[data-host]');
    const name = await page.getAttribute('[data-host]', 'data-host');
    await page.fill('[data-filter]', name);
    await until(
      () => page.url(),
      (url) => url.includes(`q=${encodeURIComponent(name)}`),
      'the filter is not in the address',
    );
    await page.selectOption('main select', 'cpu');
    check(page.url().includes('sort=cpu'), 'the order is not in the address');
    const text = await page.textContent('[data-host]');
    for (const word of ['used', 'allocated', 'limits changed by', 'last heard'])
      check(text.includes(word), `the card does not tell ${word}`);
    check((await page.textContent('main')).includes('tidegate agent --server http'), 'no command adds a host');
    await page.click('[data-host] .all');
    await page.waitForSelector('[data-container]');
    const shown = await page.locator('[data-container]').evaluateAll((all) => all.map((one) => one.dataset.container));
    check(
      shown.every((id) => id.startsWith(`${name}/`)),
      `the fleet shows ${shown.join(', ')}`,
    );
  },

  async 'an app is bounded, and a bound that makes no sense is not'() {
    await open('#/');
    await isLive();
    await page.keyboard.press('g');
    await page.keyboard.press('u');
    await page.waitForSelector('[data-group^="app/"] [data-bounds]');
    const name = await page.locator('[data-group^="app/"]').first().getAttribute('data-group');
    const card = `[data-group="${name}"]`;
    await page.click(`${card} [aria-label^="Edit the cpu"]`);
    await page.fill('[data-min]', '3');
    await page.fill('[data-max]', '2');
    await page.waitForSelector('[data-edit-bounds] >> text=The least is more than the most');
    check(await page.isDisabled('[data-save]'), 'bounds that contradict each other can be saved');
    await page.fill('[data-min]', '0.5');
    await page.fill('[data-max]', '2000');
    await page.waitForSelector('[data-edit-bounds] >> text=more than all hosts have together');
    await page.fill('[data-max]', '20');
    await page.click('[data-save]');
    await page.waitForSelector(`${card} [data-bounds="0.50 cores to 20.0 cores"]`);
    await page.click(`${card} [aria-label^="Edit the cpu"]`);
    await page.fill('[data-min]', '');
    await page.fill('[data-max]', '');
    await page.keyboard.press('Enter');
    await until(
      () => page.locator(`${card} [data-bounds="not bounded"]`).count(),
      (n) => n >= 1,
      'the bounds do not go',
    );
  },

  async 'a container is bounded in place and gives its bounds back'() {
    await open('#/');
    await isLive();
    await page.locator('[data-container]').last().click();
    const line = '[data-bounds-of="cpu"]';
    await page.waitForSelector(line);
    const before = await page.textContent(`${line} b`);
    await page.focus(`${line} [data-edit]`);
    await page.keyboard.press('Enter');
    await page.fill('[data-max]', '20000');
    await page.waitForSelector('[data-edit-bounds] >> text=That is more than');
    check(await page.isDisabled('[data-save]'), 'more than the host has can be saved');
    await accessibleNow('the dialog of bounds');
    await page.fill('[data-min]', '0.25');
    await page.fill('[data-max]', '0.75');
    await page.fill('[data-why]', 'a journey');
    await page.keyboard.press('Enter');
    await page.waitForSelector(`${line}[data-origin="override"] >> text=0.25 to 0.75 cores`);
    await page.reload();
    await page.waitForSelector(`${line}[data-origin="override"] >> text=set here by`);
    await page.click(`${line} [data-give-back]`);
    await page.waitForSelector(`${line}:not([data-origin="override"])`);
    await until(
      () => page.textContent(`${line} b`),
      (text) => text === before,
      `its bounds are not ${before} again`,
    );
  },

  async 'a container is pinned with a reason, excluded and released'() {
    await open('#/');
    await isLive();
    const card = page.locator('[data-container]').last();
    const id = await card.getAttribute('data-container');
    await card.click();
    await page.click('[data-pin="memory"]');
    await page.fill('[data-why]', 'a journey');
    await accessibleNow('the dialog that pins');
    await page.keyboard.press('Enter');
    await page.waitForSelector('[data-pinned="memory"] >> text=a journey');
    check(
      (await page.textContent('[data-pinned]')).includes('MEMORY PINNED'),
      'the badge does not tell what is pinned',
    );
    await page.click('[data-exclude]');
    await page.click('[data-save]');
    await page.waitForSelector('[data-pinned="cpu,memory"] >> text=EXCLUDED');
    await accessibleNow('a container that is excluded');
    await page.click('[data-release="cpu"]');
    await page.waitForSelector('[data-pinned="memory"]');
    await open('#/');
    await page.waitForSelector(`[data-container="${id}"] [data-pin-mark]`);
    await page.click(`[data-container="${id}"]`);
    await page.click('[data-release-all]');
    await page.waitForSelector('[data-pinned]', { state: 'detached' });
    await page.waitForSelector('[data-reins="free"]');
  },

  async 'a body is previewed before it is sent'() {
    await open('#/send?protocol=influx');
    await page.waitForSelector('[data-preview-push="0"]');
    await page.fill('textarea', 'queue,host=a depth=1\nqueue,host=a depth=\n');
    await page.waitForSelector('[data-preview-push="1"]');
    check((await page.textContent('.errors')).includes('line 2'), 'the error is not on its line');
    check((await page.locator('.becomes tbody tr').count()) === 1, 'the good line is no sample');
    await page.click('.errors button');
    const picked = await page.evaluate(() => {
      const field = document.querySelector('textarea');
      return field.value.slice(field.selectionStart, field.selectionEnd);
    });
    check(picked === 'queue,host=a depth=', `picked is ${picked}`);
    await page.selectOption('[data-preview-push] select', 'ms');
    check(page.url().includes('precision=ms'), 'the precision is not in the address');
    await page.click('[data-tab="opentsdb"]');
    await page.waitForSelector('[data-preview-push="0"]');
    check(page.url().includes('protocol=opentsdb'), 'the protocol is not in the address');
    check((await page.textContent('[data-snippet]')).includes(BASE.replace(/\/$/, '')), 'the snippet is of elsewhere');
    await page.keyboard.press('ArrowRight');
    await page.waitForSelector('[data-protocol="monasca"]');
    await page.click('text=also what Tidegate measures itself');
    await page.click('[data-metric^="tidegate."] >> text=query');
    await page.waitForSelector('[data-result]');
  },

  async 'the status tells how the server is and what it was told'() {
    await open('#/status');
    await page.waitForSelector('[data-status]');
    await page.waitForSelector('[data-latencies] tbody tr');
    await until(attribute('[data-points]', 'data-points'), (n) => Number(n) >= 3, 'the curve does not grow');
    await page.fill('[data-filter]', 'retention_s');
    await until(
      () => page.locator('[data-setting]').count(),
      (n) => n >= 1 && n < 5,
      'the filter does not work',
    );
    check((await page.textContent('[data-setting="store.retention_s"]')).includes('7 d'), 'a week is not told as such');
    await page.fill('[data-filter]', '');
    await page.click('text=only what was set');
    check(page.url().includes('set=1'), 'it is not in the address');
    const origins = await page.locator('[data-setting] .tag').allTextContents();
    check(origins.length > 0 && !origins.includes('default'), `origins are ${origins.join(', ')}`);
    await page.click('text=Freeze or restore');
    await page.waitForSelector('dialog[open] >> text=Freeze and restore baselines');
    await page.keyboard.press('Escape');
  },

  async 'a report is made, priced and put on paper'() {
    await open('#/reports');
    await page.waitForSelector('[data-report] [data-chart="memory"] canvas');
    const used = await page.textContent('[data-line="Used"]');
    check(/[0-9.]+ core-hours/.test(used) && used.includes('GiB-hours'), `used is ${used}`);
    check((await page.textContent('[data-figures]')).includes('No energy is stored'), 'energy is not told of');
    await page.fill('[data-price="core"]', '0.05');
    await page.fill('[data-price="cur"]', 'USD');
    await until(
      () => page.textContent('[data-line="Allocated"]'),
      (line) => /[0-9.]+ USD/.test(line),
      'nothing costs anything',
    );
    check(page.url().includes('core=0.05') && page.url().includes('cur=USD'), 'the prices are not in the address');
    const [kind, name] = (await page.getAttribute('[data-report]', 'data-report')).split('/');
    await open('#/');
    await open(`#/reports?kind=${kind}&name=${encodeURIComponent(name)}&range=15m`);
    await page.waitForSelector('[data-report]');
    check((await page.inputValue('[data-price="core"]')) === '0.05', 'the price is not remembered');
    await page.selectOption('[data-kind]', 'container');
    await page.waitForSelector('[data-report^="container/"]');
    check(page.url().includes('kind=container'), 'what it is about is not in the address');
    await page.emulateMedia({ media: 'print', colorScheme: 'dark' });
    await page.evaluate(() => dispatchEvent(new Event('beforeprint')));
    check((await page.getAttribute('html', 'data-theme')) === 'light', 'paper is dark');
    const paper = await page.evaluate(() => ({
      nav: document.querySelector('nav').checkVisibility(),
      picker: document.querySelector('main .picker').checkVisibility(),
      chart: document.querySelector('[data-chart] canvas').getBoundingClientRect().width,
    }));
    check(!paper.nav && !paper.picker, 'there is something to click on paper');
    check(paper.chart > 500 && paper.chart <= 700, `the chart is ${paper.chart} px wide on paper`);
    await page.evaluate(() => dispatchEvent(new Event('afterprint')));
    await page.emulateMedia({ media: null, colorScheme: 'light' });
    const themeOf = attribute('html', 'data-theme');
    await until(themeOf, (theme) => theme === 'light', 'the theme is another one after printing');
    await page.evaluate(() => localStorage.removeItem('tidegate.prices'));
  },

  async 'an experiment is begun, has a test, is a range elsewhere and ends'() {
    await context.request.delete(`${BASE}api/v1/experiments/a%20journey`);
    await open('#/reports');
    await page.fill('[data-new-name]', 'a journey');
    await page.fill('[aria-label="Tags"]', 'run=1');
    await page.click('text=Start now');
    await page.waitForSelector('[data-experiment="a journey"] >> text=running');
    expected = [/api\/v1\/experiments$/];
    await page.fill('[data-new-name]', 'a journey');
    await page.click('text=Start now');
    const refused = await page.textContent('[data-experiments] [data-problem]');
    check(refused.includes("'a journey' already"), `a second one of the same name: ${refused}`);
    await page.selectOption('[data-parent]', 'a journey');
    await page.fill('[data-new-name]', 'a test');
    await page.click('text=Start now');
    await page.waitForSelector('[data-experiment="a journey/a test"] >> text=running');
    await page.waitForTimeout(1200);
    await page.click('[aria-label="End a journey"]');
    for (const one of ['a journey', 'a journey/a test'])
      await until(
        () => page.textContent(`[data-experiment="${one}"]`),
        (text) => !text.includes('running'),
        `${one} does not end`,
      );
    await page.click('[aria-label="Edit a journey"]');
    const before = await page.inputValue('[data-edit-experiment] [data-start]');
    await page.fill('[data-edit-experiment] [data-end]', '2001-01-01T00:00:00');
    await page.click('[data-save]');
    const wrong = await page.textContent('[data-edit-experiment] [role="alert"]');
    check(wrong.includes('before'), `it ends before it starts: ${wrong}`);
    await page.keyboard.press('Escape');
    await page.click('[aria-label="Edit a journey"]');
    const earlier = new Date(Date.parse(`${before}Z`) - 600_000).toISOString().slice(0, 19);
    await page.fill('[data-edit-experiment] [data-start]', earlier);
    await page.click('[data-save]');
    await page.waitForSelector('[data-edit-experiment]', { state: 'detached' });
    await until(
      () => page.textContent('[data-experiment="a journey"] .num'),
      (lasted) => lasted.startsWith('10 min'),
      'the edited start is not that of the experiment',
    );
    const container = (await routes()).find(([name]) => name === 'container')[1];
    await open(container);
    await page.selectOption('[data-spans]', 'a journey › a test');
    await until(
      () => page.url(),
      (url) => /from=\d+&to=\d+/.test(url),
      'picking a test sets no range',
    );
    check((await page.inputValue('[data-spans]')) === 'a journey › a test', 'it is not told which one is shown');
    await page.click('.head >> text=Report');
    await page.waitForSelector('[data-report^="container/"], [data-empty]');
    check(/from=\d+&to=\d+/.test(page.url()), 'the range does not come along to the report');
    await open('#/reports');
    await page.click('[aria-label="Delete a journey"]');
    await page.click('[data-delete]');
    await page.waitForSelector('[data-experiment="a journey"]', { state: 'detached' });
  },

  async 'a typo in a rule is underlined where it is'() {
    await open('#/rules');
    await page.waitForSelector('[data-rule]');
    const name = await page.getAttribute('[data-rule]', 'data-rule');
    const stored = await (await context.request.get(`${BASE}api/v1/rules/${encodeURIComponent(name)}`)).json();
    await page.click('[data-rule] td.name a');
    await until(
      attribute('[data-verdict]', 'data-verdict'),
      (verdict) => verdict === 'ok',
      'the stored rule is not valid',
    );
    const typo = stored.sql.replace(/^(\s*SELECT)\b/im, '$1 usag_of_nothing,');
    check(typo !== stored.sql, 'the rule has no line that begins with SELECT');
    const line = typo.split('\n').findIndex((one) => one.includes('usag_of_nothing'));
    await typeInto(typo);
    await page.waitForSelector('[data-editor] .cm-fault');
    await until(
      attribute('[data-verdict]', 'data-verdict'),
      (verdict) => verdict === 'error',
      'the verdict is not an error',
    );
    const marked = await page.evaluate(() => {
      const mark = document.querySelector('[data-editor] .cm-fault');
      const lines = [...document.querySelectorAll('[data-editor] .cm-line')];
      return { text: mark.textContent, line: lines.findIndex((one) => one.contains(mark)) };
    });
    check(marked.text.includes('usag_of_nothing'), `underlined is ${marked.text}`);
    check(marked.line === line, `underlined is line ${marked.line}, the typo is in ${line}`);
    check(await page.isDisabled('text=Save'), 'a rule with an error can be saved');
    if (SHOTS) await page.screenshot({ path: join(SHOTS, 'rule-typo.png') });
    await page.click('text=Revert');
    await until(
      attribute('[data-verdict]', 'data-verdict'),
      (verdict) => verdict === 'ok',
      'the rule is not valid again',
    );
    await page.waitForSelector('[data-preview]');
  },

  async 'a rule is written, previewed, saved and deleted'() {
    await context.request.delete(`${BASE}api/v1/rules/journey_rule`);
    await open('#/new-rule');
    await until(
      attribute('[data-verdict]', 'data-verdict'),
      (verdict) => verdict === 'ok',
      'the template is not valid',
    );
    await typeInto(
      `CREATE RULE journey_rule\nWITH (every = '1s', class = 'protect', mode = 'shadow')\nAS\nSELECT host, container, resource, usage_max * 1.25 AS target, 'peak plus 25 %' AS reason\nFROM recent(INTERVAL '60 seconds')\nWHERE resource = 'cpu' AND usage_max > upper`,
    );
    await until(attribute('[data-verdict]', 'data-verdict'), (verdict) => verdict === 'ok', 'the rule is not valid');
    await page.click('button:text-is("Save"):enabled');
    await until(
      () => page.url(),
      (url) => url.endsWith('#/rules/journey_rule'),
      'saving does not open the rule',
    );
    await page.waitForSelector('[aria-label="Mode of journey_rule"] .shadow[aria-pressed="true"]');
    await page.click('[aria-label="Mode of journey_rule"] .on');
    await page.waitForSelector('[data-trial="known"]');
    check(/shadow/.test(await page.textContent('[data-trial]')), 'it is not told what it did in shadow');
    await page.keyboard.press('Escape');
    // From shadow over some containers to all of them.
    for (const mode of ['canary', 'on']) {
      await page.click(`[aria-label="Mode of journey_rule"] .${mode}`);
      await page.waitForSelector('[data-trial="known"]');
      await page.click('[data-switch]');
      await page.waitForSelector(`[aria-label="Mode of journey_rule"] .${mode}[aria-pressed="true"]`);
    }
    await page.click('[aria-label="Mode of journey_rule"] .off');
    await page.waitForSelector('[aria-label="Mode of journey_rule"] .off[aria-pressed="true"]');
    await until(attribute('[data-versions]', 'data-versions'), (n) => Number(n) >= 2, 'the change of mode is not told');
    await page.locator('[data-versions] li button').first().click();
    await page.waitForSelector('[data-versions] .diff .added');
    const added = await page.textContent('[data-versions] .diff .added');
    check(added.includes("mode = 'off'"), `what differs is ${added}`);
    await page.click('button:text-is("Delete")');
    await page.click('dialog button.primary');
    await until(
      () => page.url(),
      (url) => url.endsWith('#/rules'),
      'deleting does not go back to the list',
    );
    await page.waitForSelector('[data-rule]');
    check((await page.locator('[data-rule="journey_rule"]').count()) === 0, 'the rule is still there');
  },

  async 'a query runs and its error is underlined'() {
    await open('#/sql');
    await typeInto("SELECT * FROM recent(INTERVAL '60 seconds')");
    await page.keyboard.press('Control+Enter');
    await page.waitForSelector('[data-result] tbody tr.data');
    check(Number(await attribute('[data-rows]', 'data-rows')()) > 0, 'there are no rows');
    expected = [/api\/v1\/sql$/];
    await typeInto("SELECT usag\nFROM recent(INTERVAL '60 seconds')");
    await page.keyboard.press('Control+Enter');
    await page.waitForSelector('[data-editor] .cm-fault');
    const text = await page.textContent('[data-editor] .cm-fault');
    check(text === 'usag', `underlined is ${text}`);
  },

  async 'the console has tabs, runs the statement at the cursor and keeps queries'() {
    await open('#/sql');
    await page.evaluate(() => {
      for (const key of ['tabs', 'saved']) localStorage.removeItem(`tidegate.sql.${key}`);
    });
    await page.reload();
    await typeInto("SELECT * FROM recent(INTERVAL '60 seconds');\nSELECT * FROM decisions LIMIT 3");
    await page.keyboard.press('Control+Home');
    await page.keyboard.press('Control+Enter');
    await page.waitForSelector('[data-result] th >> text=usage_max');
    await page.keyboard.press('Control+End');
    await page.keyboard.press('Control+Enter');
    await page.waitForSelector('[data-result] th >> text=limit_before');
    await page.keyboard.press('Control+s');
    await page.fill('[data-query-name]', 'a journey');
    await page.click('[data-save-query]');
    await page.waitForSelector('[data-saved] >> text=a journey');
    await page.click('[data-new-tab]');
    await page.waitForSelector('[data-result]', { state: 'detached' });
    await typeInto('SELECT * FROM containers');
    await page.click('[data-tab="0"]');
    await page.waitForSelector('[data-result] th >> text=limit_before');
    await page.reload();
    await until(
      () => page.locator('[data-tab]').count(),
      (n) => n === 2,
      'the tabs are not kept',
    );
    await page.click('[data-tab="1"]');
    await page.waitForSelector('[data-editor] >> text=containers');
    await page.click('[data-saved] >> text=a journey');
    await page.waitForSelector('[data-editor] >> text=decisions');
    await page.click('[data-close-tab]');
    check((await page.locator('[data-tab]').count()) === 1, 'a tab cannot be closed');
    await page.click('[aria-label="Forget a journey"]');
    await page.waitForSelector('[data-saved]', { state: 'detached' });
  },

  async 'completion knows the columns'() {
    await open('#/sql');
    await page.waitForSelector('aside summary >> text=Tables');
    await typeInto("SELECT usage_m FROM recent(INTERVAL '60 seconds')");
    await page.keyboard.press('Home');
    for (let at = 0; at < 'SELECT usage_m'.length; at += 1) await page.keyboard.press('ArrowRight');
    await page.keyboard.type('a');
    await page.waitForSelector('.cm-tooltip-autocomplete >> text=usage_max');
    await page.keyboard.press('Escape');
  },

  async 'the API is looked up by keyboard and by address'() {
    await open('#/reference');
    await page.waitForSelector('[data-operations]');
    const shown = async () => Number(await attribute('[data-operations]', 'data-operations')());
    const all = await shown();
    check(all > 40, `there are only ${all} operations`);
    await page.keyboard.press('/');
    await page.keyboard.type('decisions explain');
    await until(shown, (count) => count === 1, 'the filter does not leave one operation');
    await page.focus('[data-operation="explain"] > summary');
    await page.keyboard.press('Enter');
    await page.waitForSelector('[data-operation="explain"][open] [data-status="200"] details[open]');
    await until(
      () => page.url(),
      (url) => url.includes('op=explain'),
      'an open operation is not in the address',
    );
    const field = page.locator('[data-operation="explain"] [data-status="200"] details details > summary').first();
    await field.focus();
    await page.keyboard.press('Enter');
    await page.waitForSelector('[data-operation="explain"] [data-status="200"] details details[open] ul');
    await page.keyboard.press('Enter');
    await page.waitForSelector('[data-operation="explain"] [data-status="200"] details details[open]', {
      state: 'detached',
    });

    await open('#/reference?op=set_mode&token=1');
    await page.waitForSelector('[data-operation="set_mode"][open]');
    await until(
      () => page.evaluate(() => document.activeElement?.id),
      (id) => id === 'op-set_mode',
      'the operation of the address is not gone to',
    );
    const command = await page.textContent('[data-operation="set_mode"] [data-snippet] pre');
    check(/Bearer TOKEN/.test(command) && command.includes('{"mode":"shadow"}'), `the command is ${command}`);
  },

  async 'the keyboard reaches every page'() {
    await open('#/');
    await isLive();
    for (const [key, where] of [
      ['r', '#/rules'],
      ['d', '#/decisions'],
      ['s', '#/sql'],
      ['h', '#/hosts'],
      ['u', '#/groups'],
      ['p', '#/send'],
      ['t', '#/status'],
      ['e', '#/reports'],
      ['a', '#/reference'],
    ]) {
      await page.keyboard.press('g');
      await page.keyboard.press(key);
      await until(
        () => page.url(),
        (url) => url.includes(where),
        `g ${key} does not open ${where}`,
      );
      await page.waitForTimeout(200);
      await page.evaluate(() => document.activeElement?.blur());
    }
    await page.keyboard.press('?');
    await page.waitForSelector('dialog[open]');
    await page.keyboard.press('Escape');
    await until(
      () => page.locator('dialog[open]').count(),
      (n) => n === 0,
      'Escape does not close the help',
    );
    const theme = () => page.getAttribute('html', 'data-theme');
    await page.keyboard.press('t');
    await page.keyboard.press('t');
    await until(theme, (value) => value === 'dark', 't does not change the theme');
    await page.keyboard.press('t');
  },

  async 'nothing breaks what axe checks'() {
    for (const theme of ['light', 'dark']) {
      await page.emulateMedia({ colorScheme: theme });
      for (const [name, hash] of await routes()) {
        await open(hash);
        await isLive();
        await settled(name);
        await accessible(`${name}, ${theme}`);
      }
    }
    await page.emulateMedia({ colorScheme: 'light' });
  },

  async 'no page is wider than a phone, or lost on a screen of 4K'() {
    for (const [width, height, least] of [
      [390, 844, 390],
      [3840, 2160, 1600],
    ]) {
      await page.setViewportSize({ width, height });
      for (const [name, hash] of await routes()) {
        await open(hash);
        await settled(name);
        const { over, main } = await page.evaluate(() => ({
          over: document.documentElement.scrollWidth - innerWidth,
          main: document.querySelector('main').clientWidth,
        }));
        check(over <= 0, `${name} is ${over} px too wide at ${width} px`);
        check(main >= least, `${name} is ${main} px wide at ${width} px`);
      }
    }
    await page.setViewportSize({ width: 1440, height: 900 });
  },

  async 'a pack is listed, read and installed'() {
    await open('#/rules');
    // One that is installed: doing so again changes nothing but to its shipped text.
    await page.waitForSelector('[data-pack] >> text=/, installed/');
    const pack = page.locator('[data-pack]', { hasText: ', installed' }).first();
    const name = await pack.getAttribute('data-pack');
    await pack.locator('summary').click();
    check((await pack.locator('pre').textContent()).includes('CREATE'), 'the text of the pack is missing');
    const list = page.locator('section[aria-label="Rule packs"]');
    if (SHOTS) await list.screenshot({ path: join(SHOTS, 'packs.png') });
    await pack.locator('button').click();
    const told = await list.locator('[role="status"]').textContent();
    check(told.startsWith(`${name}: `), `installing says ${told}`);
  },
};

let known = null;
/** Every kind of page, with a container and a decision that exist. */
async function routes() {
  if (known !== null) return known;
  await open('#/decisions?outcome=applied');
  await someDecision();
  // At once, since rows come while one reads.
  const { id, container, rule } = await page.evaluate(() => {
    // One of a rule: those of the watch have no page of a rule to go to.
    const rows = [...document.querySelectorAll('[data-decisions] tbody tr[data-decision]')];
    const row = rows.find((row) => row.querySelector('a[href^="#/rules/"]') !== null);
    const link = (start) => row.querySelector(`a[href^="${start}"]`).getAttribute('href');
    return { id: row.dataset.decision, container: link('#/c/'), rule: link('#/rules/') };
  });
  known = [
    ['fleet', '#/'],
    ['fleet-list', '#/?view=list'],
    ['fleet-grid', '#/?view=grid'],
    ['container', container],
    ['container-explain', `${container}?sel=${encodeURIComponent(id)}`],
    ['hosts', '#/hosts'],
    ['groups', '#/groups'],
    ['send', '#/send?own=1'],
    ['send-prometheus', '#/send?protocol=prometheus&token=1'],
    ['status', '#/status'],
    ['reports', '#/reports?core=0.05&gib=0.01'],
    ['reports-container', `#/reports?kind=container&name=${container.slice('#/c/'.length)}&range=15m`],
    ['reference', '#/reference'],
    ['reference-open', '#/reference?op=sql&token=1'],
    ['rules', '#/rules'],
    ['rule', rule],
    ['decisions', '#/decisions'],
    ['decision', `#/decisions/${encodeURIComponent(id)}`],
    ['sql', `#/sql?run=1&q=${encodeURIComponent("SELECT * FROM recent(INTERVAL '60 seconds')")}`],
  ];
  return known;
}

/** Waits for what a page shows last. */
async function settled(name) {
  const wanted = {
    fleet: '[data-container]',
    'fleet-list': 'tbody tr',
    'fleet-grid': '[data-grid]',
    container: '[data-chart="memory"] canvas',
    'container-explain': '[data-sentence]',
    hosts: '[data-host]',
    groups: '[data-group]',
    send: '[data-preview-push="0"]',
    'send-prometheus': '[data-snippet]',
    status: '[data-latencies] tbody tr',
    // While another one is read, the report before it is shown faintly.
    reports: '[data-report]:not(.loading) canvas',
    'reports-container': '[data-report^="container/"]:not(.loading) canvas',
    reference: '[data-operation]',
    'reference-open': '[data-operation="sql"][open] [data-status="200"]',
    rules: '[data-rule]',
    rule: '[data-verdict="ok"]',
    decisions: '[data-decision]',
    decision: '[data-sentence]',
    sql: '[data-result]',
  }[name];
  await page.waitForSelector(wanted);
  await page.waitForTimeout(300);
}

async function photograph() {
  mkdirSync(SHOTS, { recursive: true });
  for (const theme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme: theme });
    for (const [width, height] of [
      [1440, 900],
      [390, 844],
    ]) {
      await page.setViewportSize({ width, height });
      for (const [name, hash] of await routes()) {
        await open(hash);
        await isLive();
        await settled(name);
        if (name === 'rule') await page.waitForTimeout(700);
        await page.screenshot({ path: join(SHOTS, `${name}-${theme}-${width}.png`) });
      }
    }
  }
}

let failed = 0;
async function attempt(name, run) {
  if (!name.includes(ONLY)) return;
  noise.length = 0;
  expected = [];
  try {
    await run();
    // A failed request is told in the console too, without its address.
    const told = noise.filter((line) => !(expected.length > 0 && /Failed to load resource/.test(line)));
    check(told.length === 0, told.join(' | '));
    console.log(`ok ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED ${name}: ${error.message.split('\n').slice(0, 4).join(' ')}`);
    if (SHOTS)
      await page.screenshot({ path: join(SHOTS, `failed-${name.replace(/\W+/g, '-')}.png`) }).catch(() => undefined);
  }
}

try {
  if (SHOTS) mkdirSync(SHOTS, { recursive: true });
  if (process.env.TOKEN) {
    await page.goto(BASE);
    await page.fill('#token', process.env.TOKEN);
    await page.click('form button.primary');
  }
  for (const [name, run] of Object.entries(journeys)) await attempt(name, run);
  if (SHOTS) await attempt('screenshots of every page', photograph);
} finally {
  await context.close();
  rmSync(profile, { recursive: true, force: true });
}
process.exit(failed > 0 ? 1 : 0);
