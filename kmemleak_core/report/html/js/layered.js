// Places a cluster in columns: its head, what that refers to, what these refer to, and so on.
// What is long and thin, as a list is, goes to and fro in several lines.
// Returns null where that would take too many columns or rows to be read.

const MOST_COLUMNS = 8, MOST_ROWS = 14, THIN = 2;

function layered(count, edges) {
  const from = Array.from({ length: count }, () => []);
  const into = Array.from({ length: count }, () => []);
  for (const [source, target] of edges) {
    from[source].push(target);
    into[target].push(source);
  }
  const depth = new Array(count).fill(-1);
  const columns = [[0]];
  depth[0] = 0;
  for (let column = columns[0]; column.length; column = columns[columns.length - 1]) {
    const next = [];
    for (const node of column) {
      for (const target of from[node]) {
        if (depth[target] < 0) {
          depth[target] = columns.length;
          next.push(target);
        }
      }
    }
    columns.push(next);
  }
  columns.pop();
  const rows = Math.max(...columns.map((column) => column.length));
  // A member whose reference was left out has no place of its own.
  const long = columns.length > MOST_COLUMNS;
  if (rows > (long ? THIN : MOST_ROWS) || depth.includes(-1)) return null;

  const place = new Array(count).fill(0);
  const spread = (column) => column.forEach((node, at) => {
    place[node] = at - (column.length - 1) / 2;
  });
  columns.forEach(spread);
  const middle = (node) => {
    const before = into[node].filter((source) => depth[source] < depth[node]);
    return before.reduce((sum, source) => sum + place[source], 0) / before.length;
  };
  for (const column of columns.slice(1)) {
    const wanted = new Map(column.map((node) => [node, middle(node)]));
    column.sort((a, b) => wanted.get(a) - wanted.get(b) || a - b);
    spread(column);
  }
  const nodes = depth.map((column, node) => {
    if (!long) return [column * 150, place[node] * 46];
    const line = Math.floor(column / MOST_COLUMNS), along = column % MOST_COLUMNS;
    const x = line % 2 ? MOST_COLUMNS - 1 - along : along;
    return [x * 110, (line * (rows + 0.4) + place[node]) * 44];
  });
  return { nodes, straight: long, labels: !long || count <= 40 };
}
