// The page: judge a message as it is typed, judge a file, keep this tab's history.
// Texts become elements through textContent alone, so none of them can be taken for markup.

const PREDICT_AFTER = 120; // ms without a key pressed
const EXPLAIN_AFTER = 450;
const REMEMBER_AFTER = 1800;
const MOST_BARS = 8;
const ROWS_A_TIME = 100;
const EXAMPLES = [
  "Congratulations! You have won a £1,000 voucher. Reply CLAIM to 80082 now",
  "Running ten minutes late, start without me",
  "They scored twice in the last five minutes and won the cup",
  "The food was cold and the service slow, but what a view",
];

const $ = (id) => document.getElementById(id);
const percent = (p) => (p > 0.9995 && p < 1 ? "> 99.9 %" : `${(100 * p).toFixed(1)} %`);
const signed = (x) => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(2)}`;
const count = (n) => n.toLocaleString("en");

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function sureness(p) {
  if (p >= 0.95) return "very sure";
  if (p >= 0.8) return "fairly sure";
  if (p >= 0.6) return "leaning";
  return "undecided";
}

function debounced(action) {
  let timer;
  return (delay) => {
    clearTimeout(timer);
    if (delay !== undefined) timer = setTimeout(action, delay);
  };
}

// ------------------------------------------------------------------ asking the server

const store = {
  get: (name, otherwise) => {
    try { return JSON.parse(sessionStorage.getItem(name)) ?? otherwise; } catch { return otherwise; }
  },
  set: (name, value) => {
    try { sessionStorage.setItem(name, JSON.stringify(value)); } catch { /* full, or forbidden */ }
  },
};

async function ask(path, options = {}) {
  const key = store.get("key");
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) {
    await askForKey();
    return ask(path, options);
  }
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw Object.assign(new Error(problem.error ?? `the server answered ${response.status}`), {
      wait: Number(response.headers.get("Retry-After")),
    });
  }
  return response;
}

const post = (path, body, signal) =>
  ask(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, ...(model && { model }) }),
    signal,
  }).then((response) => response.json());

let keyDialog = null; // one for all who ask meanwhile
function askForKey() {
  keyDialog ??= new Promise((resolve) => {
    $("key").value = "";
    $("key-dialog").showModal();
    $("key-form").onsubmit = () => {
      store.set("key", $("key").value.trim());
      keyDialog = null;
      resolve();
    };
  });
  return keyDialog;
}
$("key-dialog").addEventListener("cancel", (event) => event.preventDefault());

// ------------------------------------------------------------------ the model

let model = null; // its name, where there are several to choose from
let labels = [];
let decision = {}; // how labels follow from probabilities

async function start() {
  const { models } = await ask("/v1/models").then((response) => response.json());
  if (models.length > 1) {
    const remembered = store.get("model");
    model = models.includes(remembered) ? remembered : models[0];
    $("model").append(...models.map((name) => new Option(name, name, false, name === model)));
    $("model-choice").hidden = false;
  }
  await describe();
}

async function describe() {
  const query = model ? `?model=${encodeURIComponent(model)}` : "";
  const info = await ask(`/v1/model${query}`).then((response) => response.json());
  labels = info.labels.map(String);
  decision = info.decision;
  $("model-name").textContent = info.name;
  $("title").textContent = titleOf(labels);
  document.title = `${titleOf(labels)} – lastblock`;
  $("report").hidden = !info.report;
  if (info.report) await linkReport(info.report);
}

function titleOf(names) {
  if (decision.multilabel) return `Which of ${names.length} labels?`;
  if (names.length > 4 || names.join("").length > 40) return `Which of ${names.length} is it?`;
  const [last, ...rest] = [...names].reverse();
  const text = `${rest.reverse().join(", ")} or ${last}?`;
  return text[0].toUpperCase() + text.slice(1);
}

async function linkReport(address) {
  const link = $("report");
  link.href = address;
  link.removeAttribute("download");
  if (!store.get("key")) return;
  // A link carries no key, so the page fetches the report for it.
  const blob = await ask(address).then((response) => response.blob());
  link.href = URL.createObjectURL(blob);
  link.download = "report.html";
}

$("model").addEventListener("change", async () => {
  model = $("model").value;
  store.set("model", model);
  asked.abort();
  mark([]);
  await describe();
  judgeSoon(0);
});

// ------------------------------------------------------------------ one message

const message = $("message");
let asked = new AbortController();
let shown = null; // the prediction on the screen and its text
let allBars = false;

const judgeSoon = debounced(judge);
const explainSoon = debounced(explain);
const rememberSoon = debounced(remember);

message.addEventListener("input", () => {
  mark([]);
  $("clear").hidden = !message.value;
  asked.abort();
  explainSoon();
  rememberSoon();
  judgeSoon(PREDICT_AFTER);
});
$("clear").addEventListener("click", () => put(""));

function put(text) {
  message.value = text;
  message.dispatchEvent(new Event("input"));
  message.focus();
}

async function judge() {
  const text = message.value;
  if (!text.trim()) return showNothing();
  $("verdict").dataset.state = "busy";
  asked = new AbortController();
  try {
    const answered = await post("/v1/predict", { texts: text }, asked.signal);
    decision = answered.decision;
    shown = { text, ...answered.predictions[0] };
    showVerdict();
    explainSoon(EXPLAIN_AFTER);
    rememberSoon(REMEMBER_AFTER);
  } catch (error) {
    if (error.name === "AbortError") return;
    $("verdict").dataset.state = "failed";
    $("note").textContent = `${sentence(error)}`;
    if (error.wait) judgeSoon(1000 * error.wait);
  }
}

async function explain() {
  const { text, labels: [label] } = shown; // without one the likeliest class is explained
  try {
    const { words } = await post("/v1/explain", { text, label }, asked.signal);
    if (text !== message.value) return;
    mark(words);
    listWords(words);
  } catch (error) {
    if (error.name !== "AbortError") $("note").textContent = "No explanation just now; the server is busy.";
  }
}

function showNothing() {
  shown = null;
  $("verdict").dataset.state = "empty";
  $("label").textContent = "–";
  $("sure").textContent = "Nothing to judge yet.";
  $("note").textContent = "";
  $("bars").replaceChildren();
  $("all-classes").hidden = $("why").hidden = true;
}

function nameOf({ labels: given, unsure }) {
  return unsure ? "unsure" : given.join(", ") || "no label";
}

function howSure({ labels: given, unsure, probability, probabilities }) {
  const [likeliest] = Object.entries(probabilities).sort((a, b) => b[1] - a[1])[0];
  if (unsure) return `for ${likeliest}; it takes ${percent(decision.abstain_below)}`;
  if (decision.multilabel) return `for ${given[0] ?? likeliest}, the likeliest`;
  return sureness(probability);
}

function showVerdict() {
  const { labels: given, unsure, probability, probabilities, tokens, truncated } = shown;
  $("verdict").dataset.state = "judged";
  $("label").textContent = nameOf(shown);
  $("label").classList.toggle("unsure", unsure || !given.length);
  const sure = howSure(shown);
  $("sure").replaceChildren(element("b", { textContent: percent(probability) }), `, ${sure}`);
  const names = given.map(String);
  const ordered = Object.entries(probabilities).sort((a, b) => b[1] - a[1]);
  const bars = ordered.slice(0, allBars ? Infinity : MOST_BARS);
  $("bars").replaceChildren(...bars.map(([name, share]) => bar(name, share, names.includes(name))));
  $("all-classes").hidden = ordered.length <= MOST_BARS;
  $("all-classes").textContent = allBars ? "Fewer classes" : `All ${ordered.length} classes`;
  const read = truncated
    ? `${count(tokens)} tokens, not all of them read: the text is longer than the model's limit.`
    : `${count(tokens)} tokens.`;
  $("note").textContent = decision.thresholds ? `${read} A label is given where its bar reaches the line.` : read;
  $("why").hidden = true;
  $("spoken").textContent = `${nameOf(shown)}, ${percent(probability)}, ${sure}`;
}

function bar(name, share, given) {
  const line = element("i", { ariaHidden: "true" });
  line.style.setProperty("--share", `${100 * share}%`);
  const threshold = decision.thresholds?.[name];
  if (threshold !== undefined) {
    line.className = "marked";
    line.style.setProperty("--threshold", `${100 * threshold}%`);
  }
  return element(
    "li",
    { className: given ? "given" : "" },
    element("span", { textContent: name }),
    element("span", { textContent: percent(share) }),
    line,
  );
}

$("all-classes").addEventListener("click", () => {
  allBars = !allBars;
  showVerdict();
});

/** Colour the words behind the letters; the strongest word full, the others in proportion. */
function mark(words) {
  const characters = [...message.value]; // places are counted in code points
  const strongest = Math.max(0.1, ...words.map((word) => Math.abs(word.effect)));
  const parts = [];
  let at = 0;
  for (const { start, end, effect } of words) {
    const strength = Math.abs(effect) / strongest;
    parts.push(characters.slice(at, start).join(""));
    const part = element("span", { textContent: characters.slice(start, end).join("") });
    if (strength >= 0.08) {
      part.className = effect > 0 ? "for" : "against";
      part.style.setProperty("--strength", (0.08 + 0.3 * strength).toFixed(3));
      part.style.setProperty("--line-strength", (0.25 + 0.75 * strength).toFixed(3));
    }
    parts.push(part);
    at = end;
  }
  // What ends in a line feed needs a character after it to take up that line.
  parts.push(`${characters.slice(at).join("")}\u200b`);
  $("marks").replaceChildren(...parts);
  $("legend").hidden = !words.length;
}

function listWords(words) {
  const strongest = [...words].sort((a, b) => Math.abs(b.effect) - Math.abs(a.effect)).slice(0, 8);
  $("words").replaceChildren(
    ...strongest.map(({ text, effect }) =>
      element(
        "tr",
        {},
        element("td", { textContent: text }),
        element("td", { className: "number", textContent: signed(effect) }),
      ),
    ),
  );
  $("why").hidden = !words.length;
}

$("examples").append(
  ...EXAMPLES.map((text) =>
    element("li", {}, element("button", { type: "button", textContent: text, onclick: () => put(text) })),
  ),
);

// ------------------------------------------------------------------ this tab's history

const MOST_REMEMBERED = 50;
let history = store.get("history", []);

function remember() {
  if (!shown) return;
  const { text, probability } = shown;
  history = [{ text, label: nameOf(shown), probability }, ...history.filter((entry) => entry.text !== text)];
  history = history.slice(0, MOST_REMEMBERED);
  showHistory();
}

function showHistory() {
  store.set("history", history);
  $("history-section").hidden = !history.length;
  $("history").replaceChildren(
    ...history.map(({ text, label, probability }) =>
      element(
        "li",
        {},
        element(
          "button",
          { type: "button", onclick: () => { put(text); message.scrollIntoView({ block: "center" }); } },
          element("b", { textContent: label }),
          element("span", { className: "text", textContent: text }),
          element("span", { className: "muted", textContent: percent(probability) }),
        ),
      ),
    ),
  );
}
$("forget").addEventListener("click", () => {
  history = [];
  showHistory();
  message.focus();
});

// ------------------------------------------------------------------ many at once

const TYPES = {
  csv: "text/csv", tsv: "text/tab-separated-values", tab: "text/tab-separated-values",
  jsonl: "application/x-ndjson", ndjson: "application/x-ndjson",
};
let table = []; // { text, label, probability }, in the file's order
let view = { sort: "file", down: false, label: null, words: "", limit: ROWS_A_TIME };
let answer = null; // what can be downloaded
let working = null;

$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  $("file").value = ""; // so that the same file can be chosen again
  if (file) judgeFile(file);
});

const drop = $("drop");
for (const [event, over] of [["dragenter", true], ["dragover", true], ["dragleave", false], ["drop", false]]) {
  drop.addEventListener(event, (dragged) => {
    dragged.preventDefault();
    drop.classList.toggle("over", over);
  });
}
drop.addEventListener("drop", (dropped) => {
  const [file] = dropped.dataTransfer.files;
  if (file) judgeFile(file);
});

$("lines-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const lines = $("lines").value.split(/\r?\n/).filter((line) => line.trim());
  if (!lines.length) return showProblem("There are no lines to judge: paste some, one text a line.");
  const cells = lines.map((line) => `"${line.replaceAll('"', '""')}"`);
  judgeFile(new File([["text", ...cells, ""].join("\n")], "lines.csv"));
});

async function judgeFile(file) {
  const ending = file.name.split(".").pop().toLowerCase();
  const type = TYPES[ending];
  if (!type) return showProblem(`${file.name} is none of: .csv, .tsv, .jsonl`);
  working?.abort();
  const work = (working = new AbortController());
  showProblem("");
  table = [];
  answer = { parts: [], name: file.name.replace(/\.[^.]+$/, `-judged.${ending}`), type };
  view = { sort: "file", down: false, label: null, words: "", limit: ROWS_A_TIME };
  $("search").value = "";
  $("results").hidden = $("stop").hidden = false;
  $("download").hidden = true;
  showProgress(`Sending ${file.name}`);
  try {
    const query = model ? `?model=${encodeURIComponent(model)}` : "";
    const response = await ask(`/v1/predict/file${query}`, {
      method: "POST", headers: { "Content-Type": type }, body: file, signal: work.signal,
    });
    await readRows(response, type);
    if (work !== working) return;
    showProgress(`${count(table.length)} texts judged`, table.length, table.length);
    $("download").hidden = false;
  } catch (error) {
    if (work !== working) return;
    if (error.name === "AbortError") showProgress(`Stopped after ${count(table.length)} texts`, 0, 1);
    else {
      $("results").hidden = !table.length;
      showProgress("Broken off", 0, 1);
      showProblem(sentence(error));
    }
  }
  $("stop").hidden = true;
}

/** Rows as they arrive: shown a few times a second, whatever their number. */
async function readRows(response, type) {
  const total = Number(response.headers.get("X-Rows"));
  const column = decodeURIComponent(response.headers.get("X-Text-Column"));
  const parse = type === TYPES.jsonl ? jsonLines() : delimited(type === TYPES.csv ? "," : "\t");
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let last = 0;
  for (;;) {
    const { value, done } = await reader.read();
    if (value) {
      answer.parts.push(value);
      for (const row of parse(value)) table.push(rowOf(row, column));
    }
    if (done || Date.now() - last > 150) {
      last = Date.now();
      showProgress(`${count(table.length)} of ${count(total)} texts`, table.length, total);
      showTable();
    }
    if (done) break;
  }
  if (table.length < total) throw new Error("the connection broke before the last row");
}

function rowOf(row, column) {
  const text = String(row[column]);
  if (row.prediction) return { text, label: nameOf(row.prediction), probability: row.prediction.probability };
  const label = row.predicted_label.replaceAll("|", ", ") || "no label";
  return { text, label, probability: Number(row.probability) };
}

function jsonLines() {
  let rest = "";
  return (part) => {
    const lines = (rest + part).split("\n");
    rest = lines.pop();
    return lines.map((line) => JSON.parse(line));
  };
}

/** A reader of RFC 4180, fed in parts; a quoted cell may hold separators and line feeds. */
function delimited(separator) {
  let cell = "", cells = [], quoted = false, wasQuote = false, columns = null;
  return (part) => {
    const rows = [];
    for (const c of part) {
      if (c === '"') {
        if (!quoted && wasQuote) cell += c; // a doubled quotation mark
        quoted = !quoted;
        wasQuote = !quoted;
        continue;
      }
      wasQuote = false;
      if (quoted || (c !== separator && c !== "\n")) { cell += c; continue; }
      cells.push(cell);
      cell = "";
      if (c === separator) continue;
      if (columns) rows.push(Object.fromEntries(columns.map((name, i) => [name, cells[i]])));
      else columns = cells;
      cells = [];
    }
    return rows;
  };
}

function showProgress(text, value, max) {
  $("progress-text").textContent = text;
  if (value === undefined) $("progress").removeAttribute("value");
  else Object.assign($("progress"), { max: max || 1, value });
}

function showTable() {
  const counts = new Map();
  for (const { label } of table) counts.set(label, (counts.get(label) ?? 0) + 1);
  showChips([...counts].sort((a, b) => b[1] - a[1]));
  const words = view.words.toLowerCase();
  const kept = table.filter(
    (row) => (view.label === null || row.label === view.label) && row.text.toLowerCase().includes(words),
  );
  if (view.sort !== "file") {
    const by = view.sort;
    kept.sort((a, b) => (a[by] < b[by] ? -1 : a[by] > b[by] ? 1 : 0) * (view.down ? -1 : 1));
  }
  $("rows").replaceChildren(...kept.slice(0, view.limit).map(tableRow));
  $("more").hidden = kept.length <= view.limit;
  $("more").textContent = `Show more of ${count(kept.length)}`;
  for (const head of document.querySelectorAll("[data-sort]")) {
    const direction = view.down ? "descending" : "ascending";
    head.ariaSort = head.dataset.sort === view.sort ? direction : "none";
  }
}

function tableRow({ text, label, probability }) {
  const sure = sureness(probability);
  const unsure = sure === "leaning" || sure === "undecided";
  return element(
    "tr",
    {},
    element("td", { textContent: text }),
    element("td", { textContent: label }),
    element("td", { className: unsure ? "number unsure" : "number", textContent: percent(probability), title: sure }),
  );
}

function showChips(counts) {
  const all = [null, table.length];
  const focused = document.activeElement?.dataset?.label;
  $("chips").replaceChildren(
    ...[all, ...counts.slice(0, 12)].map(([label, n]) => {
      const chip = element("button", {
        type: "button",
        textContent: `${label ?? "All"} ${count(n)}`,
        ariaPressed: String(view.label === label),
        onclick: () => { Object.assign(view, { label, limit: ROWS_A_TIME }); showTable(); },
      });
      chip.dataset.label = label ?? "";
      return chip;
    }),
  );
  if (focused !== undefined) [...$("chips").children].find((c) => c.dataset.label === focused)?.focus();
}

for (const head of document.querySelectorAll("[data-sort]")) {
  head.firstElementChild.addEventListener("click", () => {
    const by = head.dataset.sort;
    // Least sure first: those are the rows to look at.
    view.down = view.sort === by ? !view.down : false;
    view.sort = by;
    showTable();
  });
}
$("search").addEventListener("input", () => {
  Object.assign(view, { words: $("search").value, limit: ROWS_A_TIME });
  showTable();
});
$("more").addEventListener("click", () => {
  view.limit += ROWS_A_TIME;
  showTable();
});
$("stop").addEventListener("click", () => working?.abort());
$("download").addEventListener("click", () => {
  const address = URL.createObjectURL(new Blob(answer.parts, { type: answer.type }));
  element("a", { href: address, download: answer.name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
});

// ------------------------------------------------------------------ the rest

function showProblem(text) {
  $("problem").hidden = !text;
  $("problem").textContent = text;
}

function sentence(error) {
  const text = error instanceof TypeError ? "the server cannot be reached" : error.message;
  return `${text[0].toUpperCase()}${text.slice(1)}.`;
}

$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  store.set("theme", root.dataset.theme);
});
const theme = store.get("theme");
if (theme) document.documentElement.dataset.theme = theme;

showHistory();
mark([]);
$("clear").hidden = !message.value;
start()
  .then(() => message.value && judge())
  .catch((error) => { $("note").textContent = sentence(error); });
