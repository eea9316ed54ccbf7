// Sorts and searches tables and copies commands; every page reads without it.
"use strict";
const make = (tag, text, options) => Object.assign(document.createElement(tag), { textContent: text }, options);

for (const command of document.querySelectorAll("pre.command")) {
  const button = make("button", "copy", { type: "button", className: "copy" });
  button.addEventListener("click", async () => {
    getSelection().selectAllChildren(command);
    try { await navigator.clipboard.writeText(command.textContent); } catch { document.execCommand("copy"); }
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  });
  command.before(button);
}

const cellAt = (row, place) => {
  let at = 0;
  return [...row.cells].find((cell) => (at += cell.colSpan) > place);
};
const textAt = (row, place) => (cellAt(row, place)?.textContent ?? "").trim();
// Rows of a table's body with those that belong to them, without headings.
const groups = (body) => {
  const found = [];
  for (const row of body.rows) {
    if (row.matches(".follows")) found.at(-1).push(row);
    else if (!row.matches(".part")) found.push([row]);
  }
  return found;
};
const number = (text) => parseFloat(text.replace(/[,+]/g, "").replace("\u2212", "-"));
const compare = (one, other, sign) => {
  const [a, b] = [number(one), number(other)];
  if (isNaN(a) !== isNaN(b)) return isNaN(a) ? 1 : -1; // rows without a number stay last
  return sign * (isNaN(a) ? one.localeCompare(other) : a - b);
};

for (const table of document.querySelectorAll("table.sortable")) {
  for (const head of table.tHead.querySelectorAll("th[data-at]")) {
    const button = make("button", "", { type: "button", className: "sort", title: "sort by this column" });
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const turned = head.getAttribute("aria-sort") === "descending";
      for (const other of table.tHead.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", turned ? "ascending" : "descending");
      for (const body of table.tBodies) {
        const key = ([row]) => textAt(row, Number(head.dataset.at));
        const sorted = groups(body).sort((one, other) => compare(key(one), key(other), turned ? 1 : -1));
        body.append(...sorted.flat());
      }
    });
  }
  const rows = [...table.tBodies].flatMap(groups);
  if (rows.length < 12) continue;
  const search = make("input", "", { type: "search", className: "search", placeholder: "search rows" });
  search.setAttribute("aria-label", "search the rows of this table");
  search.addEventListener("input", () => {
    for (const group of rows) {
      const found = group.some((row) => row.textContent.toLowerCase().includes(search.value.toLowerCase()));
      for (const row of group) row.hidden = !found;
    }
  });
  table.parentElement.before(search);
}
