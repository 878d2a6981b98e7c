export { default as Decision } from './Decision.svelte';
export { default as Decisions } from './Decisions.svelte';
