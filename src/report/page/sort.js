"use strict";
// Tables sort by the number in data-v where every cell of the column has one (empty: undefined, always last).
for (const table of document.querySelectorAll("table.sorts")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
      const cells = [...body.rows].map((row) => ({ row, cell: row.cells[column] }));
      const numbers = cells.every(({ cell }) => cell.dataset.v !== undefined);
      const keyed = cells.map(({ row, cell }) => ({ row, key: numbers ? cell.dataset.v : cell.textContent.trim() }));
      keyed.sort((a, b) => {
        if (a.key === "" || b.key === "") return (a.key === "") - (b.key === "");
        return sign * (numbers ? a.key - b.key : a.key.localeCompare(b.key, "en", { numeric: true }));
      });
      body.append(...keyed.map(({ row }) => row));
    });
  });
}
// Paper cannot be clicked.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const one of opened) one.open = true;
});
addEventListener("afterprint", () => { for (const one of opened) one.open = false; });
