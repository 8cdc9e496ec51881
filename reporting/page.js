/* The page: legends that switch series, tables that sort, and the tip beside the pointer. */

const charts = JSON.parse(document.getElementById("data").textContent);
const box = document.getElementById("tip");

/* heading and rows [[classes, name, value]] beside (x, y) of the window; without them, hidden. */
function tip(x, y, heading, rows) {
  box.hidden = heading === undefined;
  if (box.hidden) return;
  box.replaceChildren(heading);
  for (const [look, name, value] of rows) {
    const row = document.createElement("div"), strong = document.createElement("b");
    if (look) row.append(Object.assign(document.createElement("i"), {className: look}));
    strong.textContent = value;
    row.append(`${name} `, strong);
    box.append(row);
  }
  const {width, height} = box.getBoundingClientRect();
  box.style.left = `${Math.max(4, x + 16 + width > innerWidth ? x - width - 16 : x + 16)}px`;
  box.style.top = `${Math.max(4, Math.min(y + 14, innerHeight - height - 4))}px`;
}

function draw(figure) {
  const chart = charts[figure.dataset.chart], section = figure.closest("section");
  const button = series => section.querySelector(`[data-series="${series}"]`);
  const look = series => series === null || button(series).ariaPressed === "true" && button(series).className;
  const caption = document.createElement("figcaption"), unit = document.createElement("span");
  unit.textContent = chart.unit ? ` (${chart.unit})` : "";
  caption.append(chart.title[0].toUpperCase() + chart.title.slice(1), unit);
  if (chart.warning) caption.append(Object.assign(document.createElement("em"), {textContent: ` ${chart.warning}`}));
  figure.replaceChildren(caption);
  figure.classList.remove("wide", "cut");
  figure.hidden = chart.kind === "confusion" && !look(chart.series);
  if (figure.hidden) return;
  const kinds = {line: drawLines, dots: drawDots, confusion: drawConfusion};
  kinds[chart.kind](figure, chart, look, series => button(series).textContent);
}

const figures = [...document.querySelectorAll("figure[data-chart]")];
const redraw = list => list.forEach(draw);
redraw(figures); // all at once, so that links within the page lead where they should
let width = innerWidth;
/* Tables and matrices say where they have more columns than are seen. */
const measure = () => document.querySelectorAll(".scroll, .chart.wide").forEach(one =>
  one.classList.toggle("cut", one.scrollLeft + one.clientWidth + 1 < one.scrollWidth));
document.addEventListener("scroll", measure, {passive: true, capture: true});
measure();

/* A section that was folded is drawn when it opens, and opens for a link to it. */
const folds = [...document.querySelectorAll(".fold")];
for (const fold of folds) fold.addEventListener("toggle", () => {
  if (!fold.open) return;
  redraw([...fold.querySelectorAll("figure[data-chart]")]);
  measure();
});
const unfold = () => folds.filter(fold => `#${fold.parentNode.id}` === location.hash).forEach(fold => { fold.open = true; });
addEventListener("hashchange", unfold);
for (const link of document.querySelectorAll("nav a")) link.addEventListener("click", () => setTimeout(unfold));

addEventListener("resize", () => {
  if (innerWidth !== width) redraw(figures);
  measure();
  width = innerWidth;
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw(figures));
addEventListener("beforeprint", () => {
  for (const fold of folds) fold.open = true;
  redraw(figures);
});
addEventListener("scroll", () => tip(), {passive: true});

for (const button of document.querySelectorAll(".legend button")) button.addEventListener("click", () => {
  button.ariaPressed = String(button.ariaPressed !== "true");
  redraw([...button.closest("section").querySelectorAll("figure[data-chart]")]);
});

/* Numbers highest first, words from A; a second click turns the order round; rows without a figure stay last. */
function sort(head) {
  const body = head.closest("table").tBodies[0], column = head.cellIndex, key = row => row.cells[column].dataset.value;
  const rows = [...body.rows], numeric = rows.some(row => key(row) !== undefined);
  const before = head.ariaSort, first = numeric ? "descending" : "ascending", other = numeric ? "ascending" : "descending";
  const order = before === first ? other : first, sign = order === "ascending" ? 1 : -1;
  rows.sort((a, b) => {
    if (!numeric) return sign * a.cells[column].textContent.localeCompare(b.cells[column].textContent, "en", {numeric: true});
    const [p, q] = [key(a), key(b)];
    return p === undefined || q === undefined ? (p === undefined) - (q === undefined) : sign * (p - q);
  });
  for (const cell of head.parentNode.cells) cell.removeAttribute("aria-sort");
  head.ariaSort = order;
  body.append(...rows);
}

for (const head of document.querySelectorAll("thead th")) head.firstChild.addEventListener("click", () => sort(head));
