export { default as Groups } from './Groups.svelte';
export { default as Hosts } from './Hosts.svelte';
