export { default as Reference } from './Reference.svelte';
export { default as Send } from './Send.svelte';
export { default as Status } from './Status.svelte';
