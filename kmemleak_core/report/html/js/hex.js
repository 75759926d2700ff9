// Turns bytes in base 64 into rows of hexadecimal numbers and characters.

const PER_ROW = 16;

function hexDump(encoded) {
  const bytes = Array.from(atob(encoded), (character) => character.charCodeAt(0));
  const made = element("pre", { class: "hex" });
  for (let at = 0; at < bytes.length; at += PER_ROW) {
    const row = bytes.slice(at, at + PER_ROW);
    const numbers = row.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const shown = (byte) => (byte >= 0x20 && byte < 0x7f ? String.fromCharCode(byte) : "\u00b7");
    made.append(
      element("span", { class: "offset" }, `+${at.toString(16).padStart(2, "0")}`),
      `  ${numbers.padEnd(PER_ROW * 3)} `,
      element("span", { class: "characters" }, row.map(shown).join("")),
      "\n",
    );
  }
  return made;
}
