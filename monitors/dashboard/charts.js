// Drawing: elements, scales, and the charts over event time. Knows nothing of where the numbers come from.

const SVG = "http://www.w3.org/2000/svg";
export const DAY = 86_400_000;
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}
export const h = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => build(document.createElementNS(SVG, tag), attributes, children);

// ---- text

export function date(ms, year = false) {
  const day = new Date(ms);
  return `${day.getUTCDate()} ${MONTHS[day.getUTCMonth()]}${year ? ` ${day.getUTCFullYear()}` : ""}`;
}
export const moment = (ms) => `${date(ms, true)}, ${new Date(ms).toISOString().slice(11, 16)}`;
export const number = (value, digits = 0) =>
  value === null || value === undefined
    ? "–"
    : value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
export const signed = (value, digits) => (value < 0 ? "−" : "+") + number(Math.abs(value), digits);
export function rate(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 99_950) return `${number(value / 1000)}k`;
  if (value >= 9_995) return `${number(value / 1000, 1)}k`;
  return number(value);
}
export function duration(ms) {
  const minutes = Math.max(0, ms) / 60_000;
  if (minutes < 1) return "under 1 min";
  if (minutes < 120) return `${Math.round(minutes)} min`;
  if (minutes < 48 * 60) return `${number(minutes / 60, minutes < 600 ? 1 : 0)} h`;
  return `${number(minutes / 1440, minutes < 14_400 ? 1 : 0)} days`;
}
export const feature = (column) => {
  const at = column.indexOf("__");
  return at < 0 ? ["", column] : [column.slice(0, at), column.slice(at + 2)];
};

// ---- scales

export const linear = (from, to, low, high) => (value) => low + ((value - from) / (to - from || 1)) * (high - low);
export const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

export function ticks(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= rough * 0.8);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step) found.push(at);
  return { values: found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) + (step / power === 2.5 ? 1 : 0) };
}

// The axis grows in few steps, so that a replay does not make it crawl.
export function extent(first, last) {
  const start = new Date(first);
  const from = Date.UTC(start.getUTCFullYear(), start.getUTCMonth(), 1);
  for (const months of [1, 2, 3, 6, 12, 18, 24, 36, 60, 120]) {
    const to = Date.UTC(start.getUTCFullYear(), start.getUTCMonth() + months, 1);
    if (last <= to + 7 * DAY) return [from, Math.max(to, last)];
  }
  return [from, last];
}

function timeTicks(from, to, width) {
  const days = (to - from) / DAY;
  const found = [];
  if (days < 70) {
    const step = Math.max(1, Math.ceil(days / (width / 62))) * DAY;
    for (let at = from; at <= to; at += step) found.push([at, date(at)]);
    return found;
  }
  const skip = Math.max(1, Math.ceil(days / 30.4 / (width / 44)));
  const start = new Date(from);
  for (let month = 0; ; month += skip) {
    const at = Date.UTC(start.getUTCFullYear(), start.getUTCMonth() + month, 1);
    if (at >= to) return found;
    const name = MONTHS[new Date(at).getUTCMonth()];
    const room = ((skip * 30) / days) * width > 64;
    found.push([at, name === "Jan" ? `${room ? "Jan " : ""}${new Date(at).getUTCFullYear()}` : name]);
  }
}

export function timeAxis(x, view, top, bottom) {
  const marks = timeTicks(view.from, view.to, view.right - view.left);
  return s("g", {},
    marks.map(([at]) => s("line", { class: "grid", x1: x(at), x2: x(at), y1: top, y2: bottom })),
    marks.map(([at, label]) => x(at) + 24 < view.width
      && s("text", { x: x(at) + (view.ends ? 0 : 4), y: bottom + 16 }, label)));
}

export function hatching(id) {
  return s("pattern", { id, width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    s("line", { class: "hatch-line", x1: 0, y1: 0, x2: 0, y2: 6 }));
}

// ---- charts

/** Estimates without labels: runs of windows that follow one another, each as a band and a line. */
function expected(estimates, name, x, y) {
  const known = estimates.filter((each) => each[name]?.estimated !== undefined);
  const runs = known.reduce((found, each) => {
    const last = found.at(-1);
    if (last && last.at(-1).version === each.version && each.end_ms - last.at(-1).end_ms < 1.5 * DAY) last.push(each);
    else found.push([each]);
    return found;
  }, []);
  const at = (each, which) => `${x((each.start_ms + each.end_ms) / 2).toFixed(1)},${y(each[name][which]).toFixed(1)}`;
  return runs.map((run) => s("g", {},
    s("path", { class: "band", d: `M${[...run.map((each) => at(each, "estimated_high")), ...run.toReversed().map((each) => at(each, "estimated_low"))].join("L")}Z` }),
    s("path", { class: "expected", d: `M${run.map((each) => at(each, "estimated")).join("L")}` })));
}

/** Lines of one measure, live against frozen, in a frame that all charts over event time share. */
export function measure(view, { name, title, hint, digits, points, estimates, swaps, quarantines, priorUntil, now, height }) {
  const top = view.ends ? 22 : 40, bottom = height - 24;
  const shown = points.filter((each) => each.start_ms >= (priorUntil ?? 0) - DAY);
  const known = (shown.length ? shown : points)
    .flatMap((each) => [each.live[name], each.frozen[name]]).filter((each) => each !== null);
  let [low, high] = [Math.min(...known), Math.max(...known)];
  const room = Math.max((high - low) * 0.1, 0.004);
  [low, high] = [low - room, high + room];
  const x = linear(view.from, view.to, view.left, view.right);
  const y = linear(low, high, bottom, top);
  const middle = (each) => x((each.start_ms + Math.min(each.end_ms, view.to)) / 2);
  const path = (which) => points
    .map((each, at) => (each[which][name] === null ? "" : `${at && points[at - 1][which][name] !== null ? "L" : "M"}${middle(each).toFixed(1)},${y(each[which][name]).toFixed(1)}`))
    .join("");
  const both = points.filter((each) => each.frozen[name] !== null && each.live[name] !== null);
  const between = both.length > 1 && "M" + [
    ...both.map((each) => `${middle(each)},${y(each.live[name])}`),
    ...both.toReversed().map((each) => `${middle(each)},${y(each.frozen[name])}`),
  ].join("L") + "Z";
  const scale = ticks(low, high, 5);
  const clip = `clip-${name}`;
  return s("svg", { width: view.width, height, role: "img", "aria-label": `${title} over event time, live and frozen` },
    s("defs", {}, hatching(`hatch-${name}`),
      s("clipPath", { id: clip }, s("rect", { x: view.left, y: top, width: view.right - view.left, height: bottom - top }))),
    priorUntil && priorUntil > view.from && s("g", {},
      s("rect", { class: "prior", x: view.left, y: top, width: x(priorUntil) - view.left, height: bottom - top }),
      x(priorUntil) - view.left > 62 && s("text", { x: view.left + 5, y: top + 15 }, "base rate")),
    timeAxis(x, view, top, bottom),
    scale.values.map((each) => s("g", {},
      s("line", { class: "grid", x1: view.left, x2: view.right, y1: y(each), y2: y(each) }),
      s("text", { x: view.left - 8, y: y(each) + 4, "text-anchor": "end" }, number(each, Math.max(scale.digits, 2))))),
    quarantines.map((each) => s("rect", {
      fill: `url(#hatch-${name})`, x: x(each.start_ms), y: top, height: bottom - top,
      width: Math.max(3, x(Math.min(each.end_ms, view.to)) - x(each.start_ms)),
    })),
    s("text", { class: "title", x: 0, y: view.ends ? top + 11 : 14 }, title,
      s("tspan", { class: "hint", ...(view.ends ? { x: 0, dy: 18 } : { dx: 7 }) }, hint)),
    s("g", { "clip-path": `url(#${clip})` },
      expected(estimates, { logloss: "log_loss" }[name] ?? name, x, y),
      between && s("path", { class: "gain", d: between }),
      s("path", { class: "frozen", d: path("frozen") }),
      s("path", { class: "live", d: path("live") })),
    flags(swaps, x, top, bottom),
    now && now < view.to && s("line", { class: "now", x1: x(now), x2: x(now), y1: top, y2: bottom }),
    endTags(points, name, middle, y, view, [top, bottom], digits));
}

function flags(swaps, x, top, bottom) {
  let free = -Infinity;
  return swaps.map((each) => {
    const at = x(each.from_ms), label = `v${each.version}`, width = 10 + 7 * label.length;
    const shown = at >= free;
    if (shown) free = at + width + 2;
    return s("g", {},
      s("line", { class: "swap", x1: at, x2: at, y1: top - (shown ? 16 : 4), y2: bottom }),
      shown && s("path", { class: "flag", d: `M${at},${top - 18}h${width}v14h${-width}z` }),
      shown && s("text", { class: "flag-text", x: at + width / 2, y: top - 7, "text-anchor": "middle" }, label));
  });
}

function endTags(points, name, middle, y, view, [top, bottom], digits) {
  const last = points.findLast((each) => each.live[name] !== null);
  if (!last || !view.ends) return null;
  const tags = [["live", last.live[name]]];
  if (last.frozen[name] !== null) tags.push(["frozen", last.frozen[name]]);
  const places = tags.map(([, value]) => clamp(y(value) + 4, top + 8, bottom));
  if (places.length === 2 && Math.abs(places[0] - places[1]) < 15) {
    const [upper, lower] = places[0] <= places[1] ? [0, 1] : [1, 0];
    const mid = clamp((places[0] + places[1]) / 2, top + 16, bottom - 8);
    places[upper] = mid - 7.5;
    places[lower] = mid + 7.5;
  }
  return tags.map(([which, value], at) =>
    s("text", { class: `tag-${which}`, x: Math.min(middle(last) + 7, view.right + 8), y: places[at] },
      `${which} ${number(value, digits)}`));
}

/** A small line of recent values with a faint area below. */
export function spark(values, width, height) {
  const known = values.filter((each) => each !== null);
  if (known.length < 2) return s("svg", { width, height, "aria-hidden": true });
  const x = linear(0, values.length - 1, 1, width - 1), y = linear(0, Math.max(...known, 1), height - 1, 2);
  const line = values.map((each, at) => [x(at), y(each ?? 0)].map((v) => v.toFixed(1)).join(",")).join("L");
  return s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": true },
    s("path", { class: "spark-area", d: `M${x(0)},${height}L${line}L${x(values.length - 1)},${height}Z` }),
    s("path", { class: "spark", d: `M${line}` }));
}

/** A statistic against its threshold: the tick is the threshold, the bar ends at the ratio (four at most). */
export function ratioBar(ratio) {
  const width = 92, x = linear(0, 4, 0, width - 2);
  const colour = heat(ratio);
  const bar = s("rect", { x: 0, y: 4, height: 8, rx: 1.5, width: Math.max(2, x(Math.min(4, ratio))) });
  bar.style.fill = colour;
  return s("svg", { width, height: 16, role: "img", "aria-label": `${number(ratio, 2)} times the threshold` },
    s("line", { class: "axis", x1: 0, x2: width, y1: 12.5, y2: 12.5 }), bar,
    s("line", { class: "cross", x1: x(1), x2: x(1), y1: 1, y2: 15 }));
}

/** Calm below the threshold, then in steps: 1 to 1.5, to 2.5, to 5, above. */
export function heat(ratio) {
  if (ratio <= 1) return `rgba(var(--cool), ${(0.3 + 0.7 * clamp(ratio, 0, 1)).toFixed(2)})`;
  return `var(--heat-${ratio <= 1.5 ? 1 : ratio <= 2.5 ? 2 : ratio <= 5 ? 3 : 4})`;
}
export const HEAT_STEPS = [[0.5, "below threshold"], [1.2, "to 1.5×"], [2, "to 2.5×"], [4, "to 5×"], [9, "above"]];
