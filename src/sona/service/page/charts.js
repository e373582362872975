// Charts as SVG. They take data and return elements; nothing here knows where data comes from.

const SVG = "http://www.w3.org/2000/svg";

export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

export function html(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const HEIGHT = 220;
const LEFT = 40, RIGHT = 12, TOP = 10, BOTTOM = 26;

// Lines over time, `width` pixels wide so that text keeps its size on any screen.
// series: [{kind, values, area}], values null where there is nothing.
export function lines(width, label, times, series, { low = 0, high = null, format = String } = {}) {
  const seen = series.flatMap((one) => one.values).filter((value) => value !== null);
  const top = high ?? niceCeiling(Math.max(1, ...seen));
  const x = (i) => LEFT + (times.length < 2 ? 0.5 : i / (times.length - 1)) * (width - LEFT - RIGHT);
  const y = (value) => TOP + (1 - (value - low) / (top - low)) * (HEIGHT - TOP - BOTTOM);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label });
  for (let tick = 0; tick <= 4; tick++) {
    const value = low + ((top - low) * tick) / 4;
    picture.append(
      svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
      svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, format(value)),
    );
  }
  const last = times.length - 1;
  const shown = last < 1 ? [0] : width < 480 ? [0, last] : [0, last >> 1, last];
  for (const i of new Set(shown.slice(0, times.length))) {
    picture.append(svg("text", {
      x: x(i), y: HEIGHT - 6, "text-anchor": last < 1 ? "middle" : i === 0 ? "start" : i === last ? "end" : "middle",
    }, clock(times[i], times[last] - times[0])));
  }
  for (const { kind, values, area } of series) {
    const points = values.map((value, i) => [i, value]).filter(([, value]) => value !== null);
    if (!points.length) continue;
    const path = points.map(([i, value], n) => `${n ? "L" : "M"}${x(i).toFixed(1)} ${y(value).toFixed(1)}`).join("");
    if (area && points.length > 1) {
      const [first, last] = [x(points[0][0]), x(points.at(-1)[0])];
      picture.append(svg("path", { class: `area ${kind}`, d: `${path}L${last} ${y(low)}L${first} ${y(low)}Z` }));
    }
    picture.append(svg("path", { class: `line ${kind}`, d: path }));
    const [i, value] = points.at(-1);
    picture.append(svg("circle", { class: `dot ${kind}`, cx: x(i), cy: y(value), r: 5 }));
  }
  return picture;
}

// Patterns as bubbles; the same element stays for the same pattern, so that it moves.
export function bubbles(holder, label, points, colour, describe) {
  const width = holder.clientWidth, height = Math.max(280, Math.round(0.56 * width)), margin = 28;
  let picture = holder.querySelector("svg");
  if (!picture) {
    picture = svg("svg", { role: "img" });
    holder.append(picture);
    tooltip(holder, picture);
  }
  picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
  picture.setAttribute("aria-label", label);
  const [x, y] = [scale(points.map((p) => p.x), margin, width - margin), scale(points.map((p) => p.y), height - margin, margin)];
  const largest = Math.max(1, ...points.map((p) => p.size));
  const radius = points.length > 300 ? 14 : 24;
  const old = new Map([...picture.children].map((element) => [element.dataset.id, element]));
  for (const point of points) {
    const id = String(point.id);
    const element = old.get(id) ?? picture.appendChild(svg("circle", { "data-id": id }));
    old.delete(id);
    element.setAttribute("class", `bubble ${colour(point.route)}`);
    element.setAttribute("cx", x(point.x).toFixed(1));
    element.setAttribute("cy", y(point.y).toFixed(1));
    element.setAttribute("r", Math.max(3, radius * Math.sqrt(point.size / largest)).toFixed(1));
    element.dataset.tip = describe(point);
  }
  for (const element of old.values()) element.remove();
}

export function bar(share, colour) {
  const picture = svg("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { width: 100, height: 10, rx: 3 }),
    svg("rect", { width: Math.max(0, Math.min(100, 100 * share)), height: 10, rx: 3, class: colour }));
  return html("span", { class: "bar" }, picture);
}

export function shares(label, parts) {
  const total = parts.reduce((sum, [, value]) => sum + value, 0) || 1;
  const picture = svg("svg", { viewBox: "0 0 100 6", preserveAspectRatio: "none", role: "img", "aria-label": label });
  let at = 0;
  for (const [kind, value] of parts) {
    picture.append(svg("rect", { class: kind, x: at, width: (100 * value) / total, height: 6 }));
    at += (100 * value) / total;
  }
  return picture;
}

export function spark(label, values) {
  const points = values.map((value, i) => [i, value]).filter(([, value]) => value !== null);
  const width = Math.max(1, values.length - 1);
  const path = points.map(([i, value], n) => `${n ? "L" : "M"}${((100 * i) / width).toFixed(1)} ${(19 - 18 * value).toFixed(1)}`).join("");
  const picture = svg("svg", { viewBox: "0 0 100 20", preserveAspectRatio: "none", role: "img", "aria-label": label });
  if (path) picture.append(svg("path", { d: points.length > 1 ? path : `${path}h4` }));
  return html("span", { class: "spark" }, picture);
}

export function swatch(colour) {
  return svg("svg", { class: "swatch", viewBox: "0 0 10 10", "aria-hidden": "true" }, svg("circle", { cx: 5, cy: 5, r: 5, class: colour }));
}

function tooltip(holder, picture) {
  const tip = html("div", { class: "tip", hidden: "", "aria-hidden": "true" });
  holder.append(tip);
  picture.addEventListener("pointermove", (event) => {
    const text = event.target.dataset.tip;
    tip.hidden = !text;
    if (!text) return;
    tip.textContent = text;
    const box = holder.getBoundingClientRect();
    tip.style.left = `${Math.min(event.clientX - box.left + 12, box.width - tip.offsetWidth)}px`;
    tip.style.top = `${event.clientY - box.top + 12}px`;
  });
  picture.addEventListener("pointerleave", () => { tip.hidden = true; });
}

function scale(values, from, to) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return (value) => (high > low ? from + ((value - low) / (high - low)) * (to - from) : (from + to) / 2);
}

function niceCeiling(value) {
  const step = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 5, 8, 10].map((factor) => factor * step).find((nice) => nice >= value);
}

function clock(ms, span) {
  const options = span > 36e5 * 36 ? { month: "short", day: "numeric" }
    : span > 36e5 ? { hour: "2-digit", minute: "2-digit" }
      : { hour: "2-digit", minute: "2-digit", second: "2-digit" };
  return new Intl.DateTimeFormat(undefined, options).format(ms);
}
