// Tables sort by a click on a column's head, and back; without scripts they stay as they are.
for (const table of document.querySelectorAll("table.sorts")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0], first = [...body.rows];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const next = { none: "descending", descending: "ascending", ascending: "none" }[head.ariaSort || "none"];
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (next !== "none") head.ariaSort = next;
      body.append(...(next === "none" ? first : sorted(first, column, next === "descending" ? -1 : 1)));
    });
  });
}
function sorted(rows, column, sign) {
  const keys = new Map(rows.map((row) => [row, key(row.cells[column])]));
  return [...rows].sort((one, other) => {
    const [a, b] = [keys.get(one), keys.get(other)];
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1; // what is no number stands last
    return sign * (typeof a === "number" ? a - b : -a.localeCompare(b));
  });
}
function key(cell) {
  const text = cell.dataset.sort ?? (cell.querySelector("b") ?? cell).textContent;
  const plain = text.replaceAll("\u202f", "").replace("\u2212", "-").trim();
  const number = /^[+-]?\d+(\.\d+)?(e-?\d+)?$/.test(plain) ? Number(plain) : NaN;
  return Number.isNaN(number) ? plain : number;
}
