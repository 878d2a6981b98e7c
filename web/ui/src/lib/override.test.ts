import { describe, expect, it } from 'vitest';
import {
  boundsText,
  isNothing,
  judgeOne,
  originOf,
  pinText,
  roomOf,
  saidOf,
  withBounds,
  withPins,
  withoutPins,
} from './override';
import type { ContainerRow, Override } from './types';

const override = (rest: Partial<Override> = {}): Override => ({
  bounds: { cpu: { min: 0.5, max: 2 }, memory: null },
  pinned: ['memory'],
  why: 'she looks into it',
  changed_by: 'ann',
  changed_at: 0,
  ...rest,
});
const row = (name: string, max: number | null, rest: Partial<ContainerRow> = {}) =>
  ({
    host: 'n1',
    name,
    gone: false,
    bounds: { cpu: { min: 0.1, max }, memory: { min: null, max: null } },
    override: null,
    ...rest,
  }) as ContainerRow;

describe('what is said of a container', () => {
  it('is said again with a change, and the reason stays unless there is another', () => {
    const said = saidOf(override());
    expect(said).toEqual({ bounds: { cpu: { min: 0.5, max: 2 } }, pinned: ['memory'], why: 'she looks into it' });
    expect(withBounds(said, 'memory', { min: null, max: 5 }).bounds).toEqual({
      cpu: { min: 0.5, max: 2 },
      memory: { min: 0, max: 5 },
    });
    expect(withPins(said, ['cpu'], ' ')).toEqual({ ...said, pinned: ['cpu', 'memory'] });
    expect(withPins(said, ['memory'], 'new').why).toBe('new');
  });

  it('keeps what is said of disks and the network', () => {
    const range = { min: 1, max: 5 };
    const said = saidOf(
      override({ bounds: { cpu: null, memory: null, disk_write: range }, pinned: ['disk_read', 'net_send'] }),
    );
    expect(withBounds(said, 'cpu', { min: 1, max: 2 }).bounds.disk_write).toEqual(range);
    expect(withoutPins(withPins(said, ['cpu'], ''), ['cpu']).pinned).toEqual(['disk_read', 'net_send']);
  });

  it('is taken back when nothing is left of it', () => {
    const bare = withBounds(saidOf(override()), 'cpu', null);
    expect(isNothing(bare)).toBe(false);
    expect(isNothing(withoutPins(bare, ['memory', 'cpu']))).toBe(true);
    expect(isNothing(saidOf(null))).toBe(true);
  });

  it('tells who says what', () => {
    expect(pinText(override())).toBe('memory pinned by ann: she looks into it');
    expect(pinText(override({ pinned: ['cpu', 'memory'], why: '' }))).toBe('excluded from rules by ann');
    expect(pinText(override({ pinned: [] }))).toBe('');
    expect(originOf(row('a', 2, { override: override() }), 'cpu').kind).toBe('override');
    expect(originOf(row('a', 2), 'cpu').kind).toBe('given');
    expect(originOf(row('a', 2), 'memory').kind).toBe('none');
    expect(boundsText('cpu', { min: 0.5, max: null })).toBe('at least 0.5 cores');
    expect(boundsText('cpu', { min: 0.5, max: 2 })).toBe('0.5 to 2 cores');
    expect(boundsText('memory', { min: 0, max: 2 ** 30 })).toBe('0 B to 1.0 GiB');
  });
});

describe('bounds of a container', () => {
  const room = { host: 'n1', capacity: 8, others: 7, unbounded: 1 };

  it('are compared with its host and the others there', () => {
    const containers = [
      row('a', 2),
      row('b', 4),
      row('c', null),
      row('d', 9, { gone: true }),
      row('e', 9, { host: 'n2' }),
    ];
    expect(roomOf('cpu', { host: 'n1', name: 'a' }, 8, containers)).toEqual({
      host: 'n1',
      capacity: 8,
      others: 4,
      unbounded: 1,
    });
  });

  it('may not be more than the host has, and are told when all could not have theirs', () => {
    expect(judgeOne('cpu', { min: '', max: '9' }, 1, room).wrong).toBe('That is more than n1 has, 8 cores.');
    const much = judgeOne('cpu', { min: '0.5', max: '5' }, 1, room);
    expect(much.bounds).toEqual({ min: 0.5, max: 5 });
    expect(much.notes).toHaveLength(1);
    expect(much.notes[0]).toMatch(/1\.5 times what it has.*1 there have no bounds/);
    expect(judgeOne('cpu', { min: '', max: '1' }, 1, room)).toEqual({ bounds: { min: 0, max: 1 }, notes: [] });
  });

  it('need a most, which is all of the host unless it is said', () => {
    expect(judgeOne('cpu', { min: '1', max: '' }, 1, room).bounds).toEqual({ min: 1, max: 8 });
    expect(judgeOne('cpu', { min: '1', max: '' }, 1, { ...room, capacity: null }).wrong).toMatch(/Say the most/);
    expect(judgeOne('cpu', { min: '3', max: '2' }, 1, room).wrong).toMatch(/least is more/);
    expect(judgeOne('cpu', { min: '', max: '0' }, 1, room).wrong).toMatch(/could not run/);
    expect(judgeOne('cpu', { min: 'x', max: '2' }, 1, room).wrong).toMatch(/1\.5/);
  });

  it('leave a limit outside of them where it is until a rule moves it', () => {
    const free = { ...room, others: 0 };
    expect(judgeOne('cpu', { min: '', max: '1' }, 2, free).notes[0]).toMatch(/^Its limit is 2 cores now\. That stays/);
    expect(judgeOne('cpu', { min: '', max: '1' }, null, free).notes[0]).toMatch(/^It has no limit now/);
  });
});
