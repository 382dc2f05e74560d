"use strict";
const pressed = (button) => button.getAttribute("aria-pressed") === "true";
const press = (button, on) => button.setAttribute("aria-pressed", on ? "true" : "false");

const veils = [...document.querySelectorAll(".veil")];
const toggles = [...document.querySelectorAll(".toggle")];
const name = () => {
  const on = veils.every(pressed);
  for (const toggle of toggles) {
    press(toggle, on);
    toggle.textContent = on ? "Veil them again" : "Show all veiled pictures";
    toggle.hidden = !veils.length;
  }
};
for (const veil of veils) veil.addEventListener("click", () => { press(veil, !pressed(veil)); name(); });
for (const toggle of toggles) toggle.addEventListener("click", () => {
  const on = !pressed(toggle);
  for (const veil of veils) press(veil, on);
  name();
});
name();

const order = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
const key = (row, column) => {
  const cell = row.cells[column];
  if (cell.classList.contains("empty")) return null;
  return cell.dataset.sort === undefined ? cell.textContent.trim() : Number(cell.dataset.sort);
};
// Empty cells stand last in either direction; equal rows keep their order.
const compare = (a, b, sign) => {
  if (a === null || b === null) return (a === null) - (b === null);
  return sign * (typeof a === "number" && typeof b === "number" ? a - b : order.compare(String(a), String(b)));
};
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  heads.forEach((head, column) => {
    head.querySelector(".sort").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows].map((row) => [key(row, column), row]);
      rows.sort((a, b) => compare(a[0], b[0], up ? 1 : -1));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
}

for (const box of document.querySelectorAll("[data-filtered]")) {
  const bar = box.querySelector(".filter");
  const words = bar.querySelector("input");
  const select = bar.querySelector("select");
  const said = bar.querySelector("output");
  const items = [...box.querySelectorAll("[data-item]")].map((item) => [item, item.textContent.toLowerCase()]);
  const groups = [...box.querySelectorAll("[data-group]")];
  const apply = () => {
    const wanted = words.value.trim().toLowerCase();
    const category = select ? select.value : "";
    let count = 0;
    for (const [item, text] of items) {
      const kept = text.includes(wanted) && (!select || select.selectedIndex === 0 || item.dataset.category === category);
      item.hidden = !kept;
      count += kept;
    }
    for (const group of groups) group.hidden = !group.querySelector("[data-item]:not([hidden])");
    said.textContent = `${count} of ${items.length}`;
  };
  words.addEventListener("input", apply);
  if (select) select.addEventListener("change", apply);
  bar.hidden = false;
  apply();
}
