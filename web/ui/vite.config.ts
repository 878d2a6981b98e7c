import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vitest/config';

// Where `npm run dev` finds an API: the mock by default, a real server by TIDEGATE_URL.
const api = process.env['TIDEGATE_URL'] ?? 'http://127.0.0.1:8499';

export default defineConfig({
  // Relative, so that the dashboard works behind any path prefix.
  base: './',
  plugins: [svelte()],
  build: {
    outDir: '../dist',
    emptyOutDir: true,
    target: 'es2022',
    sourcemap: false,
    // `default-src 'self'` forbids data: URLs, so nothing may be inlined.
    assetsInlineLimit: 0,
    // In one file it is 11 kB instead of 18, and no page waits for its own.
    cssCodeSplit: false,
    modulePreload: { polyfill: false },
    reportCompressedSize: true,
    rolldownOptions: {
      output: {
        entryFileNames: 'assets/[name]-[hash].js',
        chunkFileNames: 'assets/[name]-[hash].js',
        assetFileNames: 'assets/[name]-[hash][extname]',
      },
    },
  },
  server: { proxy: { '/api': api } },
  test: { include: ['src/**/*.test.ts', 'test/**/*.test.ts'], environment: 'node' },
});
