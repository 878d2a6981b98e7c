/** Loads at once and then from time to time, as long as the component is there and somebody may look at it. */
export function refresh(load: () => Promise<void>, everyMs: number): void {
  $effect(() => {
    void load();
    const timer = setInterval(() => !document.hidden && void load(), everyMs);
    return () => clearInterval(timer);
  });
}
