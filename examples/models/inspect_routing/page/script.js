// Draws the page from the JSON in #data. Strings of the text reach the document as text nodes only.
"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const count = data.components, tokens = data.windowTokens, forms = data.forms;
const byId = (id) => document.getElementById(id);
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
const sum = (list) => list.reduce((a, b) => a + b, 0);

// ---- Small parts ----------------------------------------------------------------------------------------------------

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}
function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}
const per_cent = (x) => {
  const p = 100 * x;
  return (p >= 9.95 || p === 0 ? p.toFixed(0) : p >= 0.1 ? p.toFixed(1) : p >= 0.01 ? p.toFixed(2) : "<0.01") + " %";
};
const number = (x) => x >= 1e5 ? Math.round(x).toLocaleString("en") : x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x.toFixed(2);
const whole = (x) => x.toLocaleString("en");
const form_colour = (f) => `var(--form-${f})`;
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// A character that would not be seen, as one that is.
const visible = { " ": "\u2423", "\n": "\u23ce", "\t": "\u21e5", "\r": "\u240d", "\u00a0": "\u237d" };
const seen = (c) => visible[c] || (c < " " ? String.fromCharCode(0x2400 + c.charCodeAt(0)) : c);
const plain = (text) => Array.from(text, seen).join("");
const quoted = (text) => text === "" ? "(nothing)" : "\u201c" + plain(text) + "\u201d";

// The same with those characters faint; keep_spaces leaves spaces as they are.
function shown(text, keep_spaces = false) {
  const fragment = document.createDocumentFragment();
  let run = "";
  const flush = () => { if (run) fragment.append(run); run = ""; };
  for (const c of text) {
    if (seen(c) === c || (keep_spaces && c === " ")) { run += c; continue; }
    flush();
    fragment.append(element("span", { class: "ws" }, seen(c)));
  }
  flush();
  return fragment;
}
const token = (text) => element("span", { class: "token" }, shown(text));

// Base 64 of 65535ths.
function unpack(text) {
  const bytes = atob(text), values = new Float32Array(bytes.length / 2);
  for (let i = 0; i < values.length; ++i)
    values[i] = (bytes.charCodeAt(2 * i) + 256 * bytes.charCodeAt(2 * i + 1)) / 65535;
  return values;
}
function maps(head) {
  if (!head.maps) {
    head.maps = {};
    for (const name of ["keys", "queries", "affinity"]) head.maps[name] = unpack(head.window[name]);
  }
  return head.maps;
}

// ---- What is chosen, in the address -----------------------------------------------------------------------------------

const defaults = { layer: 1, head: 1, side: "keys", sort: "usage", component: 0, token: 0, theme: "auto" };
let state = { ...defaults };

function read_address() {
  const given = new URLSearchParams(location.hash.slice(1)), next = { ...defaults };
  const whole_number = (name, low, high) => {
    const value = Number.parseInt(given.get(name), 10);
    if (Number.isFinite(value)) next[name] = clamp(value, low, high);
  };
  const one_of = (name, values) => { if (values.includes(given.get(name))) next[name] = given.get(name); };
  whole_number("layer", 1, data.layers);
  whole_number("head", 1, data.headsPerLayer);
  whole_number("component", 0, count);
  whole_number("token", 0, tokens.length);
  one_of("side", ["keys", "queries"]);
  one_of("sort", ["usage", "form", "number"]);
  one_of("theme", ["auto", "light", "dark"]);
  return next;
}
function write_address() {
  const hash = Object.keys(defaults).filter((k) => state[k] !== defaults[k] || k === "layer" || k === "head")
    .map((k) => `${k}=${state[k]}`).join("&");
  try { history.replaceState(null, "", "#" + hash); } catch (error) { /* an embedded page may have no history */ }
}
const head_of = (s) => data.heads[(s.layer - 1) * data.headsPerLayer + s.head - 1];
const head = () => head_of(state);
const side = () => head()[state.side];
const dead_below = 0.1 / count;

// Components in the order chosen, from 0.
function order() {
  const list = Array.from({ length: count }, (_, k) => k), s = side();
  const by_usage = (a, b) => s.usage[b] - s.usage[a] || a - b;
  if (state.sort === "usage") list.sort(by_usage);
  if (state.sort === "form") {
    const form = (k) => sum(s.forms[k]) > 0 ? main_form(s.forms[k]) : forms.length;
    list.sort((a, b) => form(a) - form(b) || by_usage(a, b));
  }
  return list;
}
const main_form = (row) => row.indexOf(Math.max(...row));
const chosen_component = () => state.component > 0 ? state.component - 1 : order_now[0];
const chosen_token = () => state.token > 0 ? state.token - 1 : Math.min(tokens.length - 1, Math.floor(tokens.length * 2 / 3));
let order_now = [];

// In a product mixture: the component of each factor.
function factor_indices(k) {
  const list = [];
  for (let m = data.factors.length; m-- > 0;) {
    list.unshift(k % data.factors[m] + 1);
    k = Math.floor(k / data.factors[m]);
  }
  return list;
}
const component_name = (k) => `Component ${k + 1}`;

function set(changes, say) {
  state = { ...state, ...changes };
  hide_tip();
  write_address();
  draw(changes);
  if (say) byId("live").textContent = say();
}

// ---- Tool tip ---------------------------------------------------------------------------------------------------------

const tip = byId("tip");
function show_tip(event, ...contents) {
  tip.replaceChildren(...contents);
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = clamp(event.clientX + 14, 4, innerWidth - box.width - 4) + "px";
  tip.style.top = (event.clientY + 18 + box.height > innerHeight ? event.clientY - box.height - 12 : event.clientY + 18) + "px";
}
const hide_tip = () => { tip.hidden = true; };
const line = (...contents) => element("div", {}, ...contents);
const bold = (text) => element("b", {}, text);

// ---- Colours of shares ------------------------------------------------------------------------------------------------

// ColorBrewer's YlGnBu: ordered in lightness, safe for colour-blind eyes; towards the ground for 0 in both schemes.
const stops = ["#ffffe5", "#edf8b1", "#c7e9b4", "#7fcdbb", "#41b6c4", "#1d91c0", "#225ea8", "#253494", "#081d58"]
  .map((hex) => [1, 3, 5].map((i) => Number.parseInt(hex.slice(i, i + 2), 16)));
const is_dark = () => document.documentElement.dataset.scheme === "dark";
function ramp() {  // 256 colours over the root of the share
  const list = is_dark() ? [[18, 22, 44], ...stops.slice(0, 8).reverse()] : stops, table = [];
  for (let i = 0; i < 256; ++i) {
    const at = i / 255 * (list.length - 1), n = Math.min(list.length - 2, Math.floor(at));
    table.push(list[n].map((v, c) => Math.round(v + (at - n) * (list[n + 1][c] - v))));
  }
  return table;
}
let colours = [];
const colour_of = (share) => colours[Math.round(255 * Math.sqrt(clamp(share, 0, 1)))];
const rgb = (c) => `rgb(${c[0]},${c[1]},${c[2]})`;

function draw_scales() {
  for (const scale of document.querySelectorAll(".scale")) {
    const gradient = colours.filter((_, i) => i % 17 === 0).map(rgb).join(",");
    const ticks = element("div", { class: "ticks" });
    for (const v of [0, 0.01, 0.05, 0.1, 0.25, 0.5, 1])
      ticks.append(element("span", { style: `left:${100 * Math.sqrt(v)}%` }, `${100 * v}`));
    scale.replaceChildren(element("div", { class: "ramp", style: `background:linear-gradient(90deg,${gradient})` }),
                          element("span", {}, "per cent " + scale.dataset.unit), ticks);
  }
}

// ---- Heading ----------------------------------------------------------------------------------------------------------

function draw_heading() {
  const kind = data.isBytes ? "bytes" : "subword pieces";
  byId("lede").textContent = `In every head, ${count} Gaussian components stand between the tokens: a key writes its ` +
    `value into the components that it lies near, a query reads from those that it lies near. Here is what ${count} ` +
    `components a head have come to stand for, counted over ${whole(data.tokens)} ${kind} of ${data.text} that the ` +
    `model was not trained on.`;
  const facts = [["Model", data.checkpoint], ["Mixer", data.mixer], ["Layers", data.layers], ["Heads", data.headsPerLayer],
    ["Width", data.width], ["Components", data.factors.join(" × ") + (data.factors.length > 1 ? " = " + count : "")],
    ["Tokens", data.isBytes ? "bytes" : `${data.vocabulary} pieces`], ["Trained for", `${whole(data.steps)} steps`],
    ["Context", `${data.context} tokens`]];
  byId("facts").replaceChildren(...facts.map(([name, value]) => element("li", {}, name + " ", bold(String(value)))));
  byId("forms-legend").replaceChildren(...forms.map((name, f) =>
    element("li", {}, element("i", { style: `background:${form_colour(f)}` }), name)));
  byId("footer").textContent = "Made by inspect_routing, an example of gma: Gaussian mixture attention in linear time. " +
    "The numbers are in the CSV files beside this page.";
}

// ---- Cards ------------------------------------------------------------------------------------------------------------

function spark(s) {
  const most = Math.max(...s.usage), picture = svg("svg", { viewBox: `0 0 ${count} 100`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const by_usage = Array.from({ length: count }, (_, k) => k).sort((a, b) => s.usage[b] - s.usage[a]);
  by_usage.forEach((k, i) => {
    const height = Math.max(1.5, 100 * s.usage[k] / most);
    const fill = sum(s.forms[k]) > 0 ? form_colour(main_form(s.forms[k])) : "var(--dead)";
    picture.append(svg("rect", { x: i + 0.08, width: 0.84, y: 100 - height, height, fill }));
  });
  return picture;
}
const are_many = data.heads.length > 8;  // then a row of cards for each layer, with less on each
function card(h) {
  const s = h[state.side], is_chosen = h.layer === state.layer && h.head === state.head;
  const stat = (name, value, title) => element("span", { title }, bold(value), name);
  const stats = element("div", { class: "stats" },
    stat(are_many ? "entropy" : "entropy, of log K", per_cent(count > 1 ? s.entropy / Math.log(count) : 1), "the entropy of usage in per cent of log K; 100 %: all components are used the same"),
    stat(are_many ? "dead" : "components dead", `${s.dead} of ${count}`, "used less than a tenth of an even share"),
    stat(are_many ? "NMI" : "NMI with surface form", s.nmi.toFixed(3), "normalised mutual information of the strongest component and the token's surface form, from 0 to 1"),
    stat("components per token", number(s.perToken), "mean of exp(entropy) of a token's responsibilities"),
    stat("temperature" + (h.temperatures.length > 1 ? "s" : ""), h.temperatures.map(number).join(", "), "learned, one for each factor of the mixture"));
  if (h.forgetting) stats.append(stat("tokens in memory", number(h.forgetting.held), "what the memory holds on the average: each token counts as what is left of it"));
  const button = element("button", { type: "button", class: "card", "aria-pressed": is_chosen,
    "data-layer": h.layer, "data-head": h.head }, element("strong", {}, `Layer ${h.layer} · head ${h.head}`), spark(s), stats);
  button.addEventListener("click", () => set({ layer: h.layer, head: h.head, component: 0 }, () => `Layer ${h.layer}, head ${h.head}`));
  return button;
}
function draw_cards() {
  const box = byId("cards"), focused = box.contains(document.activeElement), scrolled = box.scrollLeft;
  box.replaceChildren(...data.heads.map(card));
  box.style.setProperty("--heads", data.headsPerLayer);
  box.dataset.heads = are_many ? "many" : data.heads.length <= 4 ? "few" : "some";
  const chosen = box.querySelector('[aria-pressed="true"]'), left = chosen.offsetLeft - box.offsetLeft;
  const is_seen = left >= scrolled && left + chosen.offsetWidth <= scrolled + box.clientWidth;
  box.scrollLeft = is_seen ? scrolled : left - 8;
  if (focused) chosen.focus();
}

// ---- Usage and surface forms ------------------------------------------------------------------------------------------

function component_tip(k) {
  const s = side(), total = sum(s.forms[k]), list = [];
  list.push(line(bold(component_name(k)), data.factors.length > 1 ? ` (${factor_indices(k).join(" · ")})` : ""));
  list.push(line("usage ", bold(per_cent(s.usage[k])), s.usage[k] < dead_below ? ", dead" : `, ${number(s.usage[k] * count)} times an even share`));
  if (total > 0) list.push(line(`strongest for ${whole(total)} tokens: `,
    s.forms[k].map((n, f) => [n, f]).filter(([n]) => n > 0).sort((a, b) => b[0] - a[0]).slice(0, 3)
      .map(([n, f]) => `${forms[f]} ${per_cent(n / total)}`).join(", ")));
  if (s.common[k].length) {
    const tokens_line = line("most often ");
    s.common[k].slice(0, 5).forEach(([t], i) => tokens_line.append(i ? "  " : "", token(t)));
    list.push(tokens_line);
  }
  return list;
}

function nice_step(most) {
  const raw = most / 3, unit = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 2.5, 5, 10].map((m) => m * unit).find((step) => step >= raw);
}
function draw_chart() {
  const box = byId("chart"), s = side(), width = Math.max(260, box.clientWidth), left = 46, right = 6;
  const top = 14, high = 190, gap = 16, low = 74, bottom = top + high + gap + low + 22;
  const most = Math.max(...s.usage, 1.2 / count), x = (width - left - right) / count, pad = x > 4 ? 0.1 * x : 0;
  const y = (share) => top + high * (1 - share / most);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${bottom}`, height: bottom, "data-bars": count });
  const text = (at_x, at_y, content, anchor = "end", extra = {}) =>
    picture.append(svg("text", { x: at_x, y: at_y, "text-anchor": anchor, ...extra }, content));
  const step = nice_step(most);
  for (let v = 0; v <= most * 1.001; v += step) {
    picture.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(v), y2: y(v) }));
    text(left - 6, y(v) + 4, `${Number((100 * v).toPrecision(3))} %`);
  }
  const from = top + high + gap;
  text(left - 6, from + 9, "100 %");
  text(left - 6, from + low, "0");
  order_now.forEach((k, i) => {
    const at = left + i * x + pad, wide = Math.max(0.5, x - 2 * pad), total = sum(s.forms[k]);
    const is_dead = s.usage[k] < dead_below;
    picture.append(svg("rect", { class: is_dead ? "bar dead" : "bar", x: at, width: wide, y: Math.min(y(s.usage[k]), y(0) - 1), height: Math.max(1, y(0) - y(s.usage[k])) }));
    let above = from;
    s.forms[k].forEach((n, f) => {
      if (n === 0) return;
      const height = low * n / total;
      picture.append(svg("rect", { x: at, width: wide, y: above, height, style: `fill:${form_colour(f)}` }));
      above += height;
    });
    if (total === 0) picture.append(svg("rect", { x: at, width: wide, y: from + low - 1, height: 1, style: "fill:var(--dead)" }));
  });
  picture.append(svg("line", { class: "even", x1: left, x2: width - right, y1: y(1 / count), y2: y(1 / count) }));
  text(width - right, y(1 / count) - 5, `even share, ${per_cent(1 / count)}`, "end", { class: "even-text" });
  text(left, bottom - 4, state.sort === "usage" ? "most used" : state.sort === "number" ? "component 1" : forms[0], "start");
  text(width - right, bottom - 4, state.sort === "usage" ? "least used" : state.sort === "number" ? String(count) : "strongest for none");
  const place = order_now.indexOf(chosen_component());
  picture.append(svg("rect", { class: "chosen", x: left + (place + 0.5) * x - Math.max(x, 7) / 2, width: Math.max(x, 7), y: top - 2, height: from + low + 4 - top }));
  order_now.forEach((k, i) => {
    const hit = svg("rect", { class: "hit", x: left + i * x, width: x, y: top, height: from + low - top, "data-component": k + 1 });
    hit.addEventListener("pointermove", (event) => show_tip(event, ...component_tip(k)));
    hit.addEventListener("pointerleave", hide_tip);
    hit.addEventListener("click", () => set({ component: k + 1 }));
    picture.append(hit);
  });
  box.replaceChildren(picture);
  const chosen = chosen_component();
  box.setAttribute("aria-label", `Usage of ${count} components. Chosen: component ${chosen + 1}, usage ${per_cent(s.usage[chosen])}.`);
}

function draw_detail() {
  const k = chosen_component(), s = side(), h = head(), total = sum(s.forms[k]), other = state.side === "keys" ? "queries" : "keys";
  const parts = [element("h3", {}, component_name(k))];
  if (data.factors.length > 1)
    parts.push(element("p", { class: "hint" }, `The pair ${factor_indices(k).join(" · ")} of the product mixture's factors.`));
  parts.push(element("p", {}, "Usage ", bold(per_cent(s.usage[k])), ` of ${state.side}, ${per_cent(h[other].usage[k])} of ${other}. `,
    total > 0 ? `Strongest for ${whole(total)} of ${whole(data.tokens)} ${state.side}.` : "The strongest for no token."));
  if (total > 0) {
    const bar = element("div", { class: "sharebar", role: "img", "aria-label": forms.map((name, f) => `${name} ${per_cent(s.forms[k][f] / total)}`).join(", ") });
    const legend = element("ul", { class: "legend" });
    s.forms[k].forEach((n, f) => {
      if (n === 0) return;
      bar.append(element("i", { style: `width:${100 * n / total}%;background:${form_colour(f)}` }));
      legend.append(element("li", {}, element("i", { style: `background:${form_colour(f)}` }), `${forms[f]} ${per_cent(n / total)}`));
    });
    parts.push(bar, legend, element("h4", {}, "Most frequent among those"));
    parts.push(element("ul", { class: "chips" }, ...s.common[k].map(([t, n]) => element("li", {}, token(t), ` ${per_cent(n / total)}`))));
  }
  parts.push(element("h4", {}, "Strongest tokens, in context"));
  if (s.strongest[k].length) {
    const table = element("table", { class: "kwic" });
    table.append(element("tr", {}, element("th", { class: "value", scope: "col" }, "share"), element("th", { class: "before", scope: "col" }, element("bdi", {}, "before")),
      element("th", { class: "after", scope: "col" }, "token and after")));
    for (const [before, text, after, share] of s.strongest[k]) {
      table.append(element("tr", {}, element("td", { class: "value" }, per_cent(share)),
        element("td", { class: "before" }, element("bdi", {}, shown(before, true))),
        element("td", { class: "after" }, element("mark", {}, shown(text)), shown(after, true))));
    }
    parts.push(table);
  } else {
    parts.push(element("p", { class: "none" }, "None were listed."));
  }
  byId("detail").replaceChildren(...parts);
}

function draw_components() {
  const s = side(), h = head();
  byId("components-title").textContent = `Components of layer ${h.layer}, head ${h.head}, for ${state.side}`;
  let text = `Usage has an entropy of ${number(s.entropy)} nats, as much as ${number(Math.exp(s.entropy))} components used evenly. ` +
    `A token's strongest component explains ${number(s.information)} of the ${number(s.formEntropy)} nats of its surface form. `;
  if (h.forgetting) {
    const f = h.forgetting, times = f.forms.map((time, i) => [time, forms[i]]).filter(([time]) => time > 0).sort((a, b) => a[0] - b[0]);
    const last = times[times.length - 1];
    text += `The memory holds ${number(f.held)} tokens on average; a token counts as the part of it that is left. `;
    text += `The time constant of its gate is ${number(f.median)} tokens at the median token, ${number(f.low)} to ${number(f.high)} at the middle 80 %`;
    if (times.length > 1) text += `; it forgets fastest at ${times[0][1]} (${number(times[0][0])} tokens), slowest at ${last[1]} (${number(last[0])})`;
    text += ".";
  } else {
    text += "This model forgets nothing.";
  }
  byId("components-hint").textContent = text;
  draw_chart();
  draw_detail();
}

// ---- The window of text -----------------------------------------------------------------------------------------------

function draw_reader() {
  const box = byId("reader"), asks = chosen_token(), h = head(), a = maps(h).affinity, n = tokens.length;
  const spans = [];
  const most = Math.max(...Array.from(a.subarray(asks * n, asks * n + asks + 1)), 1e-6);
  tokens.forEach((text, j) => {
    const share = j <= asks ? a[asks * n + j] : 0;
    const span = element("span", { class: "t" + (j > asks ? " later" : "") + (j === asks ? " asks" : ""), "data-token": j + 1 }, shown(text));
    if (j <= asks) span.style.backgroundColor = `rgba(var(--hear), ${(0.85 * Math.sqrt(share / most)).toFixed(3)})`;
    if (j <= asks && share / most > (is_dark() ? 0.35 : 0.78)) span.style.color = is_dark() ? "#0f1319" : "#ffffff";
    spans.push(span);
    if (text.endsWith("\n")) spans.push(element("br"));
  });
  box.replaceChildren(...spans);

  const before = h.window.before[asks], heard = [];
  for (let j = 0; j <= asks; ++j) heard.push([a[asks * n + j], j]);
  heard.sort((p, q) => q[0] - p[0]);
  const list = element("ol");
  const meter = (share, ...name) => list.append(element("li", {}, bold(per_cent(share)), element("div", { class: "meter" },
    element("span", {}, ...name), element("i", { style: `width:${100 * share}%` }))));
  for (const [share, j] of heard.slice(0, 9))
    meter(share, token(tokens[j]), j === asks ? " itself" : asks - j === 1 ? " 1 token ago" : ` ${asks - j} tokens ago`);
  meter(before, "before the window");
  const parts = [element("p", {}, `Token ${asks + 1}, `, token(tokens[asks]), ", reads through this head's memory:"), list];
  byId("reading").replaceChildren(...parts);
}
byId("reader").addEventListener("click", (event) => {
  const span = event.target.closest("[data-token]");
  if (span) set({ token: Number(span.dataset.token) });
});
byId("reader").addEventListener("pointermove", (event) => {
  const span = event.target.closest("[data-token]");
  if (!span) { hide_tip(); return; }
  const j = Number(span.dataset.token) - 1, asks = chosen_token(), share = maps(head()).affinity[asks * tokens.length + j];
  show_tip(event, line(`Token ${j + 1}, `, token(tokens[j])),
           line(j <= asks ? bold(per_cent(share)) : "", j <= asks ? " of what token " + (asks + 1) + " reads" : "not yet written; click to let it ask"));
});
byId("reader").addEventListener("pointerleave", hide_tip);

// A canvas of so many CSS pixels, ready to draw on in them.
function prepare(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = width + "px";
  canvas.style.height = height + "px";
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.imageSmoothingEnabled = false;
  return context;
}
// rows x cols cells with value(row, col), or null for nothing.
function paint(context, x, y, cell_x, cell_y, rows, cols, value) {
  const image = new ImageData(cols, rows);
  for (let r = 0; r < rows; ++r) {
    for (let c = 0; c < cols; ++c) {
      const share = value(r, c);
      if (share === null) continue;
      const [red, green, blue] = colour_of(share);
      image.data.set([red, green, blue, 255], 4 * (r * cols + c));
    }
  }
  const small = document.createElement("canvas");
  small.width = cols;
  small.height = rows;
  small.getContext("2d").putImageData(image, 0, 0);
  context.drawImage(small, x, y, cols * cell_x, rows * cell_y);
}
function label(context, text, x, y, is_upright) {
  context.save();
  context.translate(x, y);
  if (is_upright) context.rotate(-Math.PI / 2);
  context.fillText(text, 0, 0);
  context.restore();
}
const short_label = (text) => { const p = plain(text); return Array.from(p).length > 8 ? Array.from(p).slice(0, 7).join("") + "\u2026" : p; };
function label_font(context, cell) {
  context.font = `${clamp(cell + 1, 8, 12)}px ${css("--mono")}`;
  context.fillStyle = css("--muted");
  context.textBaseline = "middle";
  context.textAlign = "right";
}
const label_width = data.isBytes ? 18 : 66;

let affinity_place = null, map_place = null;
function draw_affinity() {
  const canvas = byId("affinity"), h = head(), n = tokens.length, a = maps(h).affinity, asks = chosen_token();
  const room = canvas.parentElement.clientWidth;
  const strip = h.forgetting ? 30 : 0;
  let cell = Math.floor((room - label_width - 8) / (n + 2));
  const labelled = cell >= 5;
  const left = labelled ? label_width : 2;
  cell = clamp(Math.floor((room - left - 6) / (n + 2)), 3, 16);
  const first = left + 2 * cell, top = 2;  // a cell for what was before, a cell of gap
  const width = first + n * cell + 4, height = top + n * cell + (strip ? strip + 8 : 0) + 4;
  const context = prepare(canvas, width, height);
  paint(context, first, top, cell, cell, n, n, (i, j) => j <= i ? a[i * n + j] : null);
  paint(context, left, top, cell, cell, n, 1, (i) => h.window.before[i]);
  if (labelled) {
    label_font(context, Math.min(cell, 9));
    tokens.forEach((text, i) => {
      context.fillStyle = i === asks ? css("--mark") : css("--muted");
      if (cell >= 9 || i % 2 === asks % 2) label(context, short_label(text), left - 3, top + (i + 0.5) * cell, false);
    });
  }
  if (strip) {
    const base = top + n * cell + 8 + strip;
    context.fillStyle = css("--line");
    context.fillRect(first, base - strip, n * cell, strip);
    context.fillStyle = css("--bar");
    h.window.kept.forEach((kept, j) => context.fillRect(first + j * cell, base - strip * kept, Math.max(1, cell - 1), strip * kept));
  }
  context.strokeStyle = css("--mark");
  context.lineWidth = 1.5;
  context.strokeRect(left - 0.5, top + asks * cell - 0.5, first - left + (asks + 1) * cell + 1, cell + 1);
  canvas.dataset.rows = n;
  canvas.dataset.columns = n;
  canvas.setAttribute("aria-label", `Affinity of ${n} tokens, causal. Token ${asks + 1} reads ${per_cent(h.window.before[asks])} from before the window. Arrow keys choose the token.`);
  affinity_place = { left, first, top, cell };
}
function affinity_at(event) {
  const box = byId("affinity").getBoundingClientRect(), p = affinity_place;
  const x = event.clientX - box.left, i = Math.floor((event.clientY - box.top - p.top) / p.cell), n = tokens.length;
  const j = x >= p.first ? Math.floor((x - p.first) / p.cell) : x >= p.left && x < p.left + p.cell ? -1 : NaN;
  return { i, j, is_strip: i >= n && j >= 0 && j < n, is_inside: i >= 0 && i < n && j < n && j >= -1 };
}
byId("affinity").addEventListener("pointermove", (event) => {
  const { i, j, is_strip, is_inside } = affinity_at(event), h = head(), n = tokens.length;
  if (is_strip) {
    show_tip(event, line(`At token ${j + 1}, `, token(tokens[j]), ", the head keeps"), line(bold(per_cent(h.window.kept[j])), " of its memory"));
  } else if (!is_inside) {
    hide_tip();
  } else if (j === -1) {
    show_tip(event, line(`Token ${i + 1}, `, token(tokens[i]), ", reads"), line(bold(per_cent(h.window.before[i])), " from before the window"));
  } else if (j > i) {
    show_tip(event, line(`Token ${i + 1} cannot hear token ${j + 1}, which comes later`));
  } else {
    show_tip(event, line(`Token ${i + 1}, `, token(tokens[i]), ", reads"),
             line(bold(per_cent(maps(h).affinity[i * n + j])), ` from token ${j + 1}, `, token(tokens[j]), i === j ? ", itself" : `, ${i - j} back`));
  }
});
byId("affinity").addEventListener("pointerleave", hide_tip);
byId("affinity").addEventListener("click", (event) => {
  const at = affinity_at(event);
  if (at.is_inside) set({ token: at.i + 1 });
});

function draw_map() {
  const canvas = byId("responsibilities"), h = head(), n = tokens.length, r = maps(h)[state.side];
  byId("map-side").textContent = state.side === "keys" ? "of keys: where each token is written" : "of queries: where each token reads";
  const room = canvas.parentElement.clientWidth, left = 40;
  const cell_x = clamp((room - left - 6) / n, 5, 26), cell_y = clamp(Math.floor(560 / count), 2, 11);
  const top = 2, foot = data.isBytes ? 18 : 62, width = left + n * cell_x + 4, height = top + count * cell_y + foot + 4;
  const context = prepare(canvas, width, height);
  paint(context, left, top, cell_x, cell_y, count, n, (row, t) => r[t * count + order_now[row]]);
  const place = order_now.indexOf(chosen_component()), asks = chosen_token();
  context.strokeStyle = css("--mark");
  context.lineWidth = 1.5;
  context.strokeRect(left - 0.5, top + place * cell_y - 0.5, n * cell_x + 1, cell_y + 1);
  context.strokeRect(left + asks * cell_x - 0.5, top - 0.5, cell_x + 1, count * cell_y + 1);
  label_font(context, 10);
  const step = Math.ceil(14 / cell_y);
  order_now.forEach((k, row) => {
    if (row === place || (row % step === 0 && Math.abs(row - place) * cell_y > 12)) {
      context.fillStyle = row === place ? css("--mark") : css("--muted");
      label(context, String(k + 1), left - 5, top + (row + 0.5) * cell_y, false);
    }
  });
  if (cell_x >= 7) {
    context.textAlign = data.isBytes ? "center" : "right";
    tokens.forEach((text, t) => {
      context.fillStyle = t === asks ? css("--mark") : css("--muted");
      label(context, short_label(text), left + (t + 0.5) * cell_x, top + count * cell_y + (data.isBytes ? 11 : 5), !data.isBytes);
    });
  }
  canvas.dataset.rows = count;
  canvas.dataset.columns = n;
  canvas.setAttribute("aria-label", `Responsibilities of ${count} components for ${n} tokens. Arrow keys choose token and component.`);
  map_place = { left, top, cell_x, cell_y };
}
function map_at(event) {
  const box = byId("responsibilities").getBoundingClientRect(), p = map_place;
  const t = Math.floor((event.clientX - box.left - p.left) / p.cell_x), row = Math.floor((event.clientY - box.top - p.top) / p.cell_y);
  return { t, k: order_now[row], is_inside: t >= 0 && t < tokens.length && row >= 0 && row < count };
}
byId("responsibilities").addEventListener("pointermove", (event) => {
  const { t, k, is_inside } = map_at(event);
  if (!is_inside) { hide_tip(); return; }
  show_tip(event, line(`Token ${t + 1}, `, token(tokens[t]), ":"), line(bold(per_cent(maps(head())[state.side][t * count + k])), ` in component ${k + 1}`));
});
byId("responsibilities").addEventListener("pointerleave", hide_tip);
byId("responsibilities").addEventListener("click", (event) => {
  const { t, k, is_inside } = map_at(event);
  if (is_inside) set({ token: t + 1, component: k + 1 });
});

function draw_window() {
  byId("window-hint").textContent = `${tokens.length} tokens in a row, from token ${whole(data.windowAt)} of the held-out text, ` +
    `read after the ${whole(Math.max(0, data.context - tokens.length))} before them. Choose a token: the tokens that it sees through the memory light up.`;
  byId("kept-caption").hidden = !head().forgetting;
  draw_reader();
  draw_affinity();
  draw_map();
}

// ---- How to read this ---------------------------------------------------------------------------------------------------

function draw_how() {
  const terms = [
    ["Responsibility", "How much of a token belongs to a component: the softmax over components of the log densities of its key, or query, divided by the temperature. They sum to 1 for every token."],
    ["Usage, entropy, dead", "Usage is the mean responsibility. Its entropy is log K if all K components are used equally. A component is dead if it has less than a tenth of an even share, 0.1 / K."],
    ["Components per token", "The exponential of the entropy of one token's responsibilities, averaged: how many components a token is spread over."],
    ["Surface form", "Whitespace; a digit; a letter that continues a word, starts one, or starts one as a capital; everything else is punctuation. Letters are a-z, A-Z and everything beyond ASCII." + (data.isBytes ? "" : " A piece is judged by its first character that is not a space.")],
    ["NMI", "2 I(a; c) / (H(a) + H(c)) of the token's strongest component a and its surface form c. 0: one says nothing about the other; 1: each determines the other. Compare it with the NMI of an untrained model, which is not 0: equal tokens have similar keys from the start."],
    ["Affinity", "The weight with which the query of one token takes part of the value of another through the memory: sum over components of the query's responsibility times the key's, reduced by what was forgotten since, divided by the mass of the component. A row, with everything before the window, sums to 1."],
    ["Tokens in memory, time constant", "Before a token is written, the forgetting gate fades the memory. A gate's time constant is the number of tokens in which the memory would fade to 1 / e if all gates were like it; for a surface form it is that of the mean rate. Tokens in memory: the sum of what is left of all tokens since the beginning of the text read, averaged."]];
  const list = element("dl");
  for (const [name, text] of terms) list.append(element("dt", {}, name), element("dd", {}, text));
  byId("how").replaceChildren(list);
}

// ---- Choices and keys ---------------------------------------------------------------------------------------------------

for (const name of ["side", "sort", "theme"]) {
  byId(name).addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) set({ [name]: button.dataset.value });
  });
}
function draw_choices() {
  for (const name of ["side", "sort", "theme"])
    for (const button of byId(name).children) button.setAttribute("aria-pressed", button.dataset.value === state[name]);
}
const steps_of = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
function step_component(by) {
  const place = clamp(order_now.indexOf(chosen_component()) + by, 0, count - 1), k = order_now[place];
  set({ component: k + 1 }, () => `Component ${k + 1}, usage ${per_cent(side().usage[k])}`);
}
function step_token(by) {
  const t = clamp(chosen_token() + by, 0, tokens.length - 1);
  set({ token: t + 1 }, () => `Token ${t + 1}, ${quoted(tokens[t])}, reads ${per_cent(head().window.before[t])} from before the window`);
}
function on_arrows(id, act) {
  byId(id).addEventListener("keydown", (event) => {
    const far = event.key === "Home" ? -1e6 : event.key === "End" ? 1e6 : 0;
    if (!steps_of[event.key] && !far) return;
    event.preventDefault();
    if (far) act(far, 0); else act(...steps_of[event.key]);
  });
}
on_arrows("chart", (x, y) => step_component(x + y));
on_arrows("reader", (x, y) => step_token(x + y));
on_arrows("affinity", (x, y) => step_token(x + y));
on_arrows("responsibilities", (x, y) => { if (x) step_token(x); if (y) step_component(y); });
byId("cards").addEventListener("keydown", (event) => {
  const step = steps_of[event.key];
  if (!step) return;
  event.preventDefault();
  const cards = Array.from(byId("cards").children), at = cards.indexOf(document.activeElement);
  const columns = Math.max(1, cards.filter((c) => c.offsetTop === cards[0].offsetTop).length);
  cards[clamp(at + step[0] + columns * step[1], 0, cards.length - 1)].focus();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("heads").focus();
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide_tip(); });

// ---- Drawing ------------------------------------------------------------------------------------------------------------

const prefers_dark = matchMedia("(prefers-color-scheme: dark)");
function set_scheme() {
  document.documentElement.dataset.scheme = state.theme === "auto" ? (prefers_dark.matches ? "dark" : "light") : state.theme;
  colours = ramp();
}
function draw(changes) {
  const touches = (...names) => changes === undefined || names.some((name) => name in changes);
  if (touches("theme")) { set_scheme(); draw_scales(); }
  draw_choices();
  order_now = order();
  if (touches("layer", "head", "side")) draw_cards();
  if (touches("layer", "head", "side", "sort", "component")) draw_components();
  if (touches("layer", "head", "token", "theme")) draw_window();
  else draw_map();
}
prefers_dark.addEventListener("change", () => draw({ theme: state.theme }));
addEventListener("hashchange", () => { state = read_address(); draw(); });
let width_drawn = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === width_drawn) return;
  width_drawn = innerWidth;
  order_now = order();
  draw_chart();
  draw_affinity();
  draw_map();
});

state = read_address();
draw_heading();
draw_how();
draw();
document.documentElement.dataset.ready = "true";
})();
