import { flushSync } from 'svelte';
import { CHART, SERIES, type ThemeName } from './palette';

export type ThemeChoice = 'auto' | ThemeName;
const CHOICES: ThemeChoice[] = ['auto', 'light', 'dark'];
const KEY = 'tidegate.theme';

function stored(): ThemeChoice {
  try {
    const value = localStorage.getItem(KEY) as ThemeChoice | null;
    return value !== null && CHOICES.includes(value) ? value : 'auto';
  } catch {
    return 'auto'; // storage may be forbidden
  }
}

/** Which theme is chosen and which one is shown. */
class Theme {
  choice = $state<ThemeChoice>(stored());
  #prefersDark = $state(false);
  /** On paper everything is light. */
  printing = $state(false);
  shown = $derived<ThemeName>(
    this.printing ? 'light' : this.choice === 'auto' ? (this.#prefersDark ? 'dark' : 'light') : this.choice,
  );

  constructor() {
    const media = matchMedia('(prefers-color-scheme: dark)');
    this.#prefersDark = media.matches;
    media.addEventListener('change', () => {
      this.#prefersDark = media.matches;
      this.apply();
    });
    // What is on canvases has to be drawn anew before the browser takes its picture of the page.
    for (const [event, printing] of [
      ['beforeprint', true],
      ['afterprint', false],
    ] as const) {
      addEventListener(event, () => {
        this.printing = printing;
        this.apply();
        flushSync();
      });
    }
    this.apply();
  }

  get series() {
    return SERIES[this.shown];
  }

  get chart() {
    return CHART[this.shown];
  }

  /** auto, light, dark, auto ... */
  next(): void {
    this.choice = CHOICES[(CHOICES.indexOf(this.choice) + 1) % CHOICES.length] ?? 'auto';
    try {
      localStorage.setItem(KEY, this.choice);
    } catch {
      // then it lasts until the page is left
    }
    this.apply();
  }

  apply(): void {
    const root = document.documentElement;
    root.dataset['theme'] = this.shown;
    for (const [name, value] of Object.entries(this.series)) root.style.setProperty(`--s-${name}`, value);
  }
}

export const theme = new Theme();
