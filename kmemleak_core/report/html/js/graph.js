// Draws a cluster: its head, the members that it leads to, and who refers to whom.

const TONES = 6;

function drawCluster(cluster, onGroup) {
  const count = cluster.at.length;
  const edges = cluster.from.map((source, i) => [source, cluster.to[i]]);
  const { nodes, straight, labels } = layered(count, edges) ?? forced(count, edges);
  const radius = cluster.size.map((size) => 4 + Math.min(10, 2 * Math.log10(1 + size / 16)));
  const tones = tonesOf(cluster);

  const picture = drawn("svg", {
    class: "cluster", role: "group",
    "aria-label": `Cluster of ${countText(count, "object")}; arrow keys go from one to the next`,
  });
  picture.append(drawn("defs", {}, drawn("marker", {
    id: `arrow-${cluster.group}`, viewBox: "0 0 8 8", refX: 7, refY: 4,
    markerWidth: 6, markerHeight: 6, orient: "auto-start-reverse",
  }, drawn("path", { class: "tip", d: "M0 1 L7 4 L0 7 z" }))));
  const lines = edges.map(([source, target]) => drawn("path", {
    class: "edge", d: curve(nodes[source], nodes[target], radius[target], !straight),
    "marker-end": `url(#arrow-${cluster.group})`,
  }));
  picture.append(drawn("g", {}, ...lines));

  const about = element("p", { class: "about", role: "status", "aria-live": "polite" });
  const dots = cluster.at.map((address, i) => {
    const [x, y] = nodes[i];
    const dot = drawn("g", {
      class: `node tone${tones.get(cluster.of[i]) ?? 0}${i ? "" : " head"}`,
      transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`,
      tabindex: i ? -1 : 0, role: "button",
      "aria-label": `0x${address}, ${countText(cluster.size[i], "byte")}`,
      onclick: () => choose(i),
      onfocus: () => choose(i),
    }, drawn("circle", { r: radius[i].toFixed(1) }));
    dot.append(drawn("title", {}, `0x${address}, ${countText(cluster.size[i], "byte")}`));
    if (labels) {
      dot.append(drawn("text", { y: radius[i] + 13 }, sizeText(cluster.size[i])));
    }
    return dot;
  });
  picture.append(...dots);

  let chosen = -1;
  function choose(i) {
    if (i === chosen) return;
    dots[chosen]?.classList.remove("chosen");
    dots[chosen]?.setAttribute("tabindex", -1);
    chosen = i;
    dots[i].classList.add("chosen");
    dots[i].setAttribute("tabindex", 0);
    lines.forEach((line, at) => line.classList.toggle("near", edges[at].includes(i)));
    about.replaceChildren(...describe(cluster, edges, i, onGroup));
  }
  picture.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    dots[(chosen + step + count) % count].focus();
  });

  const xs = nodes.map(([x]) => x), ys = nodes.map(([, y]) => y);
  const left = Math.min(...xs) - 32, top = Math.min(...ys) - 24;
  const width = Math.max(...xs) - left + 32, height = Math.max(...ys) - top + (labels ? 36 : 24);
  picture.setAttribute("viewBox", `${left} ${top} ${width} ${height}`);
  picture.setAttribute("width", width);
  picture.setAttribute("height", height);
  choose(0);
  return element("figure", {}, element("div", { class: "canvas" }, picture),
    element("figcaption", {}, about, legend(cluster, tones)));
}

// The groups with the most members get a colour each; 0 is for all others.
function tonesOf(cluster) {
  const members = new Map();
  for (const of of cluster.of) members.set(of, (members.get(of) ?? 0) + 1);
  members.delete(-1);
  const ranked = [...members].sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, TONES);
  return new Map(ranked.map(([of], at) => [of, at + 1]));
}

function legend(cluster, tones) {
  const made = element("ul", { class: "legend" });
  for (const [of, tone] of tones) {
    const members = cluster.of.filter((other) => other === of).length;
    made.append(element("li", {}, element("i", { class: `dot tone${tone}` }),
      `${numberText(members)} \u00d7 ${kindOf(groups[of])}`));
  }
  if (cluster.more) {
    made.append(element("li", { class: "more" },
      `${countText(cluster.more, "more object")} left out`));
  }
  if (cluster.unseen) {
    made.append(element("li", { class: "more" },
      `${countText(cluster.unseen, "more reference")} left out`));
  }
  return made;
}

function describe(cluster, edges, i, onGroup) {
  const group = groups[cluster.of[i]];
  const from = edges.filter(([source]) => source === i).length;
  const into = edges.filter(([, target]) => target === i).length;
  const parts = [
    element("code", {}, `0x${cluster.at[i]}`),
    `${countText(cluster.size[i], "byte")}${i ? "" : ", the head"}`,
    group ? group.kind || group.shape : "in a small group",
    `refers to ${numberText(from)}, referred to by ${numberText(into)}`,
  ].map((part) => element("span", {}, part));
  if (group && group.row !== cluster.group) {
    parts.push(element("button", {
      type: "button", class: "link", onclick: () => onGroup(group),
    }, "show its group"));
  }
  return parts;
}

// From the middle of one dot to the edge of another.
function curve([x1, y1], [x2, y2], radius, bent) {
  const at = (x, y) => `${x.toFixed(1)} ${y.toFixed(1)}`;
  if (bent && x2 > x1) {
    const middle = (x1 + x2) / 2;
    return `M${at(x1, y1)} C${at(middle, y1)} ${at(middle, y2)} ${at(x2 - radius - 1, y2)}`;
  }
  // Back, or to the side: in an arc, so that it is told from the way there.
  const u = x2 - x1, v = y2 - y1, length = Math.hypot(u, v) || 1;
  const lift = bent ? 0.25 : 0.06;
  const x = (x1 + x2) / 2 - v * lift, y = (y1 + y2) / 2 + u * lift;
  const last = Math.hypot(x2 - x, y2 - y) || 1, rest = (radius + 1) / last;
  return `M${at(x1, y1)} Q${at(x, y)} ${at(x2 - (x2 - x) * rest, y2 - (y2 - y) * rest)}`;
}
