import { describe, expect, it } from 'vitest';
import { changesOf, fieldsOf, freeName, pickedOf, picksOf, tagsOf, tagsText, type Experiment } from './experiments';

const stretch = (name: string, start: number, end: number | null) => ({ name, start, end, info: '', tags: {} });
const experiments: Experiment[] = [
  {
    ...stretch('sort', 10_000, null),
    user: 'me',
    tests: [stretch('warm up', 11_000, 15_000), stretch('run', 16_000, null)],
    changed_by: 'me',
    changed_at: 0,
  },
  { ...stretch('old', 5_000, 5_000), user: 'me', tests: [], changed_by: 'me', changed_at: 0 },
];

describe('experiments', () => {
  it('are ranges to pick, with their tests below them', () => {
    expect(picksOf(experiments, 20_000)).toEqual([
      { label: 'sort', depth: 0, from: 10_000, to: 20_000 },
      { label: 'sort › warm up', depth: 1, from: 11_000, to: 15_000 },
      { label: 'sort › run', depth: 1, from: 16_000, to: 20_000 },
      { label: 'old', depth: 0, from: 5_000, to: 6_000 },
    ]);
  });

  it('are found again by the range that was picked, also when they have gone on since', () => {
    const picks = picksOf(experiments, 30_000);
    expect(pickedOf(picks, 11_000, 15_000)?.label).toBe('sort › warm up');
    expect(pickedOf(picks, 16_000, 20_000)?.label).toBe('sort › run');
    expect(pickedOf(picks, 1, 2)).toBeUndefined();
  });

  it('have tags that are written as people write them', () => {
    expect(tagsOf(' size=1 TB, run = 3,warm,, =odd')).toEqual({ size: '1 TB', run: '3', warm: 'yes', odd: 'yes' });
    expect(tagsText({ size: '1 TB', warm: 'yes' })).toBe('size=1 TB, warm=yes');
    expect(tagsOf('')).toEqual({});
  });

  it('get a name that is free', () => {
    expect(freeName('test', [])).toBe('test 1');
    expect(freeName('test', ['a', 'test 3'])).toBe('test 4');
  });

  describe('are changed by what a form says', () => {
    const one = stretch('run', Date.parse('2026-11-28T10:00:00.250'), null);
    const body = (fields: object) => changesOf(one, { ...fieldsOf(one), ...fields });

    it('in what was changed alone, so that ms stay where nobody touched them', () => {
      expect(fieldsOf(one)).toMatchObject({ start: '2026-11-28T10:00:00', end: '' });
      expect(body({})).toEqual({ body: {} });
      expect(body({ name: ' walk ', tags: 'a=1' })).toEqual({ body: { name: 'walk', tags: { a: '1' } } });
      expect(body({ end: '2026-11-28T10:30:00' })).toEqual({ body: { end: Date.parse('2026-11-28T10:30:00') } });
    });

    it('and run again when the end is emptied', () => {
      const ended = { ...one, end: one.start + 60_000 };
      expect(changesOf(ended, { ...fieldsOf(ended), end: '' })).toEqual({ body: { end: null } });
    });

    it('unless it makes no sense', () => {
      expect(body({ name: ' ' })).toEqual({ wrong: 'It needs a name.' });
      expect(body({ start: '' })).toEqual({ wrong: 'The start is no date and time.' });
      expect(body({ end: '2026-11-28' })).toEqual({ wrong: 'The end is no date and time.' });
      expect(body({ end: '2026-11-28T09:59:00' })).toEqual({ wrong: 'It ends before it starts.' });
    });
  });
});
