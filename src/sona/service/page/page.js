// The page: fetch the overview, draw it, and again whenever the event stream tells of something.

import { bar, bubbles, html, lines, shares, spark, swatch } from "./charts.js";

const PAUSE_MS = 1000; // between two drawings, however much happens
const COLOURS = 8;

const byId = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat(undefined, { maximumFractionDigits: 0 });
const quality = (value) => (value === null ? "–" : value.toFixed(3));
const count = (n, one, many = `${one}s`) => `${whole.format(n)} ${n === 1 ? one : many}`;

let token = sessionStorage.getItem("sona-token");
let lastEvent = null;
let latest = null;
const colours = new Map();

function headers(more = {}) {
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

// Data

async function refresh() {
  const answer = await fetch("/v1/overview", { headers: headers() });
  if (answer.status === 401) return askForToken();
  if (!answer.ok) throw new Error(`${answer.status}`);
  byId("door").hidden = true;
  latest = await answer.json();
  draw(latest);
  return true;
}

async function watch() {
  const answer = await fetch("/v1/events", {
    headers: headers(lastEvent === null ? {} : { "Last-Event-ID": lastEvent }),
  });
  if (!answer.ok) throw new Error(`${answer.status}`);
  show("live", "live");
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const frames = (rest + value).split("\n\n");
    rest = frames.pop();
    for (const frame of frames) {
      const id = frame.match(/^id: (\d+)$/m);
      if (id) lastEvent = id[1];
      if (/^event: (?!hello)/m.test(frame)) soon();
    }
  }
}

let due = null;
function soon() {
  due ??= setTimeout(() => { due = null; refresh().catch(() => {}); }, PAUSE_MS);
}

async function run() {
  for (let wait = 500; ; wait = Math.min(2 * wait, 10000)) {
    try {
      if (!(await refresh())) return;
      wait = 500;
      await watch();
    } catch { /* said below; tried again */ }
    show("lost", "connection lost, trying again");
    await new Promise((later) => setTimeout(later, wait * (0.5 + Math.random() / 2)));
  }
}

function askForToken() {
  show("wait", "token needed");
  byId("board").hidden = byId("empty").hidden = true;
  byId("door").hidden = false;
  byId("door-fault").textContent = token ? "The service does not know this token." : "";
  byId("token").focus();
  return false;
}

byId("door").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value.trim();
  sessionStorage.setItem("sona-token", token);
  byId("token").value = "";
  run();
});

// Drawing

function show(state, text) {
  const element = byId("state");
  element.dataset.state = state;
  if (element.textContent !== text) element.textContent = text;
}

function put(id, text) {
  byId(id).textContent = text;
}

function draw(data) {
  put("tenant", data.tenant);
  document.title = `${data.tenant} · sona`;
  const known = data.totals.exports + data.map.total > 0;
  byId("empty").hidden = known;
  byId("board").hidden = !known;
  put("here", location.origin);
  if (!known) return;
  for (const { route } of data.routes) colourOf(route);
  figures(data);
  charts(data);
  map(data.map);
  routes(data.routes);
  verdict(data);
  care(data);
  recent(data.recent);
}

// A route keeps its colour; what comes after the seventh shares the last one.
function colourOf(route) {
  if (route === null) return "c7";
  if (!colours.has(route)) colours.set(route, `c${Math.min(colours.size, COLOURS - 1)}`);
  return colours.get(route);
}

function figures({ totals, cold, warm, map: known, version }) {
  put("cold", quality(cold.mean));
  put("warm", quality(warm.mean));
  put("cold-count", `(${whole.format(cold.count)})`);
  put("warm-count", `(${whole.format(warm.count)})`);
  put("agents", whole.format(totals.agents));
  put("exports", count(totals.exports, "export"));
  put("accepted", whole.format(totals.accepted));
  put("rejected", `${whole.format(totals.rejected)} rejected`);
  put("patterns", whole.format(known.total));
  put("version", `from ${count(version, "trajectory", "trajectories")}`);
}

function legend(id, entries) {
  byId(id).replaceChildren(...entries.map(([kind, text]) => {
    const mark = swatch(kind);
    return html("span", {}, mark, text);
  }));
}

function charts({ timeline, cold, warm }) {
  const times = timeline.map((bucket) => bucket.at);
  legend("quality-legend", [["cold", "started cold"], ["warm", "started warm"]]);
  byId("quality").replaceChildren(lines(byId("quality").clientWidth,
    `Mean quality of sessions' first ten requests over time: ${quality(cold.mean)} started cold, ${quality(warm.mean)} started warm`,
    times,
    [
      { kind: "cold", values: timeline.map((bucket) => bucket.cold.mean) },
      { kind: "warm", values: timeline.map((bucket) => bucket.warm.mean) },
    ],
    { high: 1, format: (value) => value.toFixed(2) },
  ));
  let agents = 0;
  const growth = timeline.map((bucket) => (agents += bucket.agents));
  legend("agents-legend", [["cold", "agents that have reported"]]);
  byId("growth").replaceChildren(lines(byId("growth").clientWidth,
    `Agents that have reported, over time: ${agents} now`,
    times, [{ kind: "cold", values: growth, area: true }], { format: whole.format },
  ));
}

function map({ points, total, explained }) {
  const shown = points.length < total ? `The ${whole.format(points.length)} largest of ${whole.format(total)} patterns` : count(total, "pattern");
  put("map-note", `${shown}. Near means alike; size is the number of members; colour is the best route. The map shows ${Math.round(100 * explained)} % of the differences.`);
  const used = new Map();
  for (const { route } of points) used.set(route, (used.get(route) ?? 0) + 1);
  byId("map-legend").replaceChildren(...[...used].sort((a, b) => b[1] - a[1]).slice(0, 12).map(([route, n]) =>
    html("li", {}, swatch(colourOf(route)), `${route ?? "no route"} (${whole.format(n)})`)));
  bubbles(byId("map"), `Map of ${shown.toLowerCase()}, coloured by best route`, points, colourOf, (point) =>
    `Pattern ${point.id}\nbest route ${point.route ?? "–"}\n${count(point.size, "member")}, quality ${quality(point.quality)}`);
  fill("map-table", points.slice(0, 20).map((point) => [
    `#${point.id}`, whole.format(point.size), quality(point.quality),
    html("span", {}, swatch(colourOf(point.route)), point.route ?? "–"),
  ]));
}

function routes(rows) {
  fill("routes", rows.map((row) => [
    html("span", {}, swatch(colourOf(row.route)), row.route),
    html("span", {}, bar(row.mean, colourOf(row.route)), quality(row.mean)),
    whole.format(row.count),
    row.cost === null ? "–" : String(row.cost),
    trend(row.trend),
    spark(`Quality of ${row.route} over time`, row.recent),
  ]));
}

function trend(value) {
  if (value === null) return "–";
  if (Math.abs(value) < 0.005) return "steady";
  const text = `${value > 0 ? "▲ +" : "▼ −"}${Math.abs(value).toFixed(2)}`;
  return html("span", { class: value > 0 ? "up" : "down" }, text);
}

function verdict({ totals, reasons }) {
  const { accepted, rejected } = totals;
  const text = `${whole.format(accepted)} accepted, ${whole.format(rejected)} rejected`;
  byId("verdict").replaceChildren(shares(text, [["yes", accepted], ["no", rejected]]), html("p", { class: "note" }, text));
  const sorted = Object.entries(reasons).sort((a, b) => b[1] - a[1]);
  list("reasons", sorted.length ? sorted.map(([reason, n]) => [reason, whole.format(n)]) : [["Nothing was refused", ""]]);
}

function care({ consolidations, status, version, totals, at }) {
  list("consolidations", consolidations.length
    ? consolidations.slice(0, 5).map((one) => [when(one.at), `${whole.format(one.trajectories)} in ${one.seconds.toFixed(2)} s`])
    : [["None yet", ""]]);
  list("health", [
    ["Service", status], ["Version handed out", whole.format(version)],
    ["Duplicates", whole.format(totals.duplicates)], ["Refused exports", whole.format(totals.refused)],
    ["As of", when(at)],
  ]);
}

function recent(rows) {
  fill("recent", rows.slice(0, 12).map((row) => [
    when(row.at), row.agent || "–", html("span", { class: row.result }, row.result),
    whole.format(row.accepted), whole.format(row.rejected), quality(row.quality),
    row.result === "refused" ? "–" : row.warm ? "warm" : "cold",
  ]));
}

function fill(id, rows) {
  byId(id).tBodies[0].replaceChildren(...rows.map((cells) => html("tr", {}, ...cells.map((cell, i) =>
    (i ? html("td", {}, cell) : html("th", { scope: "row" }, cell))))));
}

function list(id, rows) {
  byId(id).replaceChildren(...rows.map((cells) => html("li", {}, ...cells.map((cell) => html("span", {}, cell)))));
}

function when(ms) {
  return new Intl.DateTimeFormat(undefined, { dateStyle: "short", timeStyle: "medium" }).format(ms);
}

addEventListener("resize", () => { if (latest) draw(latest); });
run();
