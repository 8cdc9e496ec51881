"use strict";
/* Draws the charts of lines: over epochs, classes or ratios. */

const NS = "http://www.w3.org/2000/svg", POINTER = ["pointermove", "pointerdown"];

function svg(parent, name, attributes, text) {
  const node = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

/* About `n` round numbers from low to high. */
function ticks(low, high, n) {
  const raw = (high - low) / n || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find(m => m * power >= raw) * power, found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(+(i * step).toPrecision(12));
  return found;
}

const shorten = name => name.length > 14 ? name.slice(0, 13) + "…" : name;
const show = v => v === null ? "–" : Math.abs(v) >= 10 ? v.toFixed(1) : v.toFixed(2);

function canvasOf(host, height) {
  const width = Math.max(200, host.clientWidth - 24);
  return [width, svg(host, "svg", {viewBox: `0 0 ${width} ${height}`, height, role: "img", tabindex: 0})];
}

/* Where an axis of percentages starts: at 0, unless that would leave half of it empty. */
const startOf = (low, high) => low > high / 2 ? Math.floor(low) : 0;

/* Says that an axis doesn't start at 0, and shows it by a zigzag there. */
function breakAxis(host, root, low, d) {
  host.querySelector("figcaption").append(Object.assign(document.createElement("em"), {textContent: ` axis from ${low}`}));
  svg(root, "path", {class: "break", d});
}

/* chart: see reporting/charts.py; look: series -> its classes; label: series -> its name. */
function drawLines(host, chart, look, label) {
  const names = chart.names, lines = chart.lines.filter(line => look(line.series));
  const widest = names ? Math.max(...names.map(n => n.length)) : 0, height = names ? 270 : 200;
  const [width, root] = canvasOf(host, height);
  root.setAttribute("aria-label", `${chart.title}: chart of ${lines.map(l => label(l.series)).join(", ")}`);
  const shown = lines.flatMap(l => [...l.y, ...(l.low || []), ...(l.high || [])]).filter(v => v !== null);
  const xs = chart.at ? [Math.min(...chart.at) - 0.5, Math.max(...chart.at) + 0.5] : names ? [-0.5, names.length - 0.5] : [Math.min(...chart.lines.map(l => l.x[0])),
    Math.max(...chart.lines.map(l => l.x[l.x.length - 1]))];
  let [low, high] = shown.length ? [Math.min(...shown), Math.max(...shown)] : [0, 1];
  if (chart.unit === "%") [low, high] = names || high - low > 40 ? [0, 100] : [startOf(low - 3, high), Math.min(100, high + 3)];
  else [low, high] = [Math.min(0, low), high * 1.05 || 1];
  const slanted = names && names.length * (widest * 6.5 + 8) > width - 40;
  const bottom = !names ? 34 : slanted ? 30 + Math.min(widest, 14) * 4.6 : chart.area ? 46 : 36;
  const box = {left: 34, right: width - (chart.area ? 30 : 8), top: 8, bottom: height - bottom};
  const across = v => box.left + (box.right - box.left) * (xs[1] > xs[0] ? (v - xs[0]) / (xs[1] - xs[0]) : 0.5);
  const X = chart.at ? i => across(chart.at[i]) : across;
  const Y = v => box.bottom - (box.bottom - box.top) * (v - low) / (high - low || 1);
  if (chart.area) drawArea(root, chart.area, box, X);
  for (const v of ticks(low, high, 5)) {
    svg(root, "line", {class: "rule", x1: box.left, x2: box.right, y1: Y(v), y2: Y(v)});
    svg(root, "text", {x: box.left - 5, y: Y(v) + 4, "text-anchor": "end"}, v);
  }
  if (low > 0) breakAxis(host, root, low, `M${box.left},${box.bottom}l4,-5l4,5l4,-5l4,5`);
  if (names) nameClasses(root, chart, box, X, across(1) - across(0), slanted);
  else for (const v of ticks(...xs, Math.min(6, width / 60)).filter(Number.isInteger))
    svg(root, "text", {x: X(v), y: box.bottom + 15, "text-anchor": "middle"}, v);
  svg(root, "text", {x: (box.left + box.right) / 2, y: height - 3, "text-anchor": "middle"}, chart.xlabel);
  lines.forEach((line, i) => {
    const group = svg(root, "g", {class: look(line.series)});
    if (chart.area === undefined) drawLine(group, line, X, Y, box);
    else drawClasses(group, line, v => X(v + (i - (lines.length - 1) / 2) * Math.min(0.14, 0.7 / lines.length)), Y);
  });
  follow(root, box, lines, X, xs, at => {
    const head = names ? names[at] + (chart.area ? `, ${chart.area[at]} labelled` : "") : `${chart.xlabel} ${at}`;
    return [head, lines.filter(l => l.x.includes(at)).map(l => {
      const i = l.x.indexOf(at), range = l.low && l.low[i] !== null ? ` (${show(l.low[i])} to ${show(l.high[i])})` : "";
      return [look(l.series), label(l.series), show(l.y[i]) + range];
    })];
  });
}

/* Breaks where a figure is undefined; points where they lie apart. */
function drawLine(group, line, X, Y, box) {
  const points = line.x.map((x, i) => [X(x), line.y[i] === null ? null : Y(line.y[i]), i]);
  if (line.low) {
    const known = points.filter(p => line.low[p[2]] !== null && line.high[p[2]] !== null);
    const edge = [...known.map(p => [p[0], Y(line.high[p[2]])]), ...known.reverse().map(p => [p[0], Y(line.low[p[2]])])];
    svg(group, "path", {class: "band", d: edge.length ? `M${edge.map(p => p.map(v => v.toFixed(1))).join("L")}Z` : ""});
  }
  let d = "", pen = "M";
  for (const [x, y] of points) {
    if (y !== null) d += `${pen}${x.toFixed(1)},${Math.min(Math.max(y, box.top), box.bottom).toFixed(1)}`;
    pen = y === null ? "M" : "L";
  }
  svg(group, "path", {class: "path", d});
  const apart = points.length < 2 || (points[points.length - 1][0] - points[0][0]) / (points.length - 1) > 8;
  const empty = i => !points[i] || points[i][1] === null;
  points.forEach(([x, y], i) => {
    if (y !== null && (apart || empty(i - 1) && empty(i + 1))) svg(group, "circle", {cx: x, cy: y, r: 3});
  });
}

/* Points side by side, their range over seeds as whiskers, and a faint line that shows which belong together. */
function drawClasses(group, line, X, Y) {
  const known = line.x.filter(x => line.y[x] !== null), dense = line.x.length > 30;
  svg(group, "path", {class: dense ? "path" : "path faint", d: known.map((x, i) => `${i ? "L" : "M"}${X(x).toFixed(1)},${Y(line.y[x]).toFixed(1)}`).join("")});
  if (dense) return;
  for (const x of known) {
    if (line.low && line.low[x] !== null) svg(group, "line", {class: "whisker", x1: X(x), x2: X(x), y1: Y(line.low[x]), y2: Y(line.high[x])});
    svg(group, "circle", {cx: X(x), cy: Y(line.y[x]), r: 3.5});
  }
}

function drawArea(root, counts, box, X) {
  const most = Math.log10(Math.max(...counts, 1) + 1), step = X(1) - X(0);
  const Y = n => box.bottom - (box.bottom - box.top) * Math.log10(n + 1) / (most || 1) * 0.97;
  counts.forEach((n, i) => svg(root, "rect", {class: "area", x: X(i) - step / 2 + (counts.length < 40 ? 1.5 : -0.1),
    width: Math.max(1, step - (counts.length < 40 ? 3 : -0.2)), y: Y(n), height: box.bottom - Y(n)}));
  const marks = [...new Set([1, 10, 100, 1000, 10000].filter(n => n <= Math.max(...counts)))];
  for (const n of marks) svg(root, "text", {x: box.right + 4, y: Y(n) + 4}, n);
}

/* room: pixels from one place to the next; of two places much closer than that, the second one is named. */
function nameClasses(root, chart, box, X, room, slanted) {
  const {names, area: counts, at} = chart, every = Math.ceil(17 / Math.max(room, 0.1));
  names.forEach((name, i) => {
    if (slanted && i % every || at && at[i + 1] - at[i] < 0.5) return;
    const short = shorten(name);
    if (slanted) svg(root, "text", {x: 0, y: 0, "text-anchor": "end", transform: `translate(${X(i) + 4},${box.bottom + 11}) rotate(-40)`}, short);
    else {
      svg(root, "text", {class: "name", x: X(i), y: box.bottom + 15, "text-anchor": "middle"}, short);
      if (counts) svg(root, "text", {x: X(i), y: box.bottom + 28, "text-anchor": "middle"}, counts[i]);
    }
  });
}

/* A rule that follows pointer and arrow keys, and the values at it. tell: x -> [heading, [[classes, name, value]]]. */
function follow(root, box, lines, X, xs, tell) {
  const places = [...new Set(lines.flatMap(l => l.x))].sort((a, b) => a - b);
  if (!places.length) return;
  const cross = svg(root, "line", {class: "cross", y1: box.top, y2: box.bottom, visibility: "hidden"});
  let at = 0;
  const move = (index, px, py) => {
    at = Math.min(Math.max(index, 0), places.length - 1);
    for (const end of ["x1", "x2"]) cross.setAttribute(end, X(places[at]));
    cross.setAttribute("visibility", "visible");
    tip(px, py, ...tell(places[at]));
  };
  for (const kind of POINTER) root.addEventListener(kind, event => {
    const frame = root.getBoundingClientRect(), px = (event.clientX - frame.left) * root.viewBox.baseVal.width / frame.width;
    const near = places.reduce((best, p, i) => Math.abs(X(p) - px) < Math.abs(X(places[best]) - px) ? i : best, 0);
    move(near, event.clientX, event.clientY);
  });
  root.addEventListener("keydown", event => {
    const by = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (!by) return;
    event.preventDefault();
    const frame = root.getBoundingClientRect();
    move(at + by, frame.left + X(places[Math.min(Math.max(at + by, 0), places.length - 1)]), frame.top + 40);
  });
  for (const kind of ["pointerleave", "blur"]) root.addEventListener(kind, () => {
    cross.setAttribute("visibility", "hidden");
    tip();
  });
}
