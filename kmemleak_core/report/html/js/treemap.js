// A tile a group, as large as what fixing it would free (squarified, after Bruls and others).

const TILES = 240, MAP_HEIGHT = 260;

function treemap(onGroup) {
  const ranked = groups.filter((group) => group.freed > 0).sort((a, b) => b.freed - a.freed || a.row - b.row);
  const tiles = ranked.slice(0, TILES).map((group) => ({ value: group.freed, group }));
  const rest = ranked.slice(TILES);
  const others = data.parts[0].others;
  const value = rest.reduce((sum, group) => sum + group.freed, others ? others.freed : 0);
  const folded = rest.length + (others ? others.groups : 0);
  if (value > 0) tiles.push({ value, folded });
  if (!tiles.length) return;
  document.getElementById("map").hidden = false;

  const host = document.getElementById("tiles");
  let chosen = 0, width = 0;
  function draw() {
    if (host.clientWidth === width) return;
    width = host.clientWidth;
    const picture = drawn("svg", {
      width, height: MAP_HEIGHT, role: "group",
      "aria-label": "Groups by what fixing them would free; arrow keys go from one to the next",
    });
    squarify(tiles, width, MAP_HEIGHT).forEach(([x, y, w, h], i) => {
      picture.append(tileOf(tiles[i], i, x, y, w, h));
    });
    host.replaceChildren(picture);
  }

  function tileOf({ value, group, folded }, i, x, y, w, h) {
    const title = group ? group.kind || group.caller : countText(folded, "smaller group");
    // Where nothing has a name, the figures stand first.
    const [name, bytes] = title ? [title, sizeText(value)]
      : [sizeText(value), countText(group.objects, "object")];
    const step = group ? Math.min(4, Math.floor(5 * group.heldBytes / group.freed)) : "none";
    const text = `${name}, ${bytes}`;
    const tile = drawn("g", { class: `tile step${step}`, transform: `translate(${x} ${y})` },
      drawn("title", {}, text),
      drawn("rect", { width: Math.max(0, w - 2), height: Math.max(0, h - 2), rx: 3 }));
    if (group) {
      fill(tile, {
        role: "button", tabindex: i === chosen ? 0 : -1, "aria-label": text, "data-row": group.row,
        onclick: () => onGroup(group), onfocus: () => { chosen = i; },
        onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); onGroup(group); } },
      }, []);
    }
    const fits = (label, size) => label.length * size * 0.53 < w - 12;
    const letters = Math.floor((w - 12) / 6.6);
    if (h > 42 && fits(bytes, 12)) {
      const short = name.length <= letters ? name : `${name.slice(0, Math.max(0, letters - 1))}\u2026`;
      tile.append(drawn("text", { x: 8, y: 19 }, letters > 3 ? short : ""), drawn("text", { class: "bytes", x: 8, y: 35 }, bytes));
    } else if (h > 20 && fits(sizeText(value), 12)) {
      tile.append(drawn("text", { class: "bytes", x: 6, y: 15 }, sizeText(value)));
    }
    return tile;
  }

  host.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const nodes = [...host.querySelectorAll("[role=button]")];
    if (!step || !nodes.length) return;
    event.preventDefault();
    nodes[chosen]?.setAttribute("tabindex", -1);
    chosen = (chosen + step + nodes.length) % nodes.length;
    nodes[chosen].setAttribute("tabindex", 0);
    nodes[chosen].focus();
  });
  new ResizeObserver(draw).observe(host);
  draw();
}

// Returns x, y, width and height of each tile; values fall, but perhaps for the last.
function squarify(tiles, width, height) {
  const scale = width * height / tiles.reduce((sum, tile) => sum + tile.value, 0);
  const areas = tiles.map((tile) => tile.value * scale);
  const found = [];
  let x = 0, y = 0, w = width, h = height;
  for (let start = 0; start < areas.length;) {
    const side = Math.max(1, Math.min(w, h));
    let end = start, line = 0, worst = Infinity;
    for (; end < areas.length; end++) {
      const some = areas.slice(start, end + 1), thick = (line + areas[end]) / side;
      const ratio = Math.max(thick ** 2 / Math.min(...some), Math.max(...some) / thick ** 2);
      if (ratio > worst) break;
      worst = ratio;
      line += areas[end];
    }
    const thick = line / side;
    let along = 0;
    for (; start < end; start++) {
      const length = areas[start] / thick;
      found.push(w >= h ? [x, y + along, thick, length] : [x + along, y, length, thick]);
      along += length;
    }
    if (w >= h) [x, w] = [x + thick, w - thick];
    else [y, h] = [y + thick, h - thick];
  }
  return found;
}
