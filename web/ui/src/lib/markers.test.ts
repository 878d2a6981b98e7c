import { expect, it } from 'vitest';
import { cluster } from './markers';

it('marks that would overlap become one that counts', () => {
  const groups = cluster([30, 0, 5, 100, 12], (x) => x, 14);
  expect(groups.map(({ items }) => items)).toEqual([[0, 5, 12], [30], [100]]);
  expect(groups.map(({ x }) => x)).toEqual([0, 30, 100]);
});

it('a long chain of near marks does not become one', () => {
  const groups = cluster(
    Array.from({ length: 30 }, (_, at) => at * 10),
    (x) => x,
    14,
  );
  expect(groups.length).toBe(15);
});

it('nothing gives nothing', () => expect(cluster([], Number, 14)).toEqual([]));
