// Places a cluster by forces: members push each other away, references pull them together.
// Nothing is random: the same cluster looks the same every time.

const ROUNDS = 260, DISTANCE = 34;

function forced(count, edges) {
  const x = new Float64Array(count), y = new Float64Array(count);
  for (let i = 0; i < count; i++) {
    const angle = i * 2.399963, radius = DISTANCE * 0.7 * Math.sqrt(i);
    x[i] = radius * Math.cos(angle);
    y[i] = radius * Math.sin(angle);
  }
  const degree = new Float64Array(count).fill(1);
  for (const [source, target] of edges) {
    degree[source]++;
    degree[target]++;
  }
  for (let round = 0; round < ROUNDS; round++) {
    const heat = DISTANCE * (1 - round / ROUNDS) ** 1.5;
    const dx = new Float64Array(count), dy = new Float64Array(count);
    for (let i = 0; i < count; i++) {
      for (let j = i + 1; j < count; j++) {
        const u = x[i] - x[j], v = y[i] - y[j];
        const push = DISTANCE * DISTANCE / Math.max(u * u + v * v, 1);
        dx[i] += u * push;
        dy[i] += v * push;
        dx[j] -= u * push;
        dy[j] -= v * push;
      }
      dx[i] -= x[i] * 0.04;
      dy[i] -= y[i] * 0.04;
    }
    for (const [source, target] of edges) {
      const u = x[target] - x[source], v = y[target] - y[source];
      const length = Math.hypot(u, v);
      const pull = length / DISTANCE;
      dx[source] += u * pull / degree[source];
      dy[source] += v * pull / degree[source];
      dx[target] -= u * pull / degree[target];
      dy[target] -= v * pull / degree[target];
    }
    for (let i = 0; i < count; i++) {
      const length = Math.hypot(dx[i], dy[i]) || 1;
      const step = Math.min(length, heat) / length;
      x[i] += dx[i] * step;
      y[i] += dy[i] * step;
    }
  }
  return { nodes: wide(x, y), straight: true, labels: false };
}

// Turns the places so that they spread to the sides: pages are wide.
function wide(x, y) {
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const u = x.map((value) => value - mean(x)), v = y.map((value) => value - mean(y));
  const product = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  const angle = Math.atan2(2 * product(u, v), product(u, u) - product(v, v)) / 2;
  const cos = Math.cos(angle), sin = Math.sin(angle);
  return Array.from(u, (value, i) => [value * cos + v[i] * sin, v[i] * cos - value * sin]);
}
