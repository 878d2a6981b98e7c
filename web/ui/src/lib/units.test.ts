import { describe, expect, it } from 'vitest';
import { amount, bytes, change, cores, count, figure, percent, rate, resourceOf, tickSteps, tookMs } from './units';

const MIB = 1024 ** 2;

describe('units', () => {
  it('shows knobs in units of their own', () => {
    expect(amount('memory.high', 128 * 1024 * 1024)).toBe('128 MiB');
    expect([amount('cpu.weight', 250), amount('cpu', 0.5)]).toEqual(['250', '0.50 cores']);
    expect(change('cpu.weight', 100, 250)).toBe('100 → 250');
    expect((['cpu', 'cpu.weight', 'memory', 'memory.high', 'disk_read'] as const).map(resourceOf)).toEqual([
      'cpu',
      'cpu',
      'memory',
      'memory',
      'disk_read',
    ]);
  });

  it('shows bandwidth in bytes a second', () => {
    expect(amount('disk_write', 12 * MIB)).toBe('12.0 MiB/s');
    expect(amount('net_send', 12 * MIB)).toBe('12.0 MiB/s');
    expect(change('disk_read', null, 5 * MIB)).toBe('none → 5.0 MiB/s');
    expect(change('disk_read', 10 * MIB, 5 * MIB)).toBe('10.0 → 5.0 MiB/s');
  });

  it('show three figures', () => {
    expect([0.9249, 12.44, 128.4].map(figure)).toEqual(['0.92', '12.4', '128']);
  });

  it('show bytes with the largest fitting binary prefix', () => {
    expect([512, 96 * MIB, 1.5 * 1024 * MIB, 128 * MIB].map(bytes)).toEqual([
      '512 B',
      '96.0 MiB',
      '1.5 GiB',
      '128 MiB',
    ]);
    expect(bytes(1024 ** 2 - 1)).toBe('1024 KiB');
  });

  it('never show what is not known as zero', () => {
    expect([cores(null), bytes(undefined), percent(NaN), count(null), tookMs(null), amount('cpu', null)]).toEqual(
      Array(6).fill('–'),
    );
  });

  it('name the unit of a change once where both share it', () => {
    expect(change('cpu', 1, 1.5)).toBe('1.00 → 1.50 cores');
    expect(change('memory', 96 * MIB, 128 * MIB)).toBe('96.0 → 128 MiB');
    expect(change('memory', 900 * MIB, 1.5 * 1024 * MIB)).toBe('900 MiB → 1.5 GiB');
    expect(change('memory', null, 96 * MIB)).toBe('none → 96.0 MiB');
  });

  it('show a small share as small, not as none', () => {
    expect([0, 0.0004, 0.031, 0.5].map(percent)).toEqual(['0 %', '< 0.1 %', '3.1 %', '50 %']);
  });

  it('tell rates by the second', () => {
    expect([0, 4096, null].map(rate)).toEqual(['0 B/s', '4.0 KiB/s', bytes(null)]);
  });

  it('part thousands and choose the unit of a duration', () => {
    expect(count(1284)).toBe('1\u202f284');
    expect([0.0428, 0.4, 12.3, 1500, 12_000].map(tookMs)).toEqual(['43 µs', '0.4 ms', '12 ms', '1.5 s', '12 s']);
  });

  it('put ticks of memory at powers of two', () => {
    expect(tickSteps('memory')).toContain(256 * MIB);
    expect(tickSteps('cpu')).toContain(0.5);
  });
});
