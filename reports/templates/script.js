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
        const rows = [...body.rows].filter((row) => !row.matches(".part, .under"));
        const key = (row) => textAt(row, Number(head.dataset.at));
        rows.sort((one, other) => compare(key(one), key(other), turned ? 1 : -1));
        body.append(...rows);
      }
    });
  }
  const rows = [...table.tBodies].flatMap((body) => [...body.rows]).filter((row) => !row.matches(".part"));
  if (rows.length < 8) continue;
  const search = make("input", "", { type: "search", className: "search", placeholder: "search rows" });
  search.setAttribute("aria-label", "search the rows of this table");
  search.addEventListener("input", () => {
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(search.value.toLowerCase());
  });
  table.parentElement.before(search);
}
