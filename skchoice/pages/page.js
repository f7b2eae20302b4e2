"use strict";
// Whatever comes from the data reaches the page as text nodes or numbers, never as HTML.

const by_id = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") node.className = value;
    else if (name === "tip") node.dataset.tip = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function drawn(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "tip") node.dataset.tip = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const whole = (n) => n.toLocaleString("en");
const short = (x) => (x === 0 ? "0" : Math.abs(x) >= 1e5 || Math.abs(x) < 1e-3 ? x.toExponential(1) : String(Number(x.toPrecision(3))));
const percent = (x) => (x === 0 ? "0%" : x * 100 < 0.001 ? (x * 100).toExponential(1) + "%" : Number((x * 100).toPrecision(3)) + "%");

async function unpacked(id) {
  const bytes = Uint8Array.from(atob(by_id(id).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// ------------------------------------------------------------------------- charts

const WIDTH = 360, HEIGHT = 210, LEFT = 46, BOTTOM = 36, RIGHT = 8, TOP = 6;
const INNER_WIDTH = WIDTH - LEFT - RIGHT, INNER_HEIGHT = HEIGHT - TOP - BOTTOM;

function frame(name, x_label, y_label) {
  return drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": name },
    drawn("text", { x: LEFT + INNER_WIDTH / 2, y: HEIGHT - 2, "text-anchor": "middle" }, x_label),
    drawn("text", { x: -(TOP + INNER_HEIGHT / 2), y: 9, "text-anchor": "middle", transform: "rotate(-90)" }, y_label));
}

function tick_x(svg, x, label) {
  svg.append(drawn("line", { class: "grid", x1: x, x2: x, y1: TOP, y2: TOP + INNER_HEIGHT }),
    drawn("text", { x, y: TOP + INNER_HEIGHT + 14, "text-anchor": "middle" }, label));
}

function tick_y(svg, y, label) {
  svg.append(drawn("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y, y2: y }),
    drawn("text", { x: LEFT - 5, y: y + 4, "text-anchor": "end" }, label));
}

const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";
const power = (n) => (n === 0 ? "1" : "10" + (n < 0 ? "⁻" : "") + [...String(Math.abs(n))].map((d) => SUPERSCRIPTS[d]).join(""));

function density_chart({ ranks, densities, zipf }) {
  const svg = frame("Density by rank", "feature, by rank", "density");
  const most = Math.max(1, Math.ceil(Math.log10(ranks[ranks.length - 1])));
  const low = Math.floor(Math.log10(densities[densities.length - 1]));
  const high = Math.max(low + 1, Math.ceil(Math.log10(densities[0])));
  const x = (rank) => LEFT + (INNER_WIDTH * Math.log10(rank)) / most;
  const y = (density) => TOP + (INNER_HEIGHT * (high - Math.log10(density))) / (high - low);
  for (let n = 0; n <= most; n++) tick_x(svg, x(10 ** n), power(n));
  for (let n = low; n <= high; n++) tick_y(svg, y(10 ** n), power(n));
  const path = (values) => ranks.map((rank, i) => `${i ? "L" : "M"}${x(rank).toFixed(1)} ${y(values[i]).toFixed(1)}`).join("");
  svg.append(drawn("path", { class: "curve", d: path(densities) }));
  if (zipf) {
    const law = ranks.map((rank) => zipf.scale * (rank + zipf.offset) ** -zipf.exponent);
    svg.append(drawn("path", { class: "fit", d: path(law) }));
  }
  ranks.forEach((rank, i) => {
    const next = ranks[i + 1] ?? rank;
    svg.append(drawn("rect", { class: "hit", x: x(rank), y: TOP, width: Math.max(2, x(next) - x(rank)), height: INNER_HEIGHT, tip: `rank ${whole(rank)}\ndensity ${percent(densities[i])}` }));
  });
  const key = element("p", { class: "key" }, element("span", {}, element("i"), "measured"));
  if (zipf) key.append(element("span", { tip: `offset ${short(zipf.offset)}; R² ${zipf.r2_middle.toFixed(3)} of the middle ranks` }, element("i", { class: "dashed" }), `Zipf, exponent ${zipf.exponent.toFixed(2)}, R² ${zipf.r2.toFixed(3)}`));
  return [svg, key];
}

// Round numbers from least to most, some five of them, no closer than finest.
function steps(least, most, finest = 0) {
  const span = most - least, unit = 10 ** Math.floor(Math.log10(span / 5));
  const step = Math.max(finest, [1, 2, 5, 10].map((n) => n * unit).find((n) => span / n <= 5));
  const first = Math.ceil(least / step);
  return Array.from({ length: Math.floor(most / step) - first + 1 }, (_, i) => (first + i) * step);
}

function bars(name, x_label, y_label, counts, edges, tip, finest) {
  const svg = frame(name, x_label, y_label);
  const most = Math.max(...counts), first = edges[0], last = edges[edges.length - 1];
  const x = (value) => LEFT + (INNER_WIDTH * (value - first)) / (last - first);
  const y = (count) => TOP + INNER_HEIGHT * (1 - count / most);
  for (const count of steps(0, most)) tick_y(svg, y(count), short(count));
  for (const value of steps(first, last, finest)) tick_x(svg, x(value), short(value));
  counts.forEach((count, i) => {
    const width = x(edges[i + 1]) - x(edges[i]);
    svg.append(drawn("rect", { class: "bar", x: x(edges[i]) + 0.5, y: y(count), width: Math.max(0.5, width - 1), height: INNER_HEIGHT + TOP - y(count) }),
      drawn("rect", { class: "hit", x: x(edges[i]), y: TOP, width, height: INNER_HEIGHT, tip: tip(i) }));
  });
  return svg;
}

function l0_chart({ l0_counts, n_rows }) {
  const first = l0_counts.findIndex((count) => count > 0);
  const width = Math.ceil((l0_counts.length - first) / 60);
  const counts = [], edges = [first];
  for (let low = first; low < l0_counts.length; low += width) {
    counts.push(l0_counts.slice(low, low + width).reduce((a, b) => a + b, 0) / n_rows);
    edges.push(low + width);
  }
  const range = (i) => (width === 1 ? edges[i] : `${edges[i]} to ${edges[i + 1] - 1}`);
  const around = edges.map((edge) => edge - 0.5);  // a bar stands over its number
  return bars("Matches per row", "matches per row", "share of rows", counts, around, (i) => `${range(i)} matches\n${percent(counts[i])} of rows`, 1);
}

function class_levels(classes) {
  const list = element("div", { class: "levels" });
  for (const { name, n_rows, explained_variance, l0 } of classes) {
    const fill = element("i");
    fill.style.setProperty("--share", Math.max(0, explained_variance));
    const tip = `${name}\n${whole(n_rows)} rows, ${l0.toFixed(1)} matches per row`;
    list.append(element("span", { class: "name", tip }, name), element("span", { class: "level", tip }, fill), element("span", { tip }, explained_variance.toFixed(3)));
  }
  return list;
}

function sparkline(heights) {
  const path = [...heights].map((h, i) => `M${i} 10V${10 - h}H${i + 0.85}V10Z`).join("");
  return drawn("svg", { class: "spark", viewBox: `0 0 ${heights.length} 10`, preserveAspectRatio: "none", "aria-hidden": "true" }, drawn("path", { d: path }));
}

// Blue for negative, white for zero, red for positive; or grey, dark for much.
const signed = (v) => (v < 128 ? [255 - 1.6 * (128 - v), 255 - 1.1 * (128 - v), 255 - 0.4 * (128 - v)] : [255 - 0.5 * (v - 128), 255 - 1.4 * (v - 128), 255 - 1.6 * (v - 128)]);
const grey = (v) => [255 - v, 255 - v, 255 - v];

function picture(code, shape, colour) {
  const [height, width] = shape, bytes = atob(code);
  const canvas = element("canvas", { width, height });
  const pixels = new ImageData(width, height);
  for (let i = 0; i < bytes.length; i++) pixels.data.set([...colour(bytes.charCodeAt(i)), 255], 4 * i);
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

// ------------------------------------------------------------------- all features

let data, table, state, order = [], shown = 0;
const view = { words: "", filter: "all", column: "count", falling: true };
const STATES = ["firing", "underused", "dead"];
const PER_LOOK = 60; // rows added whenever the end comes in sight

function section(title, ...children) {
  return element("section", {}, element("h3", {}, title), ...children);
}

function figures(pairs) {
  return pairs.map(([name, value, tip]) => element("div", { tip: tip ?? null }, element("dt", {}, name), element("dd", {}, value)));
}

function draw_overview() {
  const all = data.overview;
  by_id("figures").append(...figures([
    ["Features", whole(all.n_features)],
    ["Explained variance", all.explained_variance.toFixed(3)],
    ["Matches per row, L0", all.l0.toFixed(1)],
    ["Dead", whole(all.n_dead)],
    ["Underused", whole(all.underused.length)],
  ]));
  const charts = [];
  if (all.ranks.length) charts.push(section("How often features fire", ...density_chart(all)), section("How many features fire on a row", l0_chart(all)));
  if (all.classes.length) charts.push(section("Explained variance by class of row", class_levels(all.classes)));
  by_id("charts").append(...charts);
}

function columns() {
  const found = [{ name: "Feature", key: "id", width: "w-id" }];
  if (data.directions) found.push({ name: "", width: "w-picture" });
  if (table.label.some(Boolean)) found.push({ name: "Fires on", key: "label" });
  if (table.boosted.some(Boolean)) found.push({ name: "Boosts", key: "boosted" });
  found.push({ name: "Activations", width: "w-spark spare" },
    { name: "Density", key: "count", width: "w-number number" },
    { name: "Mean", key: "mean", width: "w-number number spare" },
    { name: "Largest", key: "largest", width: "w-number number" },
    { name: "Nearest", key: "twin", width: "w-number number spare" });
  return found;
}

function draw_heads() {
  const row = element("tr");
  for (const { name, key, width } of columns()) {
    const head = element("th", { class: width ?? "", scope: "col" });
    if (key) {
      head.dataset.key = key;
      head.append(element("button", { type: "button", onclick: () => sort_by(key) }, name));
    } else head.append(element("span", {}, name));
    row.append(head);
  }
  by_id("table").tHead.append(row);
}

function draw_filter() {
  for (const name of ["all", ...STATES]) {
    const press = () => { view.filter = name; refresh(); };
    by_id("filter").append(element("button", { type: "button", "data-name": name, onclick: press }, name));
  }
}

function sort_by(key) {
  const text = key === "label" || key === "boosted";
  view.falling = view.column === key ? !view.falling : key !== "id" && !text;
  view.column = key;
  refresh();
}

function refresh() {
  const words = view.words.trim().toLowerCase().replace(/^#/, "");
  order = [];
  for (let id = 0; id < state.length; id++) {
    if (view.filter !== "all" && STATES[state[id]] !== view.filter) continue;
    if (words && String(id) !== words && !table.haystack[id].includes(words)) continue;
    order.push(id);
  }
  if (view.column !== "id") {
    const values = table[view.column];
    const text = typeof values[0] === "string";
    order.sort((a, b) => (text ? Number(values[a] > values[b]) - Number(values[a] < values[b]) : values[a] - values[b]) * (view.falling ? -1 : 1) || a - b);
  } else if (view.falling) order.reverse();
  // A number asked for comes first.
  const exact = order.indexOf(Number(words));
  if (words && exact > 0) order.unshift(...order.splice(exact, 1));
  for (const head of by_id("table").tHead.querySelectorAll("th[data-key]")) {
    if (head.dataset.key === view.column) head.setAttribute("aria-sort", view.falling ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  for (const button of by_id("filter").children) button.setAttribute("aria-pressed", button.dataset.name === view.filter);
  by_id("found").textContent = order.length === state.length ? "" : `${whole(order.length)} of ${whole(state.length)}`;
  by_id("table").tBodies[0].replaceChildren();
  shown = 0;
  show_more();
}

function show_more() {
  const rows = order.slice(shown, shown + PER_LOOK).map(table_row);
  shown += rows.length;
  by_id("table").tBodies[0].append(...rows);
}

function table_row(id) {
  const cells = {
    Feature: () => [link(id), ...chip(id)],
    "": () => [picture(data.directions[id], data.image, signed)],
    "Fires on": () => [table.label[id]],
    Boosts: () => [table.boosted[id]],
    Activations: () => (table.count[id] ? [sparkline(table.histogram[id])] : []),
    Density: () => [percent(table.count[id] / data.overview.n_rows)],
    Mean: () => [short(table.mean[id])],
    Largest: () => [short(table.largest[id])],
    Nearest: () => [table.twin[id].toFixed(2)],
  };
  const row = element("tr", { onclick: () => { location.hash = `feature-${id}`; } });
  for (const { name, width } of columns_shown) row.append(element("td", { class: width ?? "" }, ...cells[name]()));
  return row;
}

const link = (id) => element("a", { href: `#feature-${id}` }, String(id));
const chip = (id) => (state[id] ? [element("span", { class: "chip" }, STATES[state[id]])] : []);

// ------------------------------------------------------------------- one feature

const packs = new Map();

async function details(id) {
  const number = Math.floor(id / data.per_pack);
  if (!by_id(`pack-${number}`)) await new Promise((done) => document.addEventListener("DOMContentLoaded", done, { once: true }));
  if (!packs.has(number)) packs.set(number, unpacked(`pack-${number}`));
  return (await packs.get(number))[id % data.per_pack];
}

function token(text, value, most, middle) {
  const node = element("span", { class: middle ? "token at" : "token", tip: value ? short(value) : null }, text);
  if (value) node.style.setProperty("--a", value / most);
  return node;
}

function place({ row, document: text, position, class: name }) {
  const where = [`row ${whole(row)}`];
  if (text !== undefined) where.push(`document ${text}`);
  if (position !== undefined) where.push(`position ${position}`);
  if (name !== undefined) where.push(`class ${name}`);
  return where.join(", ");
}

function context(found, most) {
  const { at, values } = found;
  const value = element("span", { class: "value", tip: place(found) }, short(values[at]));
  if (!found.tokens) return element("div", { class: "context" }, value, element("span", {}, place(found)));
  const tokens = found.tokens.map((text, i) => token(text, values[i], most, i === at));
  const text = element("div", { class: "text" }, element("span", { class: "left" }, ...tokens.slice(0, at)), element("span", { class: "right" }, ...tokens.slice(at)));
  const node = element("div", { class: "context" }, value, text);
  node.addEventListener("click", () => node.classList.toggle("open"));
  return node;
}

function contexts(found, most) {
  if (!found.length || !found[0].picture) return found.map((one) => context(one, most));
  return [element("div", { class: "gallery" }, ...found.map((one) =>
    element("figure", { tip: place(one) }, picture(one.picture, data.image, grey), element("figcaption", {}, short(one.values[one.at])))))];
}

function neighbours(pairs, tip) {
  const list = element("div", { class: "list" });
  for (const [id, value] of pairs) list.append(link(id), element("span", { class: "muted" }, table.label[id] || ""), element("span", { tip: tip(value) }, value.toFixed(2)));
  return list;
}

function output_tokens(pairs) {
  const list = element("div", { class: "list" });
  for (const [text, value] of pairs) list.append(element("span", { class: "token" }, text), element("span", { class: "muted" }, (value > 0 ? "+" : "") + short(value)));
  return list;
}

const BANDS = ["Strongest fifth", "Second fifth", "Third fifth", "Fourth fifth", "Weakest fifth"];

async function draw_feature(id) {
  const found = await details(id), most = table.largest[id], count = table.count[id];
  if (current() !== id) return;
  const place_in_order = order.indexOf(id);
  const step = (by, name) => {
    const other = order[place_in_order + by];
    return place_in_order < 0 || other === undefined ? element("span", { class: "muted" }, name) : element("a", { href: `#feature-${other}`, rel: by < 0 ? "prev" : "next" }, name);
  };
  const main = element("div"), side = element("aside");
  if (found.top.length) main.append(section("Where it fires most strongly", ...contexts(found.top, most)));
  else main.append(element("p", { class: "muted" }, "It fires on none of these rows."));
  if (found.bands.length) main.append(section("Across its activations", element("div", { class: data.image ? "bands gallery" : "bands" }, ...found.bands.map((band, i) => element("div", { class: "band" }, element("p", {}, BANDS[i]), ...contexts(band, most))))));
  if (data.directions) side.append(section("Decoder direction", element("div", { class: "direction" }, picture(data.directions[id], data.image, signed))));
  if (count) {
    const edges = found.histogram.map((_, i) => (most * i) / found.histogram.length).concat(most);
    const tip = (i) => `${short(edges[i])} to ${short(edges[i + 1])}\n${whole(found.histogram[i])} rows`;
    side.append(section("Activations where it fires", bars("Activations", "activation", "rows", found.histogram, edges, tip)));
  }
  if (found.boosted) {
    side.append(element("section", { class: "two" },
      element("div", {}, element("h3", {}, "Boosts"), output_tokens(found.boosted)),
      element("div", {}, element("h3", {}, "Suppresses"), output_tokens(found.suppressed))));
  }
  if (found.cosine.length) side.append(section("Nearest by direction", neighbours(found.cosine, (value) => `cosine ${value}`)));
  if (found.cofiring.length) side.append(section("Fires with", neighbours(found.cofiring, (value) => `${percent(value)} of the rows on which either fires`)));
  by_id("one").replaceChildren(
    element("div", { class: "heading" }, element("h2", {}, `Feature ${id}`, ...chip(id)), element("span", {}, table.label[id] || ""),
      element("nav", { class: "steps" }, step(-1, "← previous"), step(1, "next →"), element("a", { href: "#" }, "all features"))),
    element("dl", { class: "figures" }, ...figures([
      ["Density", percent(count / data.overview.n_rows)], ["Rows", whole(count)],
      ["Mean where it fires", short(table.mean[id])], ["Largest", short(most)]])),
    element("div", { class: "feature" }, main, side));
}

// ------------------------------------------------------------------------ moving

let scrolled = 0, columns_shown;

function current() {
  const match = /^#feature-(\d+)$/.exec(location.hash);
  return match && Number(match[1]) < state.length ? Number(match[1]) : null;
}

async function route() {
  hide_tip();
  const id = current(), was_open = !by_id("one").hidden;
  if (id === null) {
    by_id("one").hidden = true;
    by_id("all").hidden = false;
    if (was_open) window.scrollTo(0, scrolled);
    return;
  }
  if (!was_open) scrolled = window.scrollY;
  await draw_feature(id);
  by_id("all").hidden = true;
  by_id("one").hidden = false;
  window.scrollTo(0, 0);
}

const tip = by_id("tip");
function hide_tip() { tip.hidden = true; }

document.addEventListener("mouseover", (event) => {
  const owner = event.target.closest?.("[data-tip]");
  if (!owner) return hide_tip();
  tip.textContent = owner.dataset.tip;
  tip.hidden = false;
});
document.addEventListener("mousemove", (event) => {
  if (tip.hidden) return;
  const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
  const below = event.clientY + 18;
  const top = below + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 10 : below;
  tip.style.left = `${left}px`;
  tip.style.top = `${top}px`;
});
document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input");
  if (event.key === "/" && !typing) { event.preventDefault(); location.hash = ""; by_id("search").focus(); }
  if (event.key === "Escape" && current() !== null) location.hash = "";
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const to = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
  if (to) by_id("one").querySelector(`a[rel=${to}]`)?.click();
});

async function start() {
  data = await unpacked("data");
  table = data.table;
  state = table.count.map((count) => (count ? 0 : 2));
  for (const id of data.overview.underused) state[id] = 1;
  table.haystack = table.label.map((label, id) => `${label} ${table.boosted[id]}`.toLowerCase());
  columns_shown = columns();
  draw_overview();
  draw_heads();
  draw_filter();
  refresh();
  by_id("search").addEventListener("input", (event) => { view.words = event.target.value; refresh(); });
  new IntersectionObserver((seen) => { if (seen.some((one) => one.isIntersecting) && shown < order.length) show_more(); }, { rootMargin: "600px" }).observe(by_id("end"));
  window.addEventListener("hashchange", route);
  await route();
  document.documentElement.dataset.ready = "";
}

start().catch((error) => {
  by_id("problem").textContent = `This page could not be drawn (${error.message}). It needs a browser of 2023 or later.`;
  by_id("problem").hidden = false;
  throw error;
});
