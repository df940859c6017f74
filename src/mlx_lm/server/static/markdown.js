// Markdown to DOM nodes. Text becomes text nodes and never markup, so nothing that a model writes can act in the page.

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)]) +(.*)$/;
const DEEPEST = 12;

function element(tag, ...children) {
  const node = document.createElement(tag);
  node.append(...children);
  return node;
}

// Inline marks: code, bold, italic, strike, links. Unclosed marks stay as they were written.
function inline(text, depth = 0) {
  const nodes = [];
  let plain = "";
  const flush = () => {
    if (plain) nodes.push(plain);
    plain = "";
  };
  let at = 0;
  const ordinary = /[^\\`*_~[h]+/y;
  while (at < text.length) {
    ordinary.lastIndex = at;
    const run = ordinary.exec(text);
    if (run) {
      plain += run[0];
      at += run[0].length;
      continue;
    }
    const rest = text.slice(at, at + 4000);
    let match;
    if (depth > DEEPEST) {
      plain += text.slice(at);
      break;
    } else if ((match = /^\\([\\`*_{}[\]()#+\-.!|~<>])/.exec(rest))) {
      plain += match[1];
    } else if ((match = /^(`+)(?!`)([\s\S]*?[^`])\1(?!`)/.exec(rest))) {
      flush();
      nodes.push(element("code", match[2].trim() || match[2]));
    } else if ((match = /^\*\*(?=\S)([\s\S]*?\S)\*\*/.exec(rest)) || (match = /^__(?=\S)([\s\S]*?\S)__(?!\w)/.exec(rest))) {
      flush();
      nodes.push(element("strong", ...inline(match[1], depth + 1)));
    } else if ((match = /^\*(?=[^\s*])([^*]*?[^\s*])\*(?!\*)/.exec(rest)) || (!/\w$/.test(plain) && (match = /^_(?=[^\s_])([^_]*?[^\s_])_(?!\w)/.exec(rest)))) {
      flush();
      nodes.push(element("em", ...inline(match[1], depth + 1)));
    } else if ((match = /^~~(?=\S)([\s\S]*?\S)~~/.exec(rest))) {
      flush();
      nodes.push(element("s", ...inline(match[1], depth + 1)));
    } else if ((match = /^\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)/.exec(rest))) {
      flush();
      nodes.push(link(match[2], ...inline(match[1], depth + 1)));
    } else if ((match = /^https?:\/\/[^\s<>"'`)\]]*[^\s<>"'`)\].,;:!?]/.exec(rest)) && !/\w$/.test(plain)) {
      flush();
      nodes.push(link(match[0], match[0]));
    } else {
      match = null;
      plain += text[at];
    }
    at += match ? match[0].length : 1;
  }
  flush();
  return nodes;
}

function link(address, ...children) {
  const node = element("a", ...children);
  node.href = address;
  node.target = "_blank";
  node.rel = "noopener noreferrer";
  return node;
}

function codeBlock(language, lines) {
  const copy = element("button", "Copy");
  copy.type = "button";
  copy.className = "copy-code";
  const bar = element("div", element("span", language || "code"), copy);
  bar.className = "bar";
  const box = element("div", bar, element("pre", element("code", lines.join("\n"))));
  box.className = "code";
  return box;
}

function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replace(/\\\|/g, "|"));
}

function table(lines) {
  const row = (line, tag) => element("tr", ...cells(line).map((cell) => element(tag, ...inline(cell))));
  const head = element("thead", row(lines[0], "th"));
  const body = element("tbody", ...lines.slice(2).map((line) => row(line, "td")));
  const box = element("div", element("table", head, body));
  box.className = "table";
  return box;
}

function list(lines, depth) {
  const first = ITEM.exec(lines[0]);
  const ordered = /\d/.test(first[2]);
  const node = document.createElement(ordered ? "ol" : "ul");
  if (ordered) node.start = Number.parseInt(first[2], 10);
  let item = [];
  const flush = () => {
    if (!item.length) return;
    const loose = item.some((line) => !line.trim());
    const blocks = markdown(item.join("\n"), depth + 1);
    const only = blocks.length && blocks[0].tagName === "P" && !loose;
    node.append(element("li", ...(only ? [...blocks[0].childNodes, ...blocks.slice(1)] : blocks)));
    item = [];
  };
  const indent = first[1].length;
  for (const line of lines) {
    const match = ITEM.exec(line);
    if (match && match[1].length <= indent + 1) {
      flush();
      item.push(match[3]);
    } else {
      item.push(line.replace(/^ {1,4}/, ""));
    }
  }
  flush();
  return node;
}

// The blocks of a text, as an array of elements.
export function markdown(text, depth = 0) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  if (depth > DEEPEST) return [element("p", text)];
  const blocks = [];
  let at = 0;
  const starts = (line) => FENCE.test(line) || /^#{1,6} /.test(line) || ITEM.test(line) || /^ {0,3}>/.test(line);
  while (at < lines.length) {
    const line = lines[at];
    let match;
    if (!line.trim()) {
      at += 1;
    } else if ((match = FENCE.exec(line))) {
      const fence = match[1];
      const body = [];
      at += 1;
      while (at < lines.length && !(lines[at].trim().startsWith(fence) && !lines[at].trim().slice(fence.length).trim())) {
        body.push(lines[at]);
        at += 1;
      }
      at += 1;
      blocks.push(codeBlock(match[2], body));
    } else if ((match = /^(#{1,6}) +(.*?) *#*$/.exec(line))) {
      blocks.push(element(`h${Math.min(match[1].length, 4)}`, ...inline(match[2])));
      at += 1;
    } else if (/^ {0,3}([-*_])( *\1){2,} *$/.test(line)) {
      blocks.push(element("hr"));
      at += 1;
    } else if (/^ {0,3}>/.test(line)) {
      const body = [];
      while (at < lines.length && /^ {0,3}>/.test(lines[at])) body.push(lines[at++].replace(/^ {0,3}> ?/, ""));
      blocks.push(element("blockquote", ...markdown(body.join("\n"), depth + 1)));
    } else if (ITEM.test(line)) {
      const body = [];
      const continues = (next, i) => next.trim() ? ITEM.test(next) || /^ {2,}/.test(next) : ITEM.test(lines[i + 1] ?? "") || /^ {2,}\S/.test(lines[i + 1] ?? "");
      while (at < lines.length && (body.length === 0 || continues(lines[at], at))) body.push(lines[at++]);
      blocks.push(list(body, depth));
    } else if (line.includes("|") && /^\s*\|?[\s:-]+\|[\s|:-]*$/.test(lines[at + 1] ?? "") && lines[at + 1].includes("-")) {
      const body = [];
      while (at < lines.length && lines[at].includes("|")) body.push(lines[at++]);
      blocks.push(table(body));
    } else {
      const body = [line];
      at += 1;
      while (at < lines.length && lines[at].trim() && !starts(lines[at])) body.push(lines[at++]);
      const nodes = [];
      body.forEach((part, i) => {
        if (i) nodes.push(/ {2}$/.test(body[i - 1]) ? element("br") : "\n");
        nodes.push(...inline(part.trim()));
      });
      blocks.push(element("p", ...nodes));
    }
  }
  return blocks;
}
