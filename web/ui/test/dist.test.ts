// What is built and committed: its size, and that it loads nothing that is not in it.
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';

const DIST = join(import.meta.dirname, '../../dist');
const FIRST_LOAD = 60 * 1024;
const TOTAL = 280 * 1024;

const index = readFileSync(join(DIST, 'index.html'), 'utf8');
const assets = readdirSync(join(DIST, 'assets'));
const zipped = (path: string) => gzipSync(readFileSync(join(DIST, path)), { level: 9 }).length;
const referenced = [...index.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, url = '']) => url);

describe('the built dashboard', () => {
  it('loads little script first', () => {
    const scripts = referenced.filter((url) => url.endsWith('.js'));
    expect(scripts.length).toBeGreaterThan(0);
    expect(scripts.reduce((sum, url) => sum + zipped(url), 0)).toBeLessThanOrEqual(FIRST_LOAD);
  });

  it('is small as a whole', () => {
    expect(assets.reduce((sum, name) => sum + zipped(`assets/${name}`), 0)).toBeLessThanOrEqual(TOTAL);
  });

  it('refers to its own files only, relative to the page', () => {
    for (const url of referenced) {
      expect(url.startsWith('./'), url).toBe(true);
      expect(existsSync(join(DIST, url)), url).toBe(true);
    }
  });

  it('has no inline script, which its security policy forbids', () => {
    expect([...index.matchAll(/<script\b[^>]*>([^<]*)</g)].every(([, body = '']) => body.trim() === '')).toBe(true);
    expect(index).not.toMatch(/\son\w+=/);
  });

  it('has hashed names, so that a browser may keep them for ever', () => {
    for (const name of assets) expect(name).toMatch(/-[\w-]{8}\.(js|css)$/);
  });
});
