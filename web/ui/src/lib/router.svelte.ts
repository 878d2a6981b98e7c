import { hashOfRoute, parseHash, type Route } from './route';

/** The address bar as reactive state. */
class Router {
  route = $state.raw<Route>(parseHash(location.hash));

  constructor() {
    addEventListener('hashchange', () => (this.route = parseHash(location.hash)));
  }

  /** Opens an address and adds it to the browser's history. */
  go(hash: string): void {
    location.hash = hash;
  }

  /** Changes query values of the present page; `null` removes one. `push` adds a step to the history. */
  query(patch: Record<string, string | null>, push = false): void {
    const merged: [string, string | null][] = Object.entries({ ...this.route.query, ...patch });
    const query = Object.fromEntries(
      merged.filter((pair): pair is [string, string] => pair[1] !== null && pair[1] !== ''),
    );
    const route = { ...this.route, query };
    if (push) history.pushState(null, '', hashOfRoute(route));
    else history.replaceState(null, '', hashOfRoute(route));
    this.route = route;
  }
}

export const router = new Router();
