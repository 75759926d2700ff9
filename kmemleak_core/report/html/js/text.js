// Turns numbers into words, and words into elements. Text is only ever set as text.

const UNITS = ["kB", "MB", "GB", "TB", "PB"];

function sizeText(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  let value = bytes, unit = "";
  for (unit of UNITS) {
    value /= 1000;
    if (value < 999.95) break;
  }
  return `${value.toFixed(1)} ${unit}`;
}

function numberText(number) {
  return number.toLocaleString("en-US");
}

function countText(count, noun) {
  return `${numberText(count)} ${noun}${count === 1 ? "" : "s"}`;
}

// Reads "4K", "1 MB", "0x40": units are powers of 1024, as on the command line. null: no number.
function parseSize(text) {
  const word = text.trim().toLowerCase();
  if (/^0x[0-9a-f]+$/.test(word)) return parseInt(word, 16);
  const match = /^([0-9]+(?:\.[0-9]+)?) ?([kmgt]?)(?:i?b)?$/.exec(word);
  return match && parseFloat(match[1]) * 1024 ** " kmgt".indexOf(match[2] || " ");
}

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}

function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

const SVG = document.querySelector("svg").namespaceURI;

function drawn(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}
