/** Texts of rules. */

export const NEW_RULE = `CREATE RULE my_rule
WITH (every = '1s', class = 'protect', mode = 'shadow', cooldown_down = '60s', step_down = 0.05)
AS
SELECT host, container, resource,
       usage_max * 1.25 AS target,
       'peak of the last minute plus 25 %' AS reason
FROM recent(INTERVAL '60 seconds')
WHERE resource = 'cpu' AND usage_max > upper
`;

/** The statement that changes an existing rule: CREATE becomes CREATE OR REPLACE, everything else stays in place. */
export function replacing(sql: string): string {
  return sql.replace(/^(\s*(?:--[^\n]*\n\s*)*)create\s+rule\b/i, '$1CREATE OR REPLACE RULE');
}

/** The name in the first CREATE RULE of a text. */
export function ruleNameIn(sql: string): string | null {
  const found = /\bcreate\s+(?:or\s+replace\s+)?rule\s+(?:"((?:[^"]|"")+)"|(\w+))/i.exec(sql);
  return found?.[1]?.replaceAll('""', '"') ?? found?.[2] ?? null;
}
