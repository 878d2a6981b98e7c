/** The API's description as the reference page shows it: an OpenAPI 3.1 document, read at run time. */
import { quoted } from './clipboard';

export interface SchemaNode {
  $ref?: string;
  type?: string | string[];
  format?: string;
  description?: string;
  properties?: Record<string, SchemaNode>;
  required?: string[];
  additionalProperties?: boolean | SchemaNode;
  items?: SchemaNode;
  oneOf?: SchemaNode[];
  allOf?: SchemaNode[];
  enum?: unknown[];
  pattern?: string;
  minimum?: number;
  maxLength?: number;
  example?: unknown;
}

interface Content {
  schema?: SchemaNode;
  example?: unknown;
}

export interface Parameter {
  name: string;
  in: 'path' | 'query' | 'header';
  required?: boolean;
  description?: string;
  schema?: SchemaNode;
  example?: unknown;
}

interface Operation {
  tags?: string[];
  summary?: string;
  description?: string;
  operationId: string;
  parameters?: Parameter[];
  requestBody?: { required?: boolean; description?: string; content: Record<string, Content> };
  responses: Record<string, { description: string; content?: Record<string, Content> }>;
  security?: Record<string, string[]>[];
}

export interface OpenApi {
  openapi: string;
  info: { title: string; version: string; description?: string };
  tags?: { name: string; description?: string }[];
  paths: Record<string, Record<string, Operation>>;
  components?: { schemas?: Record<string, SchemaNode> };
}

/** A body or an answer in one of its forms. */
export interface Form {
  type: string;
  schema: SchemaNode | null;
  example: unknown;
}

export interface Answer {
  status: string;
  description: string;
  forms: Form[];
}

export interface Entry {
  id: string;
  method: string;
  path: string;
  tag: string;
  summary: string;
  description: string;
  /** The right that it needs. */
  right: string | null;
  parameters: Parameter[];
  body: { required: boolean; description: string; forms: Form[] } | null;
  answers: Answer[];
}

export interface Group {
  name: string;
  description: string;
  entries: Entry[];
}

export interface Field {
  name: string;
  schema: SchemaNode;
  required: boolean;
}

const formsOf = (content: Record<string, Content> = {}): Form[] =>
  Object.entries(content).map(([type, { schema, example }]) => ({ type, schema: schema ?? null, example }));

function entry(path: string, method: string, operation: Operation): Entry {
  const { requestBody: body } = operation;
  return {
    id: operation.operationId,
    method: method.toUpperCase(),
    path,
    tag: operation.tags?.[0] ?? 'other',
    summary: (operation.summary ?? operation.operationId).replace(/\.$/, ''),
    description: operation.description ?? '',
    right: Object.values(operation.security?.[0] ?? {})[0]?.[0] ?? null,
    parameters: operation.parameters ?? [],
    body: body
      ? { required: body.required === true, description: body.description ?? '', forms: formsOf(body.content) }
      : null,
    answers: Object.entries(operation.responses).map(([status, { description, content }]) => ({
      status,
      description,
      forms: formsOf(content),
    })),
  };
}

/** All operations, in the order of the document's tags. */
export function groupsOf(document: OpenApi): Group[] {
  const entries = Object.entries(document.paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => entry(path, method, operation)),
  );
  const named = (document.tags ?? []).map(({ name, description = '' }) => ({ name, description }));
  const others = [...new Set(entries.map((one) => one.tag))].filter((tag) => !named.some(({ name }) => name === tag));
  return [...named, ...others.map((name) => ({ name, description: '' }))]
    .map((group) => ({ ...group, entries: entries.filter((one) => one.tag === group.name) }))
    .filter((group) => group.entries.length > 0);
}

/** Whether each word of a filter is somewhere in what a person would look for. */
export function matches(one: Entry, filter: string): boolean {
  const names = one.parameters.map((parameter) => parameter.name);
  const text = [one.method, one.path, one.summary, one.description, one.id, one.tag, one.right, ...names];
  const within = text.join(' ').toLowerCase();
  return filter
    .toLowerCase()
    .split(/\s+/)
    .every((word) => within.includes(word));
}

/** What a reference stands for, with its name. */
export function resolved(document: OpenApi, schema: SchemaNode): { schema: SchemaNode; name: string | null } {
  const name = schema.$ref?.split('/').at(-1);
  if (name === undefined) return { schema, name: null };
  return { schema: document.components?.schemas?.[name] ?? {}, name };
}

const isNull = (schema: SchemaNode) => schema.type === 'null';
const kindsOf = (schema: SchemaNode) => [schema.type ?? []].flat().filter((kind) => kind !== 'null');

/** The forms that a value may have, without null. */
function alternatives(schema: SchemaNode): SchemaNode[] {
  return (schema.oneOf ?? []).filter((one) => !isNull(one));
}

function mayBeNull(schema: SchemaNode): boolean {
  return [schema.type ?? []].flat().includes('null') || (schema.oneOf ?? []).some(isNull);
}

const KINDS: Record<string, string> = { string: 'text', integer: 'whole number', object: 'object' };

/** A schema in a few words: `list of Decision`, `text or null`. */
export function typeOf(document: OpenApi, given: SchemaNode): string {
  const { schema, name } = resolved(document, given);
  const word = wordOf(document, schema, name);
  return mayBeNull(schema) ? `${word} or null` : word;
}

function wordOf(document: OpenApi, schema: SchemaNode, name: string | null): string {
  if (schema.enum) return schema.enum.map(String).join(' | ');
  const [only, ...more] = alternatives(schema);
  if (only && more.length === 0) return typeOf(document, only);
  if (name !== null && (schema.properties || schema.allOf || only)) return name;
  if (only) return [only, ...more].map((one) => typeOf(document, one)).join(', or ');
  if (schema.allOf) return 'object';
  if (schema.items) return `list of ${typeOf(document, schema.items)}`;
  if (typeof schema.additionalProperties === 'object') {
    return `object, each value ${typeOf(document, schema.additionalProperties)}`;
  }
  if (schema.format === 'binary') return 'bytes';
  const kinds = kindsOf(schema);
  return kinds.length === 0 ? 'anything' : kinds.map((kind) => KINDS[kind] ?? kind).join(' or ');
}

/** What is inside of a schema: the objects that it is, holds or may be, each with its name. */
export function partsOf(document: OpenApi, given: SchemaNode): { schema: SchemaNode; name: string | null }[] {
  const { schema, name } = resolved(document, given);
  if (schema.properties || schema.allOf) return [{ schema, name }];
  if (schema.oneOf) return alternatives(schema).flatMap((one) => partsOf(document, one));
  if (schema.items) return partsOf(document, schema.items);
  if (typeof schema.additionalProperties === 'object') return partsOf(document, schema.additionalProperties);
  return [];
}

/** The fields of an object, with those of all its parts; what must be there first, each as the document has it. */
export function fieldsOf(document: OpenApi, given: SchemaNode): Field[] {
  const { schema } = resolved(document, given);
  const own = Object.entries(schema.properties ?? {}).map(([name, of]) => ({
    name,
    schema: of,
    required: schema.required?.includes(name) === true,
  }));
  return [...own, ...(schema.allOf ?? []).flatMap((part) => fieldsOf(document, part))];
}

/** The text beside a field: its own, or that of what it is. */
export function textOf(document: OpenApi, given: SchemaNode): string {
  const [only, ...more] = alternatives(given);
  const own = given.description ?? (only && more.length === 0 ? textOf(document, only) : undefined);
  const { schema, name } = resolved(document, given);
  const text = own ?? (name !== null ? schema.description : undefined) ?? '';
  const bound = schema.maxLength === undefined ? '' : `At most ${schema.maxLength} characters.`;
  return [text, bound].filter(Boolean).join(' ');
}

/** A value that fits, with no more in it than must be. */
export function exampleOf(document: OpenApi, given: SchemaNode, depth = 0): unknown {
  const { schema } = resolved(document, given);
  if (schema.example !== undefined) return schema.example;
  if (schema.enum) return schema.enum[0];
  const [first] = alternatives(schema);
  if (first) return exampleOf(document, first, depth);
  if (schema.items) return depth > 4 ? [] : [exampleOf(document, schema.items, depth + 1)];
  if (schema.properties || schema.allOf) {
    const fields = fieldsOf(document, schema);
    const needed = fields.filter((field) => field.required);
    // Where nothing must be there, the first field shows at least how it is written.
    const shown = needed.length > 0 || depth > 0 ? needed : fields.slice(0, 1);
    return Object.fromEntries(shown.map(({ name, schema: of }) => [name, exampleOf(document, of, depth + 1)]));
  }
  if (typeof schema.additionalProperties === 'object') {
    return { name: exampleOf(document, schema.additionalProperties, depth + 1) };
  }
  if (mayBeNull(schema)) return null;
  const kind = kindsOf(schema)[0];
  return kind === 'integer' || kind === 'number' ? 1 : kind === 'boolean' ? false : kind === 'object' ? {} : 'text';
}

/** The command that calls an operation of the server at `url`; what is to be filled in is in capitals. */
export function curlOf(document: OpenApi, one: Entry, url: string, token: boolean): string {
  const path = one.path.replace(/\{(\w+)\}/g, (_, name: string) => name.toUpperCase());
  const query = one.parameters
    .filter((parameter) => parameter.in === 'query' && parameter.required)
    .map((parameter) => `${parameter.name}=${String(parameter.example ?? parameter.name.toUpperCase())}`)
    .join('&');
  const form = one.body?.forms[0];
  const answers = one.answers.flatMap((answer) => answer.forms.map((of) => of.type));
  const lines = [
    `curl -s${answers.includes('text/event-stream') ? 'N' : ''}${one.method === 'GET' ? '' : ` -X ${one.method}`} ` +
      quoted(`${url}${path}${query ? `?${query}` : ''}`),
  ];
  if (token && one.right !== null) lines.push(`-H 'authorization: Bearer TOKEN'`);
  if (form) lines.push(`-H 'content-type: ${form.type}'`, bodyOf(document, form));
  return lines.join(' \\\n  ');
}

function bodyOf(document: OpenApi, form: Form): string {
  const binary = form.schema !== null && resolved(document, form.schema).schema.format === 'binary';
  if (binary || form.schema === null) return '--data-binary @FILE';
  const example = form.example ?? exampleOf(document, form.schema);
  return `-d ${quoted(typeof example === 'string' ? example : JSON.stringify(example))}`;
}
