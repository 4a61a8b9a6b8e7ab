// Writes the dashboards of a folder as TypeScript that only compiles where Grafana's own types hold:
//   node typed.mjs FOLDER >boards.ts
import { readdirSync, readFileSync } from 'node:fs';

const [folder] = process.argv.slice(2);
const files = readdirSync(folder).filter((name) => name.endsWith('.json')).sort();
const boards = files.map((name) => JSON.parse(readFileSync(`${folder}/${name}`, 'utf8')));
const kinds = [...new Set(boards.flatMap((board) => board.panels.map((panel) => panel.type)))].sort();

const lines = [`import type { Dashboard } from '@grafana/schema';`];
for (const kind of kinds) {
  // The package's door does not show what panels may be set to; its files do.
  const file = `./node_modules/@grafana/schema/dist/types/raw/composable/${kind}/panelcfg/x/types.gen`;
  lines.push(`import type * as ${kind} from '${file}';`);
}
// JSON has the values of an enum, not its names.
lines.push('type Plain<T> = T extends string ? `${T}` : T extends (infer U)[] ? Plain<U>[]');
lines.push('  : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;');
boards.forEach((board, at) => {
  lines.push(`export const board${at}: Dashboard = ${JSON.stringify(board, null, 1)};`);
  for (const panel of board.panels) {
    const name = `board${at}_panel${panel.id}`;
    lines.push(`export const ${name}: Plain<Partial<${panel.type}.Options>> = ${JSON.stringify(panel.options)};`);
    const custom = JSON.stringify(panel.fieldConfig.defaults.custom);
    // A stat has nothing of its own there.
    if (panel.type === 'stat') lines.push(`export const ${name}_custom: Record<string, never> = ${custom};`);
    else lines.push(`export const ${name}_custom: Plain<Partial<${panel.type}.FieldConfig>> = ${custom};`);
  }
});
console.log(lines.join('\n'));
