// The table of groups: filtered, sorted, a page at a time; a row opens into its details.

const PER_PAGE = 50;
const TEXTS = ["kind", "shape", "example"];

function groupTable() {
  const body = document.getElementById("rows");
  const headers = [...document.querySelectorAll("#table th")];
  const inputs = Object.fromEntries(
    ["filter", "least", "kind"].map((name) => [name, document.getElementById(name)]));
  const [previous, next] = ["previous", "next"].map((name) => document.getElementById(name));
  const columns = headers.length + 1;
  document.querySelector("#kind [value=possible]").hidden = !groups.some((group) => group.possible);
  const most = Math.max(1, ...groups.map((group) => group.freed));
  const open = new Set();
  // As the report is sorted, until a column is chosen.
  const asReported = { key: { bytes: "freed", count: "objects", size: "size" }[data.sort] ?? "", down: true, own: true };
  const sort = { ...asReported };
  let shown = groups, page = 0;

  const named = groups.some((group) => group.kind || group.caller);
  document.getElementById("table").classList.toggle("nameless", !named);

  function find() {
    const terms = inputs.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const least = inputs.least.value.trim() ? parseSize(inputs.least.value) : 0;
    inputs.least.setAttribute("aria-invalid", String(least === null));
    const kind = inputs.kind.value;
    shown = groups.filter((group) => group.bytes >= (least ?? 0)
      && (!kind || isLeaked(group, kind))
      && terms.every((term) => group.search.includes(term)));
    if (!sort.own) {
      const sign = sort.down ? -1 : 1, key = sort.key;
      const compare = key === "example"
        ? (a, b) => a.example.length - b.example.length || (a.example < b.example ? -1 : 1)
        : TEXTS.includes(key)
          ? (a, b) => (label(a, key) < label(b, key) ? -1 : label(a, key) > label(b, key) ? 1 : 0)
          : (a, b) => a[key] - b[key];
      shown.sort((a, b) => sign * compare(a, b) || a.row - b.row);
    }
    page = 0;
    show();
  }

  function isLeaked(group, kind) {
    if (kind === "possible" || group.possible) return kind === "possible" && group.possible;
    return kind === "direct" ? group.direct : !group.direct;
  }

  function label(group, key) {
    return key === "kind" ? group.kind || group.caller : group[key];
  }

  function show() {
    for (const header of headers) {
      const sorted = header.dataset.key === sort.key;
      header.setAttribute("aria-sort", !sorted ? "none" : sort.down ? "descending" : "ascending");
    }
    const some = shown.slice(page * PER_PAGE, (page + 1) * PER_PAGE);
    body.replaceChildren(...some.flatMap(rowsOf), ...lastRows(some.length));
    const pages = Math.max(1, Math.ceil(shown.length / PER_PAGE));
    document.getElementById("pages").hidden = pages === 1;
    document.getElementById("place").textContent = `Page ${numberText(page + 1)} of ${numberText(pages)}`;
    previous.disabled = page === 0;
    next.disabled = page === pages - 1;
    const leaks = shown.filter((group) => !group.possible);
    const possible = shown.filter((group) => group.possible);
    const found = shown.length < groups.length
      ? `${numberText(shown.length)} of ${countText(groups.length, "group")}`
      : countText(groups.length, "group");
    const sums = leaks.length || !possible.length ? [sumText(leaks)] : [];
    if (possible.length) sums.push(`${sumText(possible)} possibly lost`);
    document.getElementById("count").textContent = `${found}: ${sums.join("; ")}`;
  }

  function sumText(some) {
    const sum = (name) => some.reduce((all, group) => all + group[name], 0);
    return `${countText(sum("objects"), "object")}, ${sizeText(sum("bytes"))}`;
  }

  function rowsOf(group) {
    const isOpen = open.has(group.row);
    const toggle = element("button", {
      type: "button", class: "toggle", "aria-expanded": String(isOpen),
      "aria-label": `Details of ${nameOf(group)}`,
    });
    const share = drawn("svg", { class: "share", viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" },
      drawn("rect", { width: (100 * group.freed / most).toFixed(2), height: 1 }));
    const row = element("tr", { class: `group${isOpen ? " open" : ""}`, "data-row": group.row },
      element("td", { class: "toggle" }, toggle),
      element("td", { class: "number freed" }, group.freed ? sizeText(group.freed) : "\u2013", share),
      element("td", { class: "number" }, sizeText(group.bytes)),
      element("td", { class: "number" }, numberText(group.objects)),
      directCell(group),
      element("td", { class: "number" }, sizesText(group)),
      element("td", { class: "type" }, typeOf(group)),
      element("td", { class: "shape", title: group.shape }, group.shape),
      element("td", { class: "address" }, group.example));
    row.addEventListener("click", (event) => {
      if (event.target.closest("button.link") || String(getSelection())) return;
      flip(group);
      body.querySelector(`tr[data-row="${group.row}"] button.toggle`)?.focus({ preventScroll: true });
    });
    return isOpen ? [row, detailRow(group)] : [row];
  }

  function directCell(group) {
    if (group.possible) return element("td", { class: "number possibly", title: group.possible }, "possibly");
    return element("td", { class: "number" }, group.direct ? numberText(group.direct) : "\u2013");
  }

  function typeOf(group) {
    const made = element("span", { title: [group.kind, group.caller].filter(Boolean).join(", ") });
    if (group.kind) made.append(element("b", {}, group.kind));
    if (group.kind && group.caller) made.append(" ");
    if (group.caller) made.append(element("span", { class: "caller" }, group.caller));
    return made;
  }

  function detailRow(group) {
    return element("tr", { class: "details" },
      element("td", { colspan: columns }, details(group, select)));
  }

  function lastRows(rows) {
    if (!rows) return [element("tr", { class: "none" }, element("td", { colspan: columns }, "No group passes the filter."))];
    const last = (page + 1) * PER_PAGE >= shown.length && shown.length === groups.length;
    return data.parts.filter((part) => last && part.others).map(({ others }, at) => {
      const lost = at ? " possibly lost" : "";
      const text = `and ${countText(others.groups, "more group")}: ${countText(others.objects, "object")}${lost}, ${sizeText(others.bytes)}`;
      return element("tr", { class: "none" }, element("td", { colspan: columns }, text));
    });
  }

  function flip(group) {
    if (!open.delete(group.row)) open.add(group.row);
    const row = body.querySelector(`tr[data-row="${group.row}"]`);
    if (row.nextSibling?.classList.contains("details")) row.nextSibling.remove();
    row.replaceWith(...rowsOf(group));
  }

  // Shows one group wherever it is.
  function select(group) {
    if (!shown.includes(group)) {
      for (const input of Object.values(inputs)) input.value = "";
      find();
    }
    page = Math.floor(shown.indexOf(group) / PER_PAGE);
    open.add(group.row);
    show();
    const row = body.querySelector(`tr[data-row="${group.row}"]`);
    row.scrollIntoView({ block: "start" });
    row.querySelector("button").focus({ preventScroll: true });
  }

  for (const header of headers) {
    header.querySelector("button").addEventListener("click", () => {
      const key = header.dataset.key;
      if (key === sort.key) sort.down = !sort.down;
      else [sort.key, sort.down] = [key, !TEXTS.includes(key)];
      sort.own = false;
      find();
    });
  }
  inputs.filter.addEventListener("input", find);
  inputs.least.addEventListener("input", find);
  inputs.kind.addEventListener("change", find);
  const tools = document.getElementById("tools");
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.addEventListener("reset", () => setTimeout(() => {
    Object.assign(sort, asReported);
    find();
  }));
  const turn = (by) => { page += by; show(); };
  previous.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));
  show();
  return select;
}
