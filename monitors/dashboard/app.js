// What the page shows. Asks the server only while it is looked at, draws only what has changed.

import {
  DAY, HEAT_STEPS, clamp, date, duration, extent, feature, h, hatching, heat, linear, measure, moment, number, rate,
  ratioBar, s, signed, spark, timeAxis,
} from "./charts.js";

const EVERY = { live: 2000, performance: 4000, incidents: 4000, drift: 8000 };
const ROWS = 16;
const SAMPLES = 60;
const CAUSE = { world: "the world changed", data: "the data is at fault", us: "the platform is at fault" };
const known = { live: null, performance: null, incidents: null, drift: null };
const texts = {}, problems = {}, history = { events: [], features: [], predictions: [] };
let bucket = 7, allRows = false;
const $ = (id) => document.getElementById(id);

// ---- asking

async function ask(name) {
  if (document.visibilityState === "visible") {
    try {
      const answer = await fetch(`/api/${name}${name === "performance" ? `?bucket=${bucket}` : ""}`);
      const text = await answer.text();
      const told = JSON.parse(text);
      if (answer.ok) {
        delete problems[name];
        const changed = texts[name] !== text;
        [texts[name], known[name]] = [text, told];
        if (name === "live") remember(told);
        if (changed) draw(name);
      } else problems[name] = told.problem;
    } catch {
      problems[name] = "this page’s server does not answer; is the platform still up?";
    }
    drawProblems();
  }
  setTimeout(ask, EVERY[name], name);
}

function remember(live) {
  for (const [name, values] of Object.entries(history)) {
    values.push(live.flow[name]);
    if (values.length > SAMPLES) values.shift();
  }
}

function draw(name) {
  if (name === "live") { drawClock(); drawTiles(); drawJobs(); }
  if (name === "performance") { drawPerformance(); drawTiles(); if (known.incidents) drawLanes(); if (known.drift) drawDrift(); }
  if (name === "incidents") { drawLanes(); drawIncidents(); }
  if (name === "drift") drawDrift();
}

function drawProblems() {
  const told = [...new Set([...Object.values(problems), ...(known.live?.problems ?? [])])];
  $("problem").hidden = !told.length;
  $("problem").textContent = told.join(" · ");
}

const empty = (title, text) => h("p", { class: "empty" }, h("strong", {}, title), text);

// ---- the clock and the tiles

const WORDS = { waiting: "waiting for the first event", moving: "replaying", held: "held", still: "at rest" };

function drawClock() {
  const { replay, training } = known.live;
  const parts = [replay.event_time_ms ? h("strong", {}, moment(replay.event_time_ms)) : null,
    ` ${WORDS[replay.state]}`];
  if (replay.state === "moving" && replay.speed) parts.push(` at ${number(replay.speed)}× real time`);
  if (replay.state === "held" && training.length) parts.push(` while ${training.length === 1 ? "a model trains" : `${training.length} models train`}`);
  $("clock").replaceChildren(...parts.filter(Boolean));
}

function drawTiles() {
  const live = known.live, overall = known.performance?.overall;
  if (!live) return;
  const flow = [["Events", "events"], ["Feature rows", "features"], ["Predictions", "predictions"]].map(([title, name]) =>
    tile(title, rate(live.flow[name]), "per s", `${number(live.totals[name])} so far`, spark(history[name], 150, 26)));
  const training = live.training.length ? `training for an incident of ${live.training[0].monitor}` : "nothing in training";
  $("tiles").replaceChildren(...flow,
    tile("Model in charge", live.model_version === "prior" ? "base rate" : `v${live.model_version}`, "", training),
    ...["auc", "logloss"].map((name) => comparison(name, overall)));
}

function tile(title, value, unit, note, ...more) {
  return h("div", { class: "tile" }, h("h3", {}, title),
    h("div", { class: "value" }, value, unit && h("span", { class: "unit" }, unit)), h("p", { class: "note" }, note), ...more);
}

function comparison(name, overall) {
  const title = name === "auc" ? "AUC, live" : "Log loss, live";
  if (!overall?.count || overall.frozen[name] === null) return tile(title, "–", "", "waiting for labels of a trained model");
  const gain = overall.live[name] - overall.frozen[name];
  const good = name === "auc" ? gain >= 0 : gain <= 0;
  const note = h("span", {}, h("span", { class: good ? "better" : "worse" }, signed(gain, 4)), ` against frozen ${number(overall.frozen[name], 4)}`);
  return tile(title, number(overall.live[name], 4), "", note);
}

// ---- over event time: one frame for all charts, so that what happened together stands together

function frame(host, gutter) {
  const width = Math.max(280, host.clientWidth);
  const firsts = [known.performance?.buckets[0]?.start_ms, known.incidents?.incidents[0]?.start_ms, known.drift?.weeks[0]];
  const lasts = [known.live?.replay.event_time_ms, known.performance?.buckets.at(-1)?.end_ms - 6 * DAY, known.incidents?.incidents.at(-1)?.end_ms];
  const some = (values) => values.filter((each) => Number.isFinite(each));
  const [from, to] = extent(Math.min(...some(firsts)), Math.max(...some(lasts), ...some(firsts)));
  const ends = width > 700;
  return { width, from, to, left: ends ? 240 : gutter, right: width - (ends ? 104 : 6), ends };
}

function drawPerformance() {
  const told = known.performance, host = $("performance");
  const now = known.live?.replay.event_time_ms;
  // A point that is still filling up would jump about: it waits until its time has passed.
  const whole = told.buckets.filter((each) => each.count && !(each.end_ms > now));
  const points = whole.length > 1 ? whole : told.buckets.filter((each) => each.count);
  if (!points.length) {
    host.replaceChildren(empty("No labelled predictions yet", "A prediction can be judged once its flight has landed and both are in the archive."));
    $("performance-table").hidden = true;
    return;
  }
  const view = frame(host, 40);
  const common = { points, estimates: told.estimates, swaps: told.promotions, quarantines: told.quarantines, priorUntil: told.frozen_from_ms ?? now, now, height: view.ends ? 190 : 168 };
  const charts = [
    measure(view, { ...common, name: "auc", title: "AUC", hint: "higher is better", digits: 3 }),
    measure(view, { ...common, name: "logloss", title: "Log loss", hint: "nats, lower is better", digits: 3 }),
  ];
  for (const chart of charts) hover(chart, view, points);
  const frozen = told.frozen_version ? `v${told.frozen_version}, frozen, on the same requests` : "the first model, frozen, once there is one";
  host.replaceChildren(...charts, h("ul", { class: "legend" },
    h("li", {}, key(s("path", { class: "live", d: "M0,6h22" })), "live: the model in charge"),
    h("li", {}, key(s("path", { class: "frozen", d: "M0,6h22" })), frozen),
    told.estimates.length > 0 && h("li", {}, key(s("rect", { class: "band", width: 22, height: 12 }), s("path", { class: "expected", d: "M0,6h22" })), "live, expected of the week before any label"),
    h("li", {}, key(s("path", { class: "flag", d: "M4,0h14v12h-14z" })), "a new model takes over"),
    told.quarantines.length > 0 && h("li", {}, key(hatching("hatch-key"), s("rect", { fill: "url(#hatch-key)", width: 22, height: 12 })), "faulty, kept out of training")));
  const of = told.overall?.count ? `${number(told.overall.count)} labelled requests rescored.` : "Frozen is rescored in the background, week by week.";
  $("performance-lead").textContent = `Each point is a ${bucket === 7 ? "week" : "day"} of requests whose flights have landed. ${of}`;
  $("performance-table").hidden = false;
  $("performance-table").lastElementChild.replaceChildren(table(points));
}

const key = (...shapes) => s("svg", { width: 22, height: 12, "aria-hidden": true }, ...shapes);

function table(points) {
  const cell = (value, digits) => h("td", { class: "number" }, number(value, digits));
  return h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "from"), ...["requests", "late share", "AUC live", "AUC frozen", "log loss live", "log loss frozen"].map((each) => h("th", { class: "number" }, each)), h("th", {}, "versions"))),
    h("tbody", {}, points.map((each) => h("tr", {}, h("td", {}, date(each.start_ms, true)), cell(each.count), cell(each.late_share, 3),
      cell(each.live.auc, 4), cell(each.frozen.auc, 4), cell(each.live.logloss, 4), cell(each.frozen.logloss, 4), h("td", {}, each.versions.join(", "))))));
}

function hover(chart, view, points) {
  const cross = s("line", { class: "cross", y1: view.ends ? 22 : 40, y2: Number(chart.getAttribute("height")) - 24, hidden: true });
  chart.append(cross);
  const x = linear(view.from, view.to, view.left, view.right);
  chart.addEventListener("pointermove", (event) => {
    const at = event.clientX - chart.getBoundingClientRect().left;
    const middle = (each) => x((each.start_ms + Math.min(each.end_ms, view.to)) / 2);
    const near = points.reduce((best, each) => (Math.abs(middle(each) - at) < Math.abs(middle(best) - at) ? each : best));
    cross.removeAttribute("hidden");
    cross.setAttribute("x1", middle(near));
    cross.setAttribute("x2", middle(near));
    const row = (name, value) => h("tr", {}, h("td", {}, name), h("td", {}, value));
    tip(event, h("strong", {}, bucket === 7 ? `${date(near.start_ms)} to ${date(near.end_ms - DAY, true)}` : date(near.start_ms, true)),
      h("table", {}, row("AUC live", number(near.live.auc, 4)), row("AUC frozen", number(near.frozen.auc, 4)),
        row("log loss live", number(near.live.logloss, 4)), row("log loss frozen", number(near.frozen.logloss, 4)),
        row("late", `${number(100 * near.late_share, 1)}% of ${number(near.count)}`),
        row("answered by", near.versions.map((each) => (each === "prior" ? "base rate" : `v${each}`)).join(", "))));
  });
  chart.addEventListener("pointerleave", () => { cross.setAttribute("hidden", ""); tip(null); });
}

function tip(event, ...content) {
  const host = $("tip");
  host.hidden = !event;
  if (!event) return;
  host.replaceChildren(...content);
  const { width, height } = host.getBoundingClientRect();
  host.style.left = `${clamp(event.clientX + 14 + width > innerWidth ? event.clientX - width - 14 : event.clientX + 14, 4, innerWidth - width - 4)}px`;
  host.style.top = `${clamp(event.clientY + 16, 4, innerHeight - height - 4)}px`;
}

// ---- incidents

const outcome = (each) => each.decision?.decision ?? (["failed", "cancelled"].includes(each.submission) ? "failed" : each.submission ? "training" : "none");

function drawLanes() {
  const { incidents, quarantines } = known.incidents, host = $("lanes");
  const alerts = incidents.filter((each) => each.kind === "alert");
  const count = (what) => incidents.filter((each) => outcome(each) === what && each.kind === "alert").length;
  $("incidents-lead").textContent = alerts.length
    ? `${alerts.length} so far: ${count("promoted")} led to a better model, ${count("refused")} to a challenger that was refused, ${count("none")} to no training.`
    : "";
  if (!incidents.length) {
    host.replaceChildren(empty("Nothing has happened yet", "An alert on drift.alerts opens an incident; what becomes of it is told here."));
    return;
  }
  const view = frame(host, 86);
  const lanes = [...new Set(incidents.map((each) => each.monitor))], height = lanes.length * 26 + 30, bottom = height - 22;
  const x = linear(view.from, view.to, view.left, view.right);
  host.replaceChildren(s("svg", { width: view.width, height, role: "img", "aria-label": "Incidents over event time" },
    s("defs", {}, hatching("hatch-lanes")), timeAxis(x, view, 4, bottom),
    quarantines.map((each) => s("rect", { fill: "url(#hatch-lanes)", x: x(each.start_ms), y: 4, height: bottom - 4, width: Math.max(3, x(each.end_ms) - x(each.start_ms)) })),
    lanes.map((name, at) => s("g", {},
      s("line", { class: "lane", x1: view.left, x2: view.right, y1: 30 + at * 26, y2: 30 + at * 26 }),
      s("text", { class: "row-name", x: view.left - 10, y: 21 + at * 26, "text-anchor": "end" }, name))),
    incidents.map((each) => glyph(each, x, 17 + lanes.indexOf(each.monitor) * 26))),
  h("ul", { class: "legend" }, Object.entries(MARKS).filter(([what]) => incidents.some((each) => outcome(each) === what))
    .map(([what, text]) => h("li", {}, key(s("path", { class: `outcome ${what}`, d: mark(what, 11, 6) })), text))));
}

const MARKS = { promoted: "a better model took over", refused: "challenger refused", training: "in training", failed: "training failed" };
const mark = (what, x, y) => ({
  promoted: `M${x},${y - 6}l6.5,11.5h-13z`,
  training: `M${x - 5.5},${y}a5.5,5.5 0 1,0 11,0a5.5,5.5 0 1,0 -11,0z`,
}[what] ?? `M${x - 5.5},${y - 5}h11v11h-11z`);

function glyph(each, x, y) {
  const from = x(each.start_ms), to = Math.max(x(each.end_ms), from + 5), what = outcome(each);
  return s("g", {
    class: "hot", onpointerleave: () => tip(null),
    onpointermove: (event) => tip(event, h("strong", {}, `${date(each.opened_ms, true)} · ${each.monitor}`), each.summary, h("div", {}, verdictText(each))),
  },
  s("rect", { class: `span ${each.kind === "alert" ? each.cause : "scheduled"}`, x: from, y: y - 5, width: to - from, height: 10, rx: 2 }),
  what !== "none" && s("path", { class: `outcome ${what} ${what === "training" ? "pulse" : ""}`, d: mark(what, to + 11, y) }));
}

function verdictText(each) {
  const what = outcome(each), told = each.decision;
  if (told) {
    const [won, lost] = [told.challenger_log_loss, told.champion_log_loss];
    const against = lost === null ? "" : ` against ${number(lost, 4)} of v${told.champion_version} (${signed(won - lost, 4)})`;
    const whom = what === "promoted" ? `Promoted v${told.challenger_version}` : `Refused ${told.challenger_version}`;
    return `${whom}: log loss ${number(won, 4)}${against}, AUC ${number(told.challenger_auc, 3)}${told.champion_auc === null ? "" : ` against ${number(told.champion_auc, 3)}`}, on ${number(told.held_out_rows)} held-out requests`;
  }
  if (what === "training") return "A challenger is being trained; the replay waits for it";
  if (what === "failed") return `The training run ${each.submission}`;
  if (each.cause !== "world" && each.kind === "alert") return `No retraining: ${date(each.start_ms)} to ${date(each.end_ms)} is kept out of training sets`;
  return "No retraining";
}

function drawIncidents() {
  $("incidents").replaceChildren(...known.incidents.incidents.toReversed().map((each) => {
    const what = outcome(each), [verb, ...rest] = verdictText(each).split(" ");
    const said = each.decision ? [h("b", { class: what }, verb), ` ${rest.join(" ")}`] : [verdictText(each)];
    return h("li", {},
      h("div", { class: "when" }, h("strong", {}, date(each.opened_ms, true)), each.kind === "alert" ? (each.resolved ? "resolved" : "open") : "scheduled"),
      h("div", { class: "what" },
        h("p", { class: "summary" }, each.summary),
        h("p", { class: "kind" }, each.monitor, each.cause && [" · ", h("b", { class: each.cause }, CAUSE[each.cause] ?? each.cause)],
          each.severity !== "info" && [" · ", h("b", { class: each.severity }, each.severity)], each.segment && ` · ${each.segment}`,
          each.report_url && [" · ", h("a", { href: each.report_url }, "report")]),
        h("p", { class: "verdict" }, said)),
      each.evidence.length > 0 && h("div", { class: "why" }, each.evidence.slice(0, 4).map((one) => h("div", {},
        h("code", {}, one.column), ratioBar(one.value / one.threshold),
        h("small", {}, `${one.statistic} ${number(one.value, 3)} is ${number(one.value / one.threshold, 1)}× its threshold, ${number(100 * one.share)}% of the drift`)))));
  }));
}

// ---- drift

function drawDrift() {
  const { weeks, rows, windows } = known.drift, host = $("drift"), more = $("drift-all");
  if (!rows.length) {
    more.hidden = true;
    host.replaceChildren(empty("No window has been evaluated yet", "Drift is measured against the reference of a trained model, so it starts with the first one."));
    return;
  }
  $("drift-lead").textContent = `The largest of a week’s statistics as a multiple of its calibrated threshold, over ${number(windows)} windows. A dot marks an alarm.`;
  more.hidden = rows.length <= ROWS;
  more.textContent = allRows ? `Only the ${ROWS} strongest` : `All ${rows.length} columns`;
  const view = frame(host, 1), shown = allRows ? rows : rows.slice(0, ROWS);
  // Where there is no room beside the cells, names stand above them.
  const line = view.ends ? 19 : 36, above = view.ends ? 0 : 17, height = shown.length * line + 26;
  const x = linear(view.from, view.to, view.left, view.right);
  const chart = s("svg", { width: view.width, height, role: "img", "aria-label": "Drift by column and week" },
    timeAxis(x, view, 0, height - 22),
    shown.map((row, at) => s("g", {}, label(row, view, at * line + 14),
      row.cells.map((cell, week) => cell && box(row, cell, weeks[week], x, at * line + above, 19)))));
  host.replaceChildren(chart, h("ul", { class: "legend" }, HEAT_STEPS.map(([ratio, text]) => {
    const swatch = s("rect", { width: 22, height: 12, rx: 1.5 });
    swatch.style.fill = heat(ratio);
    return h("li", {}, key(swatch), text);
  })));
}

function label(row, view, y) {
  const [owner, name] = feature(row.column);
  const cut = (text, room) => (text.length > room ? `${text.slice(0, room - 1)}…` : text);
  const place = view.ends ? { x: view.left - 10, "text-anchor": "end" } : { x: 0 };
  return s("text", { class: "row-name", y, ...place }, s("title", {}, `${row.column} (${row.monitor})`),
    owner && s("tspan", { class: "row-view" }, `${cut(owner, 14)} `), cut(name, 22));
}

function box(row, cell, from, x, y, line) {
  const left = x(from), width = Math.max(1.5, x(from + 7 * DAY) - left - 1);
  const fill = s("rect", { x: left, y: y + 1, width, height: line - 2, rx: 1.5 });
  fill.style.fill = heat(cell.ratio);
  return s("g", {
    class: "hot", onpointerleave: () => tip(null),
    onpointermove: (event) => tip(event, h("strong", {}, row.column),
      `${date(from)} to ${date(from + 6 * DAY, true)}: ${cell.statistic} ${number(cell.value, 3)}, ${number(cell.ratio, 2)} times the threshold ${number(cell.threshold, 3)}`,
      h("div", {}, `${row.monitor}, ${cell.windows} window${cell.windows === 1 ? "" : "s"}${cell.fired ? ", raised an alarm" : ""}`)),
  }, fill, cell.fired && s("circle", { class: "mark", cx: left + width / 2, cy: y + line / 2, r: Math.min(2.2, width / 3) }));
}

// ---- jobs

function drawJobs() {
  const { jobs, replay } = known.live;
  if (!jobs.length) {
    $("jobs").replaceChildren(empty("No job runs yet", "Jobs appear once Flink has them or a consumer group has read something."));
    return;
  }
  const order = ["features", "scoring", "drift", "archive"];
  const place = (job) => (order.indexOf(job.name) + 1 || 9);
  const heads = ["read per s", "written per s", "lag", "behind", "restarts", "checkpoint"];
  $("jobs").replaceChildren(h("table", {},
    h("thead", {}, h("tr", {}, h("th", {}, "job"), h("th", {}, "state"), heads.map((each) => h("th", { class: "number" }, each)))),
    h("tbody", {}, jobs.toSorted((one, other) => place(one) - place(other)).map((job) => h("tr", {},
      h("td", {}, job.name, h("small", {}, job.kind === "flink" ? " on Flink" : "")),
      h("td", {}, h("span", { class: `state ${job.state === "running" ? "ok" : ["failed", "failing"].includes(job.state) ? "bad" : ""}` }, job.state)),
      [rate(job.in_per_s), rate(job.out_per_s), number(job.lag),
        job.event_time_ms && replay.event_time_ms ? duration(replay.event_time_ms - job.event_time_ms) : "–",
        number(job.restarts), job.checkpoint_ms >= 0 ? `${number(job.checkpoint_ms)} ms` : "–",
      ].map((each) => h("td", { class: "number" }, each)))))));
}

// ---- begin

for (const button of document.querySelectorAll("[data-bucket]")) {
  button.addEventListener("click", async () => {
    bucket = Number(button.dataset.bucket);
    for (const each of document.querySelectorAll("[data-bucket]")) each.setAttribute("aria-pressed", each === button);
    const answer = await fetch(`/api/performance?bucket=${bucket}`);
    if (answer.ok) { known.performance = await answer.json(); texts.performance = ""; drawPerformance(); }
  });
}
$("drift-all").addEventListener("click", () => { allRows = !allRows; drawDrift(); });
let resizing;
addEventListener("resize", () => {
  clearTimeout(resizing);
  resizing = setTimeout(() => { for (const name of Object.keys(known)) if (known[name]) draw(name); }, 120);
});
document.addEventListener("visibilitychange", () => tip(null));
for (const name of Object.keys(EVERY)) ask(name);
