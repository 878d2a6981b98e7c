/** Keyboard shortcuts that work on every page. */

export const SHORTCUTS: { keys: string; does: string }[] = [
  { keys: 'g f', does: 'go to the fleet' },
  { keys: 'g r', does: 'go to the rules' },
  { keys: 'g d', does: 'go to the decisions' },
  { keys: 'g s', does: 'go to the SQL console' },
  { keys: 'g h', does: 'go to the hosts' },
  { keys: 'g u', does: 'go to the apps and users' },
  { keys: 'g p', does: 'go to sending (pushing) data' },
  { keys: 'g e', does: 'go to the reports and experiments' },
  { keys: 'g t', does: 'go to the status' },
  { keys: 'g a', does: 'go to the API reference' },
  { keys: '/', does: 'filter' },
  { keys: 'l', does: 'back to live (container, reports)' },
  { keys: 't', does: 'theme: auto, light, dark' },
  { keys: 'Ctrl Enter', does: 'run the query (editor)' },
  { keys: 'Ctrl S', does: 'save the rule or the query (editor)' },
  { keys: 'Shift F', does: 'the kill switch (it asks first)' },
  { keys: 'Esc', does: 'close what is open' },
  { keys: '?', does: 'this help' },
];

const PAGES: Record<string, string> = {
  f: '#/',
  r: '#/rules',
  d: '#/decisions',
  s: '#/sql',
  h: '#/hosts',
  u: '#/groups',
  p: '#/send',
  e: '#/reports',
  t: '#/status',
  a: '#/reference',
};

export interface Actions {
  go: (hash: string) => void;
  theme: () => void;
  help: () => void;
  filter: () => void;
  live: () => void;
  freeze: () => void;
}

/** Typing into a field or the editor is never a shortcut. */
function isTyping(target: EventTarget | null): boolean {
  if (!(target instanceof HTMLElement)) return false;
  return target.isContentEditable || ['INPUT', 'TEXTAREA', 'SELECT'].includes(target.tagName);
}

/** A listener for `keydown`; `g` waits a second for its second key. */
export function shortcuts(actions: Actions): (event: KeyboardEvent) => void {
  let pending = 0;
  return (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    if (document.querySelector('dialog[open]')) return;
    const afterG = performance.now() - pending < 1000;
    pending = 0;
    const page = PAGES[event.key];
    if (afterG && page !== undefined) actions.go(page);
    else if (event.key === 'g') pending = performance.now();
    else if (event.key === 't') actions.theme();
    else if (event.key === '?') actions.help();
    else if (event.key === 'l') actions.live();
    else if (event.key === 'F') actions.freeze();
    else if (event.key === '/') actions.filter();
    else return;
    event.preventDefault();
  };
}
