"use strict";
// Sorting, filtering, the sample browser and the theme. Whatever a run brought along is set as text, never as HTML.

const said = document.getElementById("said");
const say = (text) => { said.textContent = text; };

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// Theme: the system's, until the reader chooses.
const theme = document.getElementById("theme");
const dark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};
function showTheme() {
  theme.textContent = dark() ? "Light" : "Dark";
  theme.setAttribute("aria-label", dark() ? "Use light colours" : "Use dark colours");
}
function remembered(value) {
  try { // a page opened from a file may have no storage
    if (value === undefined) return localStorage.getItem("esft-bench-theme");
    localStorage.setItem("esft-bench-theme", value);
  } catch { /* then the choice lasts as long as the page */ }
  return null;
}
const before = remembered();
if (before === "dark" || before === "light") document.documentElement.dataset.theme = before;
theme.hidden = false;
theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = dark() ? "light" : "dark";
  remembered(document.documentElement.dataset.theme);
  showTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
showTheme();

// Sorting: numbers from the highest, words from A, a third time back to the order of the report.
function key(row, column) {
  const cell = row.cells[column];
  return "sort" in cell.dataset ? Number(cell.dataset.sort) : cell.textContent.trim();
}
function compare(a, b, numeric, sign) {
  const missing = (value) => numeric && typeof value !== "number";
  if (missing(a) || missing(b)) return missing(a) - missing(b); // what has no value stays at the end
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  return sign * String(a).localeCompare(String(b), undefined, { numeric: true });
}
for (const button of document.querySelectorAll("button.sort")) {
  button.addEventListener("click", () => {
    const header = button.closest("th");
    const body = button.closest("table").tBodies[0];
    const rows = [...body.rows];
    rows.forEach((row, place) => { row.dataset.place ??= place; });
    const numeric = "numeric" in button.dataset;
    const order = numeric ? ["none", "descending", "ascending"] : ["none", "ascending", "descending"];
    const next = order[(order.indexOf(header.getAttribute("aria-sort")) + 1) % 3];
    for (const other of header.parentElement.cells) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", next);
    const column = header.cellIndex;
    rows.sort((a, b) => a.dataset.place - b.dataset.place);
    if (next !== "none") rows.sort((a, b) => compare(key(a, column), key(b, column), numeric, next === "ascending" ? 1 : -1));
    body.append(...rows);
    say(next === "none" ? "Order of the report" : `Sorted by ${button.textContent.trim()}, ${next}`);
  });
}

// Filtering rows: all words must occur.
const words = (text) => text.toLowerCase().split(/\s+/).filter(Boolean);
for (const input of document.querySelectorAll("input[data-filter]")) {
  const rows = document.getElementById(input.dataset.filter).tBodies[0].rows;
  const count = input.closest(".tools").querySelector(".count");
  input.addEventListener("input", () => {
    const wanted = words(input.value);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !wanted.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    count.textContent = wanted.length ? `${shown} of ${rows.length} rows` : "";
  });
}

// Samples.
const PAGE = 12;
const EXCERPT = 140;
const bands = {
  zero: (score) => score === 0,
  low: (score) => score !== null && score < 50,
  high: (score) => score !== null && score >= 50,
  full: (score) => score === 100,
  none: (score) => score === null,
};

function startSamples(samples) {
  const form = document.getElementById("sample-filters");
  const list = document.getElementById("sample-list");
  const more = document.getElementById("more");
  const count = document.getElementById("sample-count");
  const kinds = Object.fromEntries([...form.elements.kind.options].map((option) => [option.value, option.textContent]));
  const haystacks = samples.map((sample) =>
    [sample.prompt, sample.wanted, ...sample.answers.flatMap((one) => [one.completion, one.reason])].join("\n").toLowerCase());
  choices(form.elements.benchmark, samples.map((sample) => [sample.benchmark, sample.title]));
  choices(form.elements.method, samples.flatMap((sample) => sample.answers.map((one) => [one.method, one.title])));
  let found = [];
  let shown = 0;

  function choices(select, pairs) {
    for (const [value, title] of new Map(pairs)) select.append(new Option(title, value));
  }
  function matching(sample) {
    const method = form.elements.method.value;
    const band = bands[form.elements.score.value];
    return sample.answers.filter((one) => (!method || one.method === method) && (!band || band(one.score)));
  }
  function filter() {
    const wanted = words(form.elements.text.value);
    const benchmark = form.elements.benchmark.value;
    const kind = form.elements.kind.value;
    found = samples.filter((sample, place) =>
      (!benchmark || sample.benchmark === benchmark) && (!kind || sample.kinds.includes(kind)) &&
      wanted.every((word) => haystacks[place].includes(word)) && matching(sample).length > 0);
    list.replaceChildren();
    shown = 0;
    show();
  }
  function show() {
    const next = found.slice(shown, shown + PAGE);
    list.append(...next.map(item));
    shown += next.length;
    count.textContent = found.length ? `${found.length} of ${samples.length} items` : "No item fits.";
    more.hidden = shown >= found.length;
    more.textContent = `Show ${Math.min(PAGE, found.length - shown)} more`;
    return next.length;
  }
  function item(sample) {
    const details = element("details", "sample");
    const summary = element("summary");
    const flat = sample.prompt.replace(/\s+/g, " ");
    summary.append(element("span", "of", sample.title), element("span", "excerpt", flat.slice(0, EXCERPT)),
      element("span", "why", sample.kinds.map((kind) => kinds[kind]).join(", ")));
    details.append(summary);
    const fill = () => { if (details.children.length === 1) details.append(body(sample)); };
    summary.addEventListener("click", fill); // before it opens, so that nothing jumps
    details.addEventListener("toggle", fill); // opened by print or by a search in the page
    return details;
  }
  function body(sample) {
    const made = element("div", "body");
    made.append(element("h4", "", "Asked"), element("pre", "prompt", sample.prompt));
    if (sample.wanted) made.append(element("h4", "", "Wanted"), element("pre", "wanted", sample.wanted));
    made.append(element("h4", "", sample.judge ? `Answered, scored by ${sample.judge}` : "Answered"), ...matching(sample).map(answer));
    return made;
  }
  function answer(one) {
    const made = element("div", "answer");
    const who = element("div", "who", one.title);
    const band = one.score === 100 ? " full" : one.score === 0 ? " zero" : "";
    who.append(element("span", `score${band}`, one.score === null ? one.state : `score ${one.score}`));
    if (one.run) who.append(element("span", "score", `trained on ${one.run}`));
    made.append(who, one.completion ? element("pre", "", one.completion) : element("p", "empty", "no answer"));
    if (one.reason) made.append(element("p", "reason", one.reason));
    return made;
  }

  form.addEventListener("input", filter);
  form.addEventListener("change", filter); // some browsers tell of a choice only so
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    const place = list.children.length;
    if (show()) list.children[place].querySelector("summary").focus();
  });
  filter();
}
const data = document.getElementById("sample-data");
if (data) startSamples(JSON.parse(data.textContent));

// On paper everything that is folded is open; what was folded is folded again.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details.sample:not([open])")];
  for (const one of folded) one.open = true;
  for (const one of folded) one.dispatchEvent(new Event("toggle"));
});
addEventListener("afterprint", () => { for (const one of folded) one.open = false; });
