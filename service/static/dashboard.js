// Reads dashboard/data every two seconds and draws it: one table and one chart per question.
"use strict";

const REFRESH_MS = 2000;
const HISTORY_POINTS = 300;
// Okabe and Ito's palette: told apart by people with any color vision.
const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#b3a800"];
const NONE = "–";

const colorOf = new Map();
const history = [];
let key = sessionStorage.getItem("slimctr-key");

const element = (tag, text, className) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
};
const find = (selector) => document.querySelector(selector);
const known = (value) => value !== null && value !== undefined;

const count = (value) => (known(value) ? Math.round(value).toLocaleString("en-US") : NONE);
const fixed = (digits) => (value) => (known(value) ? value.toFixed(digits) : NONE);
// Near 0 and near 1 a whole percent would hide what matters: 99.7 % coverage is not 100 %.
const percent = (value) =>
  known(value) ? `${(100 * value).toFixed((value > 0 && value < 0.1) || (value > 0.9 && value < 1) ? 1 : 0)} %` : NONE;
const times = (value) => (known(value) ? `${value.toFixed(value < 10 ? 2 : 1)}×` : NONE);
const rate = (value) => (known(value) ? value.toLocaleString("en-US", { maximumFractionDigits: value < 10 ? 1 : 0 }) : NONE);
const megabytes = (value) => {
  if (!known(value)) return NONE;
  return value < 1e5 ? (value / 1e6).toPrecision(2) : (value / 1e6).toFixed(value < 1e7 ? 2 : 1);
};
const plural = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
const milliseconds = (value) => (known(value) ? value.toFixed(value < 10 ? 2 : 1) : NONE);
// A difference and its error share their digits: two of the error, so that neither is shown as a false zero.
const estimate = (value, error) => {
  if (!known(value)) return NONE;
  const digits = known(error) && error > 0 ? Math.min(12, Math.max(2, 1 - Math.floor(Math.log10(error)))) : 5;
  const spread = known(error) ? ` ± ${error.toFixed(digits)} (standard error)` : "";
  return (value > 0 ? "+" : "") + value.toFixed(digits) + spread;
};

const severalModels = (variants) => new Set(variants.map((v) => v.model)).size > 1;
const nameOf = (variant, variants) =>
  severalModels(variants) ? `${variant.model} / ${variant.variant}` : variant.variant;

function color(variant) {
  const id = `${variant.model}/${variant.variant}`;
  if (!colorOf.has(id)) colorOf.set(id, COLORS[colorOf.size % COLORS.length]);
  return colorOf.get(id);
}

function table(section, columns, variants, all) {
  const head = element("tr");
  head.append(element("th", "variant"));
  for (const column of columns) {
    const cell = element("th", column.title);
    cell.scope = "col";
    head.append(cell);
  }
  const body = element("tbody");
  for (const variant of variants) {
    const row = element("tr");
    row.dataset.variant = variant.variant;
    const name = element("th");
    name.scope = "row";
    const dot = element("span", "", "dot");
    dot.style.background = color(variant);
    name.append(dot, nameOf(variant, all), element("span", ` v${variant.version}`, "version"));
    row.append(name);
    for (const column of columns) {
      const value = column.value(variant);
      const cell = element("td", column.text(value));
      if (column.mark && known(value)) cell.className = column.mark(value);
      row.append(cell);
    }
    body.append(row);
  }
  const top = element("thead");
  top.append(head);
  find(`${section} table`).replaceChildren(...(variants.length ? [top, body] : []));
}

const empty = (section, text) => (find(`${section} > .empty`).textContent = text);

function chart(section, traces, layout) {
  const place = find(`${section} .chart`);
  place.hidden = !window.Plotly || traces.length === 0;
  if (place.hidden) return;
  const axis = { gridcolor: "#e1e6ec", zerolinecolor: "#aeb8c4", ticks: "outside", ticklen: 4, tickcolor: "#ffffff" };
  const common = {
    margin: { l: 55, r: 15, t: 10, b: 45 },
    font: { family: "system-ui, 'Liberation Sans', sans-serif", size: 12, color: "#1d2733" },
    paper_bgcolor: "#ffffff",
    plot_bgcolor: "#ffffff",
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
    showlegend: false,
    hovermode: "closest",
  };
  const full = { ...common, ...layout, xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis } };
  window.Plotly.react(place, traces, full, { displayModeBar: false, responsive: true });
}

function showExperiment(experiments) {
  const place = find("#experiment .facts");
  const facts = [];
  const fact = (title, value, detail) => {
    const block = element("dl", undefined, "fact");
    const content = element("dd", value);
    if (detail) content.append(element("small", detail));
    block.append(element("dt", title), content);
    facts.push(block);
  };
  for (const experiment of experiments) {
    fact("key", experiment.key);
    for (const variant of experiment.variants) {
      const exposed = known(variant.exposures) ? `${plural(variant.exposures, "request")} exposed` : "";
      fact(`weight of ${variant.name}`, percent(variant.weight), exposed);
    }
    fact("outcomes joined", count(experiment.outcomes.joined ?? 0), outcomesElsewhere(experiment.outcomes));
    fact("label coverage", percent(experiment.label_coverage), "decided ÷ mature rows");
    const shadow = experiment.shadow;
    if (shadow) {
      const paired = shadow.paired ?? {};
      const names = known(shadow.variant) ? `${shadow.variant} − ${shadow.compared_with}` : "shadow − served";
      const where = `${names} on the same ${count(paired.rows ?? 0)} rows, 24 h`;
      fact("paired log loss difference", estimate(paired.logloss_diff, paired.standard_error), where);
      fact("mean |Δlogit| in shadow", fixed(4)(shadow.mean_logit_abs_diff), `on ${plural(shadow.rows, "row")}, at most 64 of a request`);
      const lost = `${count(shadow.selected)} drawn, ${count(shadow.dropped)} dropped`;
      fact("shadow requests scored", count(shadow.scored), lost);
    }
  }
  place.replaceChildren(...facts);
  empty("#experiment", experiments.length ? "" : "No experiment runs: start the service with --experiment FILE.yaml.");
}

function outcomesElsewhere(outcomes) {
  const other = Object.entries(outcomes).filter(([status, n]) => status !== "joined" && n > 0);
  return other.map(([status, n]) => `${count(n)} ${status}`).join(", ") || "none late, orphan or in conflict";
}

function showQuality(variants) {
  const judged = variants.filter((v) => v.quality);
  const quality = (name) => (v) => v.quality[name];
  table("#quality", [
    { title: "AUC", value: quality("auc"), text: fixed(4) },
    { title: "log loss", value: quality("logloss"), text: fixed(5) },
    { title: "NE", value: quality("ne"), text: fixed(4) },
    { title: "calibration", value: quality("calibration_ratio"), text: fixed(3) },
    { title: "rows decided", value: quality("rows"), text: count },
    { title: "window", value: quality("window"), text: (value) => value },
  ], judged, variants);
  empty("#quality", judged.length ? "" : "No decided labels yet: send clicks and no-clicks to POST /v1/outcomes.");
  const placed = judged.filter((v) => known(v.quality.logloss) && known(v.memory.artifact_bytes));
  const traces = placed.map((v) => ({
    x: [v.memory.artifact_bytes / 1e6],
    y: [v.quality.logloss],
    name: nameOf(v, variants),
    text: [nameOf(v, variants)],
    type: "scatter",
    mode: "markers+text",
    textposition: "top center",
    cliponaxis: false,
    marker: { size: 12, color: color(v) },
    hovertemplate: "%{text}: %{x:.2f} MB, log loss %{y:.5f}<extra></extra>",
  }));
  chart("#quality", traces, {
    xaxis: { title: { text: "artifact (MB)" }, rangemode: "tozero" },
    yaxis: { title: { text: "log loss (axis not from 0)" }, tickformat: ".4~f" },
    margin: { l: 78, r: 30, t: 25, b: 45 },
  });
}

function showMemory(variants) {
  const loaded = variants.filter((v) => known(v.memory.payload_bytes) || known(v.memory.artifact_bytes));
  const memory = (name) => (v) => v.memory[name];
  table("#memory", [
    { title: "payload MB", value: memory("payload_bytes"), text: megabytes },
    { title: "ratio", value: memory("payload_ratio"), text: times },
    { title: "artifact MB", value: memory("artifact_bytes"), text: megabytes },
    { title: "ratio", value: memory("artifact_ratio"), text: times },
    { title: "resident MB", value: memory("resident_bytes"), text: megabytes },
  ], loaded, variants);
  empty("#memory", loaded.length ? "" : "No version is loaded.");
  const kinds = [["payload", "#0072b2"], ["artifact", "#56b4e9"], ["resident", "#c3cfdb"]];
  const names = loaded.map((v) => nameOf(v, variants));
  const traces = kinds
    .filter(([kind]) => loaded.some((v) => known(v.memory[`${kind}_bytes`])))
    .map(([kind, shade]) => ({
      type: "bar",
      orientation: "h",
      name: kind,
      y: names,
      x: loaded.map((v) => (known(v.memory[`${kind}_bytes`]) ? v.memory[`${kind}_bytes`] / 1e6 : null)),
      marker: { color: shade },
      hovertemplate: `%{y}, ${kind}: %{x:.2f} MB<extra></extra>`,
    }));
  chart("#memory", traces, {
    barmode: "group",
    showlegend: true,
    xaxis: { title: { text: "MB (10⁶ bytes)" }, rangemode: "tozero" },
    yaxis: { autorange: "reversed", type: "category", automargin: true },
    margin: { l: 20, r: 15, t: 30, b: 45 },
  });
}

function showLatency(variants) {
  const timed = variants.filter((v) => v.latency);
  const latency = (name) => (v) => v.latency[name];
  // A quantile the histogram cannot place lies above its last finite bound.
  const tail = (name) => ({
    value: (v) => v.latency[name] ?? `> ${v.latency.last_bound_ms}`,
    text: (value) => (typeof value === "string" ? value : milliseconds(value)),
  });
  table("#latency", [
    { title: "p50 ms", ...tail("p50_ms") },
    { title: "p95 ms", ...tail("p95_ms") },
    { title: "p99 ms", ...tail("p99_ms") },
    { title: "p99 ms, last minute", value: latency("recent_p99_ms"), text: milliseconds },
    { title: "queue ms, mean", value: (v) => v.latency.mean_stage_ms.queue, text: fixed(2) },
    { title: "network ms, mean", value: (v) => v.latency.mean_stage_ms.compute_infer, text: fixed(2) },
    { title: "requests", value: latency("requests"), text: count },
  ], timed, variants);
  empty("#latency", timed.length ? "" : "No request has been answered yet.");
  const slowest = Math.max(0, ...timed.map((v) => v.latency.distribution.findIndex((point) => point.share > 0.999)));
  const end = timed.length ? timed[0].latency.distribution[Math.max(slowest, 6)].up_to_ms : 1;
  const traces = timed.map((v) => ({
    type: "scatter",
    mode: "lines",
    name: nameOf(v, variants),
    x: v.latency.distribution.map((point) => point.up_to_ms),
    y: v.latency.distribution.map((point) => point.share),
    line: { color: color(v), width: 2 },
    hovertemplate: `${nameOf(v, variants)}: %{y:.1%} within %{x} ms<extra></extra>`,
  }));
  chart("#latency", traces, {
    showlegend: true,
    xaxis: {
      title: { text: "request latency (ms, log scale)" },
      type: "log",
      range: [Math.log10(0.5), Math.log10(end)],
      tickvals: [0.5, 1, 2, 3, 5, 10, 25, 100, 500, 2500],
    },
    yaxis: { title: { text: "share of requests" }, range: [0, 1.02], tickformat: ".0%" },
    margin: { l: 74, r: 15, t: 30, b: 45 },
  });
}

function showTraffic(data) {
  const variants = data.variants;
  const served = variants.filter((v) => v.traffic.requests > 0 || v.traffic.rows > 0);
  const traffic = (name) => (v) => v.traffic[name];
  table("#traffic", [
    { title: "share of rows", value: traffic("share"), text: percent },
    { title: "rows", value: traffic("rows"), text: count },
    { title: "requests", value: traffic("requests"), text: count },
    { title: "rows/s", value: traffic("recent_rows_per_second"), text: rate },
    { title: "requests/s", value: traffic("recent_requests_per_second"), text: rate },
    { title: "failures", value: traffic("failures"), text: count, mark: (value) => (value > 0 ? "bad" : "") },
  ], served, variants);
  const shed = Object.entries(data.shed).map(([reason, n]) => `${count(n)} ${reason.replaceAll("_", " ")}`);
  const refused = shed.length ? `Refused: ${shed.join(", ")}.` : "No request was refused.";
  empty("#traffic", served.length ? refused : "No traffic yet: POST rows to /v1/predict.");

  const now = { at: new Date(data.generated_at), rows: new Map(served.map((v) => [`${v.model}/${v.variant}`, v.traffic.rows])) };
  const last = history[history.length - 1];
  if (!last || now.at > last.at) history.push(now);
  if (history.length > HISTORY_POINTS) history.shift();
  const traces = served.map((v) => {
    const id = `${v.model}/${v.variant}`;
    const steps = history.slice(1).map((later, i) => {
      const earlier = history[i];
      const seconds = (later.at - earlier.at) / 1000;
      const rows = (later.rows.get(id) ?? 0) - (earlier.rows.get(id) ?? 0);
      // A counter that went down belongs to a restarted process: a gap, not a negative rate.
      return [later.at, rows < 0 ? null : rows / seconds];
    });
    return {
      type: "scatter",
      mode: "lines",
      name: nameOf(v, variants),
      x: steps.map(([at]) => at),
      y: steps.map(([, value]) => value),
      line: { color: color(v), width: 2 },
    };
  });
  chart("#traffic", history.length > 2 ? traces : [], {
    showlegend: true,
    xaxis: { title: { text: "time, since this page was opened" }, type: "date", tickformat: "%H:%M:%S", nticks: 6 },
    yaxis: { title: { text: "rows/s" }, rangemode: "tozero" },
    margin: { l: 66, r: 15, t: 30, b: 45 },
  });
}

function show(data) {
  for (const variant of data.variants) color(variant);
  showExperiment(data.experiments);
  showQuality(data.variants);
  showMemory(data.variants);
  showLatency(data.variants);
  showTraffic(data);
  find("#build").textContent = `slimctr ${data.build.version} · Python ${data.build.python} · ${data.build.runtime}`;
  const ready = data.variants.filter((v) => v.ready).length;
  status(`${ready} of ${data.variants.length} variants ready · ${new Date(data.generated_at).toLocaleTimeString()}`);
}

function status(text, lost = false) {
  find("#status").textContent = text;
  find("#status").className = lost ? "lost" : "";
}

async function refresh() {
  try {
    const headers = key ? { Authorization: `Bearer ${key}` } : {};
    const response = await fetch("dashboard/data", { headers, cache: "no-store" });
    const locked = response.status === 401 || response.status === 403;
    find("#key-form").hidden = !locked;
    if (locked) status("locked", true);
    else if (!response.ok) status(`the service answered ${response.status}`, true);
    else show(await response.json());
  } catch (error) {
    status(error instanceof TypeError ? "no answer from the service" : String(error), true);
  }
  setTimeout(refresh, REFRESH_MS);
}

find("#key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = find("#key").value;
  sessionStorage.setItem("slimctr-key", key);
});
refresh();
