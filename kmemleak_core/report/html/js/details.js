// Shows what is known of one group: figures, backtrace, references, contents, its largest cluster.

const MOST_LINKS = 6;

function details(group, onGroup) {
  const told = element("div", {}, facts(group));
  if (group.frames.length) {
    told.append(element("h3", {}, "Allocated by"), element("ol", { class: "frames" },
      ...group.frames.map((frame, at) =>
        element("li", { class: at === group.callerAt ? "caller" : "" }, frame))));
  }
  const links = element("div", { class: "links" });
  for (const [title, some] of [["Referred to by", referrers], ["Refers to", references]]) {
    if (some.has(group.row)) links.append(linkList(title, some.get(group.row), group, onGroup));
  }
  const seen = element("div", {}, ...contentsOf(group), links);
  return element("div", { class: "detail" }, told, seen, ...clusterPart(group, onGroup));
}

function facts(group) {
  const rows = [["Objects", objectsText(group)], ["Bytes", numberText(group.bytes)]];
  if (group.held) {
    rows.push(["Leads to", `${countText(group.held, "more object")}, ${sizeText(group.heldBytes)}, that nothing else leads to`]);
  }
  rows.push(["Each", `${sizesText(group)} bytes`], ["Contents", group.shape]);
  if (group.kind) rows.splice(2, 0, ["Type", group.kind]);
  if (group.possible) rows.push(["Possibly lost", group.possible]);
  if (group.earlier !== null) rows.push(["Baseline", countText(group.earlier, "object")]);
  rows.push([group.birth === null ? "Example" : "Oldest", exampleText(group)]);
  if (group.holder) rows.push(["Held by", group.holder]);
  if (data.core) rows.push(["Who held it", command("explain", group.example)]);
  const made = element("dl", { class: "pairs" });
  for (const [name, value] of rows) {
    made.append(element("div", {}, element("dt", {}, name), element("dd", {}, value)));
  }
  return made;
}

function command(name, address) {
  return element("code", {}, `kmemleak ${name} ${data.core} ${address}`);
}

function objectsText(group) {
  if (group.possible) return numberText(group.objects);
  if (!group.direct) return `${numberText(group.objects)}, only other leaks hold them`;
  if (!group.indirect) return `${numberText(group.objects)}, directly leaked`;
  return `${numberText(group.objects)}, of them ${numberText(group.direct)} directly leaked`;
}

function exampleText(group) {
  const parts = [group.example];
  if (group.comm) parts.push(`comm ${group.comm}`);
  if (group.pid !== null) parts.push(`pid ${group.pid}`);
  if (group.birth !== null) parts.push(`${data.clock} ${numberText(group.birth)}`);
  return parts.join(", ");
}

function linkList(title, links, group, onGroup) {
  const made = element("ul", {});
  for (const [row, words] of links.slice(0, MOST_LINKS)) {
    const target = row === group.row ? "each other" : element("button", {
      type: "button", class: "link", onclick: () => onGroup(groups[row]),
    }, nameOf(groups[row]));
    made.append(element("li", {}, target, `, ${countText(words, "word")}`));
  }
  const more = links.length - MOST_LINKS;
  if (more > 0) made.append(element("li", { class: "more" }, countText(more, "more group")));
  return element("div", {}, element("h3", {}, title), made);
}

function contentsOf(group) {
  if (data.redacted) return [];
  const encoded = group.content;
  const title = element("h3", {}, `First bytes of ${group.example}`);
  if (encoded === undefined) {
    const any = data.parts.some((part) => part.contents.length);
    return any ? [title, element("p", { class: "more" }, "left out: see --json")] : [];
  }
  if (!encoded) {
    return group.exampleSize ? [title, element("p", { class: "more" }, "not in the dump")] : [];
  }
  return [title, hexDump(encoded)];
}

function clusterPart(group, onGroup) {
  const cluster = clusterOf.get(group.row);
  if (!cluster) {
    const hint = data.core ? [": ", command("cluster", group.example)] : ["."];
    return group.held
      ? [element("p", { class: "more whole" }, "No picture of its clusters is in this file", ...hint)]
      : [];
  }
  const members = cluster.at.length + cluster.more;
  const place = element("div", { class: "whole" });
  const button = element("button", { type: "button", class: "draw", "aria-expanded": "false" },
    `Draw its largest cluster, ${countText(members, "object")}`);
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!open));
    place.replaceChildren(...(open ? [] : [drawCluster(cluster, onGroup)]));
  });
  return [element("div", { class: "whole" }, button), place];
}
