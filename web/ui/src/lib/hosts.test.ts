import { describe, expect, it } from 'vitest';
import { Fleet } from './fleet';
import { capacityBar, changedBy, heardAt, sorted, stateOf, sumsByHost } from './hosts';
import type { Agent, HostRow } from './types';

const NOW = 1_000_000;
const agent = (patch: Partial<Agent> = {}): Agent => ({
  host: 'far',
  version: '0.1.0',
  address: '10.0.0.2',
  connected: true,
  since: 0,
  last_frame: NOW - 1000,
  clock_ahead_ms: 0,
  behind: 0,
  frozen: false,
  ...patch,
});
const host = (patch: Partial<HostRow> = {}): HostRow => ({
  name: 'far',
  cpu: 8,
  memory: 100,
  last_seen: NOW - 2000,
  own: false,
  agent: agent(),
  knobs: [],
  ...patch,
});

describe('the state of a host', () => {
  it('is fresh while somebody speaks for it', () => {
    expect(heardAt(host())).toBe(NOW - 1000);
    expect(stateOf(host(), NOW, false)).toBe('fresh');
    expect(stateOf(host({ agent: null, own: true }), NOW, false)).toBe('fresh');
  });

  it('is silent first, and holding when its agent must have noticed', () => {
    const cut = (ms: number) => host({ last_seen: NOW - ms, agent: agent({ connected: false, last_frame: NOW - ms }) });
    expect(stateOf(cut(20_000), NOW, false)).toBe('silent');
    expect(stateOf(cut(30_000), NOW, false)).toBe('holding');
    expect(stateOf(host({ last_seen: NOW - 60_000, agent: null }), NOW, false)).toBe('silent');
    expect(stateOf(host({ last_seen: null, agent: null }), NOW, true)).toBe('silent');
  });

  it('is frozen by either kill switch', () => {
    expect(stateOf(host(), NOW, true)).toBe('frozen');
    expect(stateOf(host({ agent: agent({ frozen: true }) }), NOW, false)).toBe('frozen');
  });

  it('names who changes limits', () => {
    expect([host({ own: true }), host(), host({ agent: null })].map(changedBy)).toEqual([
      'this server',
      'its agent',
      'nobody',
    ]);
  });
});

describe('sums', () => {
  const fleet = new Fleet();
  fleet.apply({
    t: 1,
    ids: ['a/x', 'a/y', 'b/z/1'],
    cpu: [0.5, 1, null],
    cpu_limit: [1, null, 2],
    mem: [10, 20, 30],
    mem_limit: [20, 40, null],
    throttled: [0, 0, 0],
    oom: [0, 0, 0],
  });

  it('add up what the containers of a host have', () => {
    const sums = sumsByHost(fleet);
    expect(sums.get('a')).toEqual({
      containers: 2,
      cpu: 1.5,
      cpuLimit: 1,
      mem: 30,
      memLimit: 60,
      cpuUnlimited: 1,
      memUnlimited: 0,
      ids: ['a/y', 'a/x'],
    });
    expect(sums.get('b')?.memUnlimited).toBe(1);
  });

  it('order hosts by what is fullest or worst', () => {
    const hosts = [host({ name: 'b', cpu: 8 }), host({ name: 'a', cpu: 2 }), host({ name: 'c', cpu: null })];
    const names = (by: 'name' | 'cpu' | 'state') =>
      sorted(hosts, by, (one) => (one.name === 'c' ? 'holding' : 'fresh'), sumsByHost(fleet)).map((one) => one.name);
    expect(names('name')).toEqual(['a', 'b', 'c']);
    expect(names('cpu')).toEqual(['a', 'b', 'c']);
    expect(names('state')).toEqual(['c', 'a', 'b']);
  });
});

describe('a bar', () => {
  it('ends at the capacity, or at what is allocated beyond it', () => {
    expect(capacityBar(8, 2, 4)).toEqual({ used: 0.25, allocated: 0.5, capacity: 1, free: 4 });
    expect(capacityBar(8, 2, 16)).toEqual({ used: 0.125, allocated: 1, capacity: 0.5, free: -8 });
    expect(capacityBar(null, 2, 4)).toBeNull();
    expect(capacityBar(null, 2, 4, true)).toEqual({ used: 0.5, allocated: 1, capacity: 1, free: 0 });
    expect(capacityBar(8, null, null)).toBeNull();
    expect(capacityBar(0, 2, 4)).toBeNull();
  });
});
