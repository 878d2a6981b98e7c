import svelte from 'eslint-plugin-svelte';
import ts from 'typescript-eslint';

export default ts.config(
  { ignores: ['node_modules', '../dist', 'src/lib/schema.d.ts'] },
  ...ts.configs.strict,
  ...svelte.configs.recommended,
  {
    files: ['**/*.svelte', '**/*.svelte.ts'],
    languageOptions: { parserOptions: { parser: ts.parser } },
  },
  {
    rules: {
      eqeqeq: 'error',
      'no-console': 'error',
      // A rule of SvelteKit's router, which is not used here.
      'svelte/no-navigation-without-resolve': 'off',
    },
  },
  { files: ['dev/**', 'e2e/**'], rules: { 'no-console': 'off' } },
);
