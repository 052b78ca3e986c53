"use strict";
// The page is complete without this script, which adds sorting, searching, the read-out of the matrix, and clips
// that play by themselves where they are in sight.
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const plain = (text) => text.trim().toLowerCase();

function value(row, column) {
  const cell = row.cells[column];
  const text = cell.dataset.value ?? cell.textContent.trim();
  return text !== "" && !Number.isNaN(Number(text)) ? Number(text) : plain(text);
}

function sortRows(table, column, ascending) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row, place) => ({ row, place, key: value(row, column) }));
  rows.sort((a, b) => {
    const order = typeof a.key === "number" && typeof b.key === "number"
      ? a.key - b.key : String(a.key).localeCompare(String(b.key));
    return (ascending ? order : -order) || a.place - b.place;
  });
  body.append(...rows.map((item) => item.row));
}

for (const table of all("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (head.hasAttribute("data-fixed")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sortRows(table, column, ascending);
    });
  });
}

const tools = document.getElementById("class-tools");
if (tools) {
  tools.hidden = false;
  const rows = all("#classes tbody tr");
  const input = document.getElementById("class-search");
  input.addEventListener("input", () => {
    const wanted = plain(input.value);
    let shown = 0;
    for (const row of rows) {
      row.hidden = !plain(row.cells[0].textContent).includes(wanted);
      shown += row.hidden ? 0 : 1;
    }
    document.getElementById("class-found").textContent = wanted ? `${shown} of ${rows.length} classes` : "";
  });
}

const matrix = document.getElementById("matrix");
if (matrix) {
  matrix.setAttribute("role", "grid");
  const size = matrix.tBodies[0].rows.length;
  const names = [...matrix.tBodies[0].rows].map((row) => row.cells[0].textContent.trim());
  const readout = document.getElementById("matrix-readout");
  const total = (row) => row.dataset.count;
  let marked = [], current = null;
  // Cells know their column by its class, so that columns can change places.
  const cellsOf = (row) => [...row.cells].slice(1).filter((cell) => !cell.classList.contains("total"));
  for (const row of matrix.tBodies[0].rows) {
    cellsOf(row).forEach((cell, column) => { cell.column = column; cell.rowName = row; });
  }
  const heads = cellsOf(matrix.tHead.rows[0]), sums = cellsOf(matrix.tFoot.rows[0]);
  for (const group of [heads, sums]) group.forEach((cell, column) => { cell.column = column; });

  function unmark() {
    for (const element of marked) element.classList.remove("on", "oncol", "at");
    marked = [];
  }
  function mark(element, ...kinds) {
    element.classList.add(...kinds);
    marked.push(element);
  }
  function markColumn(column) {
    mark(heads[column], "oncol");
    for (const row of matrix.tBodies[0].rows) {
      for (const cell of row.cells) if (cell.column === column) mark(cell, "oncol");
    }
  }
  function show(cell) {
    unmark();
    mark(cell.rowName, "on");
    markColumn(cell.column);
    mark(cell, "at");
    const count = cell.textContent.trim() || "0";
    const truth = document.createElement("bdi"), guess = document.createElement("bdi");
    truth.textContent = names[Number(cell.rowName.dataset.label)];
    guess.textContent = names[cell.column];
    readout.replaceChildren("true class ", truth, ", predicted ", guess, `: ${count} of ${total(cell.rowName)} videos`);
  }
  function take(cell, focus) {
    if (current) current.tabIndex = -1;
    current = cell;
    cell.tabIndex = 0;
    if (focus) cell.focus();
  }
  const cellOf = (event) => event.target.closest("#matrix tbody td:not(.total)");
  matrix.addEventListener("pointerover", (event) => { const cell = cellOf(event); if (cell) show(cell); });
  matrix.addEventListener("focusin", (event) => { const cell = cellOf(event); if (cell) show(cell); });
  matrix.addEventListener("click", (event) => { const cell = cellOf(event); if (cell) take(cell, true); });
  matrix.addEventListener("keydown", (event) => {
    const cell = cellOf(event);
    if (cell && event.key === "Enter") cell.querySelector("a")?.click();
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!cell || !step) return;
    event.preventDefault();
    const rows = matrix.tBodies[0].rows;
    const down = Math.min(size - 1, Math.max(0, cell.parentNode.sectionRowIndex + step[0]));
    const across = Math.min(rows[0].cells.length - 2, Math.max(1, cell.cellIndex + step[1]));
    take(rows[down].cells[across], true);
  });
  take(matrix.tBodies[0].rows[0].cells[1], false);

  document.getElementById("matrix-tools").hidden = false;
  const order = document.getElementById("matrix-order");
  order.addEventListener("change", () => {
    const rows = [...matrix.tBodies[0].rows];
    const number = (row) => Number(row.dataset.label);
    rows.sort({
      list: (a, b) => number(a) - number(b),
      name: (a, b) => names[number(a)].localeCompare(names[number(b)]),
      accuracy: (a, b) => Number(a.dataset.right) - Number(b.dataset.right) || number(a) - number(b),
    }[order.value]);
    const columns = rows.map(number);
    for (const row of rows) {
      const cells = new Map(cellsOf(row).map((cell) => [cell.column, cell]));
      row.append(...columns.map((column) => cells.get(column)), row.querySelector(".total"));
    }
    for (const [row, cells] of [[matrix.tHead.rows[0], heads], [matrix.tFoot.rows[0], sums]]) {
      row.append(...columns.map((column) => cells[column]), row.querySelector(".total"));
    }
    matrix.tBodies[0].append(...rows);
  });

  const search = document.getElementById("matrix-search");
  search.addEventListener("input", () => {
    unmark();
    const wanted = plain(search.value);
    const exact = names.findIndex((name) => plain(name) === wanted);
    const found = !wanted ? [] : exact >= 0 ? [exact]
      : names.flatMap((name, label) => (plain(name).includes(wanted) ? [label] : []));
    for (const row of matrix.tBodies[0].rows) {
      if (found.includes(Number(row.dataset.label))) mark(row, "on");
    }
    for (const label of found) markColumn(label);
    const first = all("tr.on", matrix)[0];
    if (first) first.scrollIntoView({ block: "center", inline: "nearest", behavior: "instant" });
    if (!wanted) readout.textContent = "";
    else if (found.length === 1) {
      const name = document.createElement("bdi");
      name.textContent = names[found[0]];
      const row = [...matrix.tBodies[0].rows].find((item) => Number(item.dataset.label) === found[0]);
      readout.replaceChildren("class ", name, `: ${row.dataset.hits} of ${total(row)} videos correct`);
    } else readout.textContent = `${found.length} classes match`;
  });
}

for (const box of all(".scroll")) {
  const hint = document.createElement("p");
  hint.className = "hint";
  hint.setAttribute("aria-hidden", "true");
  hint.textContent = "scroll sideways \u2192";
  hint.hidden = true;
  box.before(hint);
  const show = () => { hint.hidden = box.scrollWidth <= box.clientWidth + 1; };
  new ResizeObserver(show).observe(box);
}

if (!matchMedia("(prefers-reduced-motion: reduce)").matches) {
  const inSight = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) target.play().catch(() => {});
      else target.pause();
    }
  }, { threshold: .4 });
  for (const video of all("video")) inSight.observe(video);
}

// Browsers open what encloses the target of a link; older ones leave it closed.
function openTarget() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let e = target && target.closest("details"); e; e = e.parentElement.closest("details")) e.open = true;
  if (target && target.closest("details")) target.scrollIntoView({ block: "center", behavior: "instant" });
}
addEventListener("hashchange", openTarget);
openTarget();
