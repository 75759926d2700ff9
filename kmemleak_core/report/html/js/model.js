// Turns the data of the page into groups, clusters and references between groups.

const data = JSON.parse(document.getElementById("data").textContent);
// Of the leaks, then of what is possibly lost.
const groups = readGroups();
const clusterOf = new Map(data.parts.flatMap((part) =>
  part.clusters.map((cluster) => [cluster.group, cluster])));
const referrers = new Map(), references = new Map();
for (const [from, to, words] of data.parts.flatMap((part) => part.links)) {
  if (!references.has(from)) references.set(from, []);
  if (!referrers.has(to)) referrers.set(to, []);
  references.get(from).push([to, words]);
  referrers.get(to).push([from, words]);
}

// Rows are arrays; words and backtraces are told where they come for the first time.
function readGroups() {
  const found = [];
  for (const part of data.parts) {
    const words = [], traces = [];
    const word = (number) => words[number] ?? "";
    part.groups.forEach((values, at) => {
      const group = { row: found.length, content: part.contents[at] };
      data.fields.forEach((name, i) => { group[name] = values[i] ?? null; });
      if (group.words) words.push(...group.words);
      if (Array.isArray(group.trace)) {
        const [caller, ...frames] = group.trace;
        traces.push({ caller, frames: frames.map(word) });
        group.trace = traces.length - 1;
      }
      group.frames = traces[group.trace]?.frames ?? [];
      group.callerAt = traces[group.trace]?.caller ?? 0;
      group.caller = functionOf(group.frames[group.callerAt] ?? "");
      for (const name of ["shape", "kind", "comm", "possible"]) group[name] = word(group[name]);
      group.example = `0x${group.example}`;
      group.holder = group.holder ? `0x${group.holder}` : "";
      group.freed = group.possible ? 0 : group.directBytes + group.heldBytes;
      group.size = group.largest;
      group.indirect = group.objects - group.direct;
      group.search = [group.kind, group.shape, group.example, group.comm, ...group.frames]
        .join("\n").toLowerCase();
      found.push(group);
    });
  }
  return found;
}

// "name.cold+0x1/0x20 [module]" is name.
function functionOf(frame) {
  return frame.replace(/\+0x.*/, "").replace(/\.(cold|constprop|isra|part|llvm)\b.*/, "");
}

function sizesText(group) {
  const least = numberText(group.smallest), most = numberText(group.largest);
  return least === most ? most : `${least}\u2013${most}`;
}

// What the members of a group are, and what the group is called where there is little room.
function kindOf(group) {
  return group.kind || group.caller || `${sizesText(group)} bytes`;
}

function nameOf(group) {
  return group.kind || group.caller || `${numberText(group.objects)} \u00d7 ${kindOf(group)}`;
}
