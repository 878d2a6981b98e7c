/**
 * Colours of the series, one place for canvas and CSS. Any two differ by a wide margin also for people with protan,
 * deutan and tritan vision, and each stands out from its background; a test simulates that. Never colour alone:
 * each meaning has a second cue (line style, lane, glyph, word).
 */
export type Meaning = 'usage' | 'limit' | 'upper' | 'lower' | 'throttled' | 'oom';
export type ThemeName = 'light' | 'dark';

export const SERIES: Record<ThemeName, Record<Meaning, string>> = {
  light: {
    usage: '#0042DC',
    limit: '#16202B',
    upper: '#C28001',
    lower: '#0AA46F',
    throttled: '#60157E',
    oom: '#8E110F',
  },
  dark: {
    usage: '#3986AC',
    limit: '#E6EDF3',
    upper: '#FFC822',
    lower: '#24ED89',
    throttled: '#A601F9',
    oom: '#CA211B',
  },
};

/** What charts need besides the series; the same values as in app.css. */
export const CHART: Record<ThemeName, { surface: string; grid: string; text: string }> = {
  light: { surface: '#ffffff', grid: '#e6ebf0', text: '#566472' },
  dark: { surface: '#10171f', grid: '#1f2a34', text: '#97a6b4' },
};
