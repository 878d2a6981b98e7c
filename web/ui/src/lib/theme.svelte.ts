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
  shown = $derived<ThemeName>(this.choice === 'auto' ? (this.#prefersDark ? 'dark' : 'light') : this.choice);

  constructor() {
    const media = matchMedia('(prefers-color-scheme: dark)');
    this.#prefersDark = media.matches;
    media.addEventListener('change', () => {
      this.#prefersDark = media.matches;
      this.apply();
    });
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
