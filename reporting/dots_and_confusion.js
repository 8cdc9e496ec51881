/* Draws the other charts: dots of seeds, confusion matrices. */

/* A row per group: a dot per seed, a bar of one standard deviation, a diamond for the published figure. */
function drawDots(host, chart, look, label) {
  const rows = chart.rows.filter(row => look(row.series)), [width, root] = canvasOf(host, 30 + 34 * rows.length);
  root.setAttribute("aria-label", `${chart.title}: ${rows.map(r => `${r.label} ${show(r.mean)}`).join(", ")}`);
  const all = chart.rows.flatMap(r => [...r.seeds, r.mean - (r.sd || 0), r.mean + (r.sd || 0), ...(r.paper === null ? [] : [r.paper])]);
  const high = Math.min(100, Math.max(...all) + 4), low = startOf(Math.min(...all) - 4, high), end = width - 44;
  const X = v => 6 + (end - 6) * (Math.min(Math.max(v, low), high) - low) / (high - low || 1), foot = 34 * rows.length + 6;
  for (const v of ticks(low, high, width / 80)) {
    svg(root, "line", {class: "rule", x1: X(v), x2: X(v), y1: 4, y2: foot});
    svg(root, "text", {x: X(v), y: foot + 15, "text-anchor": "middle"}, v);
  }
  if (low > 0) breakAxis(host, root, low, `M2,${foot + 4}l4,-4l4,4l4,-4`);
  rows.forEach((row, i) => {
    const y = 34 * i + 26, group = svg(root, "g", {class: look(row.series)});
    svg(group, "text", {class: "name", x: 4, y: y - 10}, row.label);
    if (row.sd) svg(group, "rect", {class: "bar", x: X(row.mean - row.sd), width: X(row.mean + row.sd) - X(row.mean - row.sd), y: y - 5, height: 10, rx: 3});
    svg(group, "line", {class: "mean", x1: X(row.mean), x2: X(row.mean), y1: y - 7, y2: y + 7});
    for (const value of row.seeds) svg(group, "circle", {cx: X(value), cy: y, r: 4});
    if (row.paper !== null) svg(root, "path", {class: "paper", d: `M${X(row.paper) - 6},${y}l6,-6l6,6l-6,6Z`});
    svg(root, "text", {class: "name", x: width - 2, y: y + 4, "text-anchor": "end"}, show(row.mean));
    const wording = [["", "mean", show(row.mean)], ["", "seeds", row.seeds.map(show).join(", ")],
      ...(row.sd ? [["", "standard deviation", show(row.sd)]] : []), ...(row.paper === null ? [] : [["", "published (diamond)", show(row.paper)]])];
    const hit = svg(root, "rect", {x: 0, y: y - 20, width, height: 34, fill: "transparent"});
    for (const kind of POINTER) hit.addEventListener(kind, event => tip(event.clientX, event.clientY, row.label, wording));
    hit.addEventListener("pointerleave", () => tip());
  });
}

/* A pixel per cell, one colour for all methods, as opaque as the cell is full, so that it suits light and dark. Up to 20
   classes have names and numbers, and need not fit into the frame; of more, the first and the last are named. */
function drawConfusion(host, chart) {
  const n = chart.names.length, all = n <= 20, named = chart.names.map(shorten).filter((_, i) => all || i % (n - 1) === 0);
  const longest = 6 * Math.max(...named.map(name => name.length)), margin = 28 + longest, room = Math.max(200, host.clientWidth - 24);
  const full = Math.max(Math.min(room, 560), all ? margin + 20 * n + 2 : 200), side = full - margin - 2, cell = side / n;
  const names = all ? longest * 0.75 + 16 : 18, foot = side + names + 16, height = foot + 28;
  host.classList.toggle("wide", full > room);
  const root = svg(host, "svg", {viewBox: `0 0 ${full} ${height}`, height, role: "img", tabindex: 0, class: "heat", style: `width:${full}px`});
  const right = chart.cells.reduce((sum, row, i) => sum + row[i], 0) / n;
  root.setAttribute("aria-label", `confusion matrix of ${chart.title}: ${show(right)} % on the diagonal on average`);
  const frame = {x: margin, y: 2, width: side, height: side}, bar = {x: margin + 30, y: foot + 10, width: Math.min(160, side - 80), height: 9};
  drawHeat(root, chart.cells, frame);
  drawHeat(root, [[...Array(101).keys()]], bar);
  svg(root, "text", {x: bar.x - 6, y: bar.y + 9, "text-anchor": "end"}, "0 %");
  svg(root, "text", {x: bar.x + bar.width + 6, y: bar.y + 9}, "100 %");
  svg(root, "text", {class: "name", x: margin + side / 2, y: foot, "text-anchor": "middle"}, "predicted class");
  svg(root, "text", {class: "name", "text-anchor": "middle", transform: `translate(11,${side / 2}) rotate(-90)`}, "true class");
  named.forEach((name, i) => {
    const at = (all ? i + 0.5 : i * (n - 1) + 0.5) * cell, x = margin + at, edge = i ? "end" : "start";
    svg(root, "text", {x: margin - 5, y: Math.max(11, 2 + at + 4), "text-anchor": "end"}, name);
    if (all) svg(root, "text", {"text-anchor": "end", transform: `translate(${x + 4},${side + 14}) rotate(-40)`}, name);
    else svg(root, "text", {x: i ? margin + side : margin, y: side + 16, "text-anchor": edge}, name);
  });
  const style = `font-size:${Math.min(12, cell * 0.48)}px`;
  if (all) chart.cells.forEach((row, i) => row.forEach((value, j) => svg(root, "text", {class: opacity(value) > 0.55 ? "dark" : "light",
    style, x: margin + (j + 0.5) * cell, y: 2 + (i + 0.5) * cell, "text-anchor": "middle", "dominant-baseline": "central"}, Math.round(value))));
  for (const kind of POINTER) root.addEventListener(kind, event => {
    const around = root.getBoundingClientRect(), scale = full / around.width;
    const place = v => Math.min(n - 1, Math.max(0, Math.floor(v / cell)));
    const i = place((event.clientY - around.top) * scale - 2), j = place((event.clientX - around.left) * scale - margin);
    tip(event.clientX, event.clientY, "true, predicted", [["", `${chart.names[i]}, ${chart.names[j]}`, `${chart.cells[i][j]} %`]]);
  });
  root.addEventListener("pointerleave", () => tip());
}

const opacity = percent => (percent / 100) ** 0.6;

/* Rows of percentages as an image in the frame. */
function drawHeat(root, rows, frame) {
  const canvas = Object.assign(document.createElement("canvas"), {width: rows[0].length, height: rows.length}), pen = canvas.getContext("2d");
  pen.fillStyle = getComputedStyle(root).getPropertyValue("--c").trim();
  rows.forEach((row, i) => row.forEach((value, j) => {
    pen.globalAlpha = opacity(value);
    pen.fillRect(j, i, 1, 1);
  }));
  svg(root, "image", {...frame, href: canvas.toDataURL(), class: "cells", preserveAspectRatio: "none"});
  svg(root, "rect", {...frame, class: "frame"});
}
