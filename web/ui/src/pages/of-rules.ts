/** Pages that share most of what they are made of are fetched together. */
export { default as Rule } from './Rule.svelte';
export { default as Rules } from './Rules.svelte';
