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
      dx[i] -= x[i] * 0.02;
      dy[i] -= y[i] * 0.02;
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
  return { nodes: Array.from(x, (at, i) => [at, y[i]]), straight: true, labels: false };
}
